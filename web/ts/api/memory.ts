/** Options of a load that fix the memory that it allocates. */

import type { EngineOptions, Precision } from "../wire/protocol.js";
import { anyString, whole, type Checks } from "./options.js";

export interface MemoryOptions {
  /** Longest sequence of prompt and answer, in tokens; 2048 by default. GPU memory grows with it. */
  contextLength?: number;
  /** Format of keys and values on the GPU: `"f32"` (default), or half or a quarter of that memory, which changes answers a little. */
  kv?: "f32" | "f16" | "q8";
  /**
   * Most tokens of a picture, for models that take pictures of any size; 1280 by default. A larger picture is reduced for the model. A token
   * stands for 28×28 pixels, in Qwen3-VL for 32×32. GPU memory grows with it.
   */
  maxPictureTokens?: number;
  /**
   * Rounding that the products of weights may apply where the GPU is faster with it, which the load measures: `"f32"` (default) none, `"f16"`
   * half precision for pictures and prompts where the GPU has `shader-f16`, `"q8"` also activations in 8 bits, for answers too, which takes some
   * more memory. Sums and everything else stay f32. `info.adapter.kernels` names the choice.
   */
  precision?: Precision;
}

/** `kv`, `precision` and the largest values are checked by the runtime. */
export const MEMORY_CHECKS: Checks<MemoryOptions> = {
  contextLength: whole(1),
  kv: anyString,
  maxPictureTokens: whole(1),
  precision: anyString,
};

/** Returns these options for the engine. Absent ones stay absent, so that the engine takes its defaults. */
export function memoryOptions({ contextLength, kv, maxPictureTokens, precision }: MemoryOptions): EngineOptions {
  return {
    ...(contextLength === undefined ? {} : { contextLength }),
    ...(kv === undefined ? {} : { kv }),
    ...(maxPictureTokens === undefined ? {} : { maxPictureTokens }),
    ...(precision === undefined ? {} : { precision }),
  };
}
