/** Constraints on the page's own thread. */

import { serveConstraints } from "./serve.js";

/** Answers the requests of the other end of `port`. */
export async function serveConstraintsOnPageThread(port: MessagePort): Promise<void> {
  serveConstraints(port, await import("../wasm/qwen_vl_web_constrain.js"));
}
