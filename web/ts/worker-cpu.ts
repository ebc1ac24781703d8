/** Worker script of the CPU fallback: the engine on the processor. */

import * as edge from "./wasm/qwen_vl_web_cpu.js";
import { serve, type Scope } from "./worker/serve.js";

serve(globalThis as unknown as Scope, edge, "cpu");
