/** The worker where there is no WebGPU: the engine on the processor. */

import { serve, type Scope } from "./worker/serve.js";
import * as edge from "./wasm/qwen_vl_web_cpu.js";

serve(globalThis as unknown as Scope, edge, "cpu");
