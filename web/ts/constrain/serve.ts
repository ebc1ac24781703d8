/**
 * The side of the constraints' worker in its connections: to the page, which opens constraints, and to the model's worker, which asks for the
 * tokens that may come next.
 */

import { errorData, QwenVLError, type ErrorData } from "../wire/errors.js";
import type { AllowedReply, Call, CallKind, Calls, LatestToken, Reply, Request } from "../wire/protocol.js";
import type * as Wasm from "../wasm/qwen_vl_web_constrain.js";

/** The parts of a worker's global scope that are used; a message port has them, too. */
export interface ConstraintScope {
  postMessage(message: Reply): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

type CallOf<K extends CallKind> = Extract<Call, { kind: K }>;

/** Answers the calls of a page that arrive at `scope`. */
export function serveConstraints(scope: ConstraintScope, edge: typeof Wasm): void {
  let constrainer: Wasm.Constrainer | undefined;

  async function result(call: Call): Promise<Calls[CallKind]["result"]> {
    switch (call.kind) {
      case "constrainOpen":
        constrainer = await open(edge, call);
        return undefined;
      case "constrain":
        if (!constrainer) throw new QwenVLError("DISPOSED", "no vocabulary is open");
        answerAt(call.port, constrainer.open(call.form, call.prefix), (error) => scope.postMessage({ kind: "fatal", error }));
        return undefined;
      case "dispose":
        return 0;
      default:
        throw new QwenVLError("INTERNAL", `the worker of constraints does not answer \`${call.kind}\``);
    }
  }

  let queue = Promise.resolve();
  scope.onmessage = ({ data: call }) => {
    if (call.kind === "cancel") return;
    queue = queue.then(async () => {
      try {
        scope.postMessage({ kind: "done", id: call.id, result: await result(call) });
      } catch (error) {
        const data = errorData(error);
        // After a trap the module's memory is in an unknown state.
        scope.postMessage(
          error instanceof WebAssembly.RuntimeError ? { kind: "fatal", error: data } : { kind: "error", id: call.id, error: data },
        );
      }
    });
  };
}

async function open(edge: typeof Wasm, { tokens, wasm }: CallOf<"constrainOpen">): Promise<Wasm.Constrainer> {
  try {
    await (wasm === undefined ? edge.default() : edge.default({ module_or_path: wasm }));
  } catch (cause) {
    throw new QwenVLError("DOWNLOAD", "the wasm file of constraints could not be loaded", { cause });
  }
  return new edge.Constrainer(...tokens);
}

/**
 * Answers the model's worker. The state of the text is freed when the connection ends.
 *
 * @param onTrap called if the module has trapped: its memory is then in an unknown state
 */
function answerAt(port: MessagePort, text: Wasm.Constrained, onTrap: (error: ErrorData) => void): void {
  let isOpen = true;
  const end = () => {
    if (!isOpen) return;
    isOpen = false;
    port.close();
    text.free();
  };
  // Some browsers report that the model's worker has failed.
  port.addEventListener("close", end);
  port.onmessage = ({ data }: MessageEvent<LatestToken | undefined>) => {
    if (!data) return end();
    try {
      const allowed = text.next(data.token) as Uint32Array<ArrayBuffer>;
      port.postMessage({ allowed } satisfies AllowedReply, [allowed.buffer]);
    } catch (thrown) {
      const error = errorData(thrown);
      port.postMessage({ error } satisfies AllowedReply);
      if (thrown instanceof WebAssembly.RuntimeError) onTrap(error);
    }
  };
}
