/** Worker script of constraints. */

import * as edge from "./wasm/qwen_vl_web_constrain.js";
import { serveConstraints, type ConstraintScope } from "./constrain/serve.js";

serveConstraints(globalThis as unknown as ConstraintScope, edge);
