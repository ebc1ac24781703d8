/**
 * Qwen-VL in the browser. Importing this module has no effect. {@link QwenVL.load} starts a worker and loads a model into it.
 *
 * @packageDocumentation
 */

export { BenchmarkReport, type BenchmarkOptions } from "./api/benchmark.js";
export type { CacheOptions, StorageEstimate } from "./api/cache.js";
export type { CheckOptions, CheckReason, CheckReport } from "./api/check.js";
export { promptText, type Content, type Message, type Part } from "./api/content.js";
export type { ConvertProgress } from "./api/conversion.js";
export type { CheckpointPlan, ConvertedModel, ConvertOptions, ConvertSettings, PlanOptions, Scheme } from "./api/convert.js";
export { drawBoxes, type DrawStyle } from "./api/draw.js";
export { parse } from "./api/grounding.js";
export type { ImageColors, ImageOptions, ImageOrientation, ImageSize, ImageSource } from "./api/image.js";
export { sampleFrames, type TimedImage, type VideoInput, type VideoSource } from "./api/video.js";
export type { LoadOptions } from "./api/load.js";
export type { MemoryOptions } from "./api/memory.js";
export {
  LostEvent,
  QwenVLModel,
  type EncodeOptions,
  type GroundOptions,
  type ModelEventMap,
  type RawPrompt,
  type ScoreOptions,
  type TaskOptions,
} from "./api/model.js";
export { ImageRef, type ImageInput } from "./api/picture.js";
export { QwenVL, type Loading } from "./api/qwen-vl.js";
export { Run } from "./api/run.js";
export { Session, type ContextOverflow, type SessionOptions } from "./api/session.js";
export { captionText, groundText, readText, type CaptionStyle } from "./api/tasks.js";
export type { FileLocations } from "./api/workers.js";
export type { CacheFile, CacheStore, StoredFile } from "./weights/store.js";
export type { CachedModel, ConversionRecord, UnfinishedConversion } from "./weights/cache.js";
export type { Fetch } from "./weights/download.js";
export { droppedFiles } from "./weights/dropped.js";
export type { LoadPhase, LoadProgress } from "./weights/progress.js";
export type { CacheChoice, ConvertSource, HubOptions, ManifestSource, ModelSource, SourceOptions } from "./weights/spec.js";
export { QwenVLError, type ErrorCode, type ErrorData } from "./wire/errors.js";
export type { Adapter, Backend, Family, KernelChoice, KernelTrial, ModelInfo, Precision, Steps } from "./wire/protocol.js";
export type {
  Answer,
  AnswerEvent,
  AnswerLogprob,
  AskOptions,
  Box,
  Constraint,
  FinishReason,
  GenerationOptions,
  Grounded,
  PictureLimits,
  Point,
  Quad,
  Score,
  Timings,
  TokenLogprob,
  Usage,
  VideoOptions,
} from "./wire/types.js";
