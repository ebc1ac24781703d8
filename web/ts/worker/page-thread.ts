/** The engine on the page's own thread. */

import type { Backend } from "../wire/client.js";
import { serve } from "./serve.js";

/** Serves the other end of a port; what is returned ends that. */
export async function serveHere(port: MessagePort, backend: Backend): Promise<() => void> {
  const edge = backend === "cpu" ? await import("../wasm/qwen_vl_web_cpu.js") : await import("../wasm/qwen_vl_web.js");
  return serve(port, edge, backend);
}
