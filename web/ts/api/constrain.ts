/** The page's side of constraints: the worker that computes which tokens an answer may have. */

import { WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { Form } from "../wire/generated.js";
import type { TokenTable } from "../wire/protocol.js";
import type { Constraint } from "../wire/types.js";
import { absolute } from "../weights/spec.js";
import { startConstrainer, type FileLocations } from "./workers.js";

/** A constraint that is compiled. */
export interface OpenConstraint {
  /** The connection for the model's worker. */
  port: MessagePort;
  /** Rejects if the worker of constraints fails. */
  lost: Promise<never>;
}

/** Compiles constraints. Its worker starts with the first one. */
export class Constrainer {
  readonly #locations: FileLocations;
  readonly #onPageThread: boolean;
  #worker: Promise<{ client: WorkerClient; lost: Promise<never> }> | undefined;

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
    this.#worker ??= this.#start(tokens);
    const { client, lost } = await this.#worker;
    const { port1, port2 } = new MessageChannel();
    await client.call("constrain", { form, prefix, port: port1 }, { transfer: [port1] }).result;
    return { port: port2, lost };
  }

  /** Ends the worker. */
  end(reason: QwenVLError): void {
    void this.#worker?.then(({ client }) => client.end(reason)).catch(() => undefined);
    this.#worker = undefined;
  }

  async #start(tokens: () => Promise<TokenTable>): Promise<{ client: WorkerClient; lost: Promise<never> }> {
    let client: WorkerClient | undefined;
    try {
      client = await startConstrainer(this.#locations, this.#onPageThread);
      const { onLost, lost } = loss(() => (this.#worker = undefined));
      client.onLost = onLost;
      const { constrainWasmUrl } = this.#locations;
      const wasm = constrainWasmUrl ? { wasm: absolute(constrainWasmUrl).href } : {};
      await client.call("constrainOpen", { tokens: await tokens(), ...wasm }).result;
      return { client, lost };
    } catch (error) {
      // The next answer tries again.
      this.#worker = undefined;
      client?.end(new QwenVLError("DISPOSED", "the worker of constraints has failed"));
      throw error;
    }
  }
}

function loss(forget: () => void): { onLost: (reason: QwenVLError) => void; lost: Promise<never> } {
  let onLost!: (reason: QwenVLError) => void;
  const lost = new Promise<never>((_, reject) => {
    onLost = (reason) => {
      forget();
      reject(reason);
    };
  });
  // Only answers in progress report it.
  lost.catch(() => undefined);
  return { onLost, lost };
}

/** Returns a constraint as the worker reads it. */
function formOf(constraint: Constraint): Form {
  if ("lark" in constraint) return { lark: constraint.lark };
  if ("regex" in constraint) {
    const { regex } = constraint;
    return { regex: typeof regex === "string" ? { pattern: regex, flags: "" } : { pattern: regex.source, flags: regex.flags } };
  }
  try {
    return { json_schema: JSON.stringify(constraint.jsonSchema) };
  } catch (cause) {
    throw new QwenVLError("INVALID_ARGUMENT", `\`constraint.jsonSchema\` cannot be written as JSON: ${String(cause)}`, { cause });
  }
}
