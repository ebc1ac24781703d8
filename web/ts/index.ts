/**
 * Qwen-VL in the browser. Importing this does nothing; {@link QwenVL.load} starts a worker and loads a model into it.
 *
 * @packageDocumentation
 */

export { drawBoxes, type DrawStyle } from "./draw.js";
export type { CacheOptions, StorageEstimate } from "./cache.js";
export type { CheckOptions, CheckReason, CheckReport } from "./check.js";
export { QwenVLError, type ErrorCode } from "./errors.js";
export { parse } from "./grounding.js";
export type { ImageInput, ImageSize } from "./image.js";
export { QwenVL, QwenVLModel, type LoadOptions, type ModelInfo } from "./model.js";
export { Run } from "./run.js";
export { Session, type Content, type Part, type SessionOptions, type Turn } from "./session.js";
export type { Answer, AnswerEvent, AskOptions, Box, FinishReason, Grounded, Quad, Timings, Usage } from "./types.js";
export type { CacheBackend, CacheFile, StoredFile } from "./weights/backend.js";
export type { CachedModel } from "./weights/cache.js";
export type { LoadPhase, LoadProgress } from "./weights/progress.js";
export type { CacheChoice, ModelSource, SourceOptions } from "./weights/spec.js";
