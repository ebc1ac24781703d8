/**
 * Qwen-VL in the browser. Importing this does nothing; {@link QwenVL.load} starts a worker and loads a model into it.
 *
 * @packageDocumentation
 */

export { BenchmarkReport, type BenchmarkOptions } from "./benchmark.js";
export type { CacheOptions, StorageEstimate } from "./cache.js";
export type { CheckOptions, CheckReason, CheckReport } from "./check.js";
export type { Backend, FileLocations } from "./client.js";
export { promptText, type Content, type Message, type Part } from "./content.js";
export { drawBoxes, type DrawStyle } from "./draw.js";
export { QwenVLError, type ErrorCode, type ErrorData } from "./errors.js";
export { parse } from "./grounding.js";
export { sampleFrames, type ImageOrientation, type ImageSize, type ImageSource, type VideoSource } from "./image.js";
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
} from "./model.js";
export { ImageRef, type ImageInput } from "./picture.js";
export type { Precision, Steps } from "./protocol.js";
export { Run } from "./run.js";
export { Session, type ContextOverflow, type SessionOptions } from "./session.js";
export type { CaptionStyle } from "./tasks.js";
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
} from "./types.js";
export type { CacheBackend, CacheFile, StoredFile } from "./weights/backend.js";
export type { CachedModel } from "./weights/cache.js";
export type { Fetch } from "./weights/download.js";
export type { LoadPhase, LoadProgress } from "./weights/progress.js";
export { droppedFiles } from "./weights/dropped.js";
export type { CacheChoice, ManifestSource, ModelSource, SourceOptions } from "./weights/spec.js";
