/** The page's side of constraints: the worker that computes which tokens an answer may have. Pages fetch this script with the first constraint. */

import { WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { Form } from "../wire/generated.js";
import type { TokenTable } from "../wire/protocol.js";
import type { Constraint } from "../wire/types.js";
import { absolute } from "../weights/spec.js";
import { clientOf, type FileLocations } from "./workers.js";

/** A constraint that is compiled for one answer. */
export interface OpenConstraint {
  /** The connection for the model's worker. */
  readonly port: MessagePort;
  /** Calls back if the worker of constraints fails. Returns a function that ends this. */
  onLost(listener: (reason: QwenVLError) => void): () => void;
}

/** Compiles constraints. Its worker starts with the first one. */
export class Constrainer {
  readonly #locations: FileLocations;
  readonly #onPageThread: boolean;
  #worker: ConstraintWorker | undefined;

  constructor(locations: FileLocations, onPageThread: boolean) {
    this.#locations = locations;
    this.#onPageThread = onPageThread;
  }

  /**
   * Compiles a constraint for one answer.
   *
   * @param prefix beginning of the answer
   * @param tokens returns the model's vocabulary
   */
  async open(constraint: Constraint, prefix: string, tokens: () => Promise<TokenTable>): Promise<OpenConstraint> {
    const form = formOf(constraint);
    const worker = (this.#worker ??= new ConstraintWorker(this.#locations, this.#onPageThread, tokens, () => {
      // The next answer tries again.
      if (this.#worker === worker) this.#worker = undefined;
    }));
    const client = await worker.ready;
    const { port1, port2 } = new MessageChannel();
    await client.call("constrain", { form, prefix, port: port1 }, { transfer: [port1] }).result;
    const { listeners } = worker;
    const onLost = (listener: (reason: QwenVLError) => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    };
    return { port: port2, onLost };
  }

  /** Ends the worker. */
  end(reason: QwenVLError): void {
    this.#worker?.end(reason);
    this.#worker = undefined;
  }
}

/** A worker of constraints, from its start to its end. */
class ConstraintWorker {
  /** Resolves when the worker has the vocabulary. */
  readonly ready: Promise<WorkerClient>;
  /** Called when the worker fails. */
  readonly listeners = new Set<(reason: QwenVLError) => void>();
  readonly #forget: () => void;
  #client: WorkerClient | undefined;
  #ended: QwenVLError | undefined;

  constructor(locations: FileLocations, onPageThread: boolean, tokens: () => Promise<TokenTable>, forget: () => void) {
    this.#forget = forget;
    this.ready = this.#start(locations, onPageThread, tokens);
    this.ready.catch(forget);
  }

  end(reason: QwenVLError): void {
    this.#ended = reason;
    this.#client?.end(reason);
  }

  async #start(locations: FileLocations, onPageThread: boolean, tokens: () => Promise<TokenTable>): Promise<WorkerClient> {
    const client = (this.#client = await startConstrainer(locations, onPageThread));
    try {
      if (this.#ended) throw this.#ended;
      client.onLost = (reason) => {
        this.#forget();
        for (const listener of this.listeners) listener(reason);
      };
      const { constrainWasmUrl } = locations;
      const wasm = constrainWasmUrl ? { wasm: absolute(constrainWasmUrl).href } : {};
      await client.call("constrainOpen", { tokens: await tokens(), ...wasm }).result;
      return client;
    } catch (error) {
      client.end(new QwenVLError("DISPOSED", "the worker of constraints has failed"));
      throw error;
    }
  }
}

/** Starts the worker of constraints, or serves them on the page's own thread. */
async function startConstrainer({ constrainWorkerUrl }: FileLocations, onPageThread: boolean): Promise<WorkerClient> {
  if (onPageThread) {
    const { port1, port2 } = new MessageChannel();
    // oxlint-disable-next-line no-restricted-imports -- as in `startOnPageThread` of workers.ts
    const { serveConstraintsOnPageThread } = await import("../constrain/page-thread.js");
    await serveConstraintsOnPageThread(port2);
    return clientOf(port1, () => undefined);
  }
  if (constrainWorkerUrl) return new WorkerClient(new Worker(constrainWorkerUrl, { type: "module" }));
  return new WorkerClient(new Worker(new URL("../worker-constrain.js", import.meta.url), { type: "module" }));
}

/** Returns a constraint as the worker reads it. */
function formOf(constraint: Constraint): Form {
  const { jsonSchema, regex, lark } = constraint as { jsonSchema?: object | boolean; regex?: string | RegExp; lark?: string };
  if (lark !== undefined) return { lark };
  if (regex !== undefined) {
    return { regex: typeof regex === "string" ? { pattern: regex, flags: "" } : { pattern: regex.source, flags: regex.flags } };
  }
  const refused = (reason: string, cause?: unknown) =>
    new QwenVLError("INVALID_ARGUMENT", `\`constraint.jsonSchema\` cannot be written as JSON${reason}`, { cause });
  let json: string | undefined;
  try {
    json = JSON.stringify(jsonSchema);
  } catch (cause) {
    throw refused(`: ${String(cause)}`, cause);
  }
  if (json === undefined) throw refused("");
  return { json_schema: json };
}
