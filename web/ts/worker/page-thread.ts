/** The engine on the page's own thread. */

import type { Backend } from "../wire/protocol.js";
import { serve } from "./serve.js";

/** Answers the requests of the other end of `port`. Returns a function that ends the service and frees the model. */
export async function serveOnPageThread(port: MessagePort, backend: Backend): Promise<() => void> {
  const edge = backend === "cpu" ? await import("../wasm/qwen_vl_web_cpu.js") : await import("../wasm/qwen_vl_web.js");
  return serve(port, edge, backend);
}
