/** Worker script: the engine on WebGPU. */

import * as edge from "./wasm/qwen_vl_web.js";
import { serve, type Scope } from "./worker/serve.js";

serve(globalThis as unknown as Scope, edge, "webgpu");
