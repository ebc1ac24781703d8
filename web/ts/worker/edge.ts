import type * as Gpu from "../wasm/qwen_vl_web.js";

/** The wasm edge: `web` for WebGPU, `web/cpu` for the CPU fallback. */
export type Edge = Omit<typeof Gpu, "default" | "initSync"> & { default(options?: { module_or_path: string }): Promise<unknown> };
