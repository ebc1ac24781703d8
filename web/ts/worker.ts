/** The worker: the engine on the GPU. */

import { serve, type Scope } from "./worker/serve.js";
import * as edge from "./wasm/qwen_vl_web.js";

serve(globalThis as unknown as Scope, edge, "webgpu");
