/**
 * Qwen-VL in the browser. Importing this does nothing; {@link QwenVL.load} starts a worker and loads a model into it.
 *
 * @packageDocumentation
 */

export { BenchmarkReport, type BenchmarkOptions } from "./api/benchmark.js";
export type { CacheOptions, StorageEstimate } from "./api/cache.js";
export type { CheckOptions, CheckReason, CheckReport } from "./api/check.js";
export type { Backend, FileLocations } from "./wire/client.js";
export { promptText, type Content, type Message, type Part } from "./api/content.js";
export { drawBoxes, type DrawStyle } from "./api/draw.js";
export { QwenVLError, type ErrorCode, type ErrorData } from "./wire/errors.js";
export { parse } from "./api/grounding.js";
export { sampleFrames, type ImageOrientation, type ImageSize, type ImageSource, type VideoSource } from "./api/image.js";
export {
  LostEvent,
  QwenVL,
  QwenVLModel,
  type EncodeOptions,
  type Loading,
  type LoadOptions,
  type ModelEventMap,
  type ModelInfo,
  type RawPrompt,
  type ScoreOptions,
  type TaskOptions,
} from "./api/model.js";
export { ImageRef, type ImageInput } from "./api/picture.js";
export type { Precision, Steps } from "./wire/protocol.js";
export { Run } from "./api/run.js";
export { Session, type ContextOverflow, type SessionOptions } from "./api/session.js";
export type { CaptionStyle } from "./api/tasks.js";
export type {
  Answer,
  AnswerEvent,
  AnswerLogprob,
  AskOptions,
  Box,
  FinishReason,
  GenerationOptions,
  Grounded,
  Quad,
  Score,
  Timings,
  TokenLogprob,
  Usage,
} from "./wire/types.js";
export type { CacheFile, CacheStore, StoredFile } from "./weights/store.js";
export type { CachedModel } from "./weights/cache.js";
export type { Fetch } from "./weights/download.js";
export type { LoadPhase, LoadProgress } from "./weights/progress.js";
export { droppedFiles } from "./weights/dropped.js";
export type { CacheChoice, ManifestSource, ModelSource, SourceOptions } from "./weights/spec.js";
