/** Worker script of the converter. */

import * as edge from "./wasm/qwen_vl_web_convert.js";
import { serveConverter, type ConverterScope } from "./convert/serve.js";
import type { ConverterEdge } from "./convert/converter.js";

serveConverter(globalThis as unknown as ConverterScope, edge as unknown as ConverterEdge);
