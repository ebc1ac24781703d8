/** Messages between the page and the worker. */

import type {
  EngineBenchmark,
  EngineBenchmarkReport,
  EngineLimits,
  EngineOptions,
  EngineRequest,
  EngineScore,
  EngineVideoOptions,
  PictureInfo,
  PromptInput,
  VideoFacts,
  VideoPlan,
} from "./engine.js";
import type { Adapter, Family, KernelChoice, KernelTrial, Steps } from "./generated.js";
import type { ErrorData } from "./errors.js";
import type { ConversionPlan, ConversionRequest, Estimate, Form } from "./generated.js";
import type { Answer, AnswerEvent } from "./types.js";
import type { Inspection } from "../weights/inspect.js";
import type { CacheContents, CacheOperation } from "../weights/maintain.js";
import type { LoadProgress } from "../weights/progress.js";
import type { FileEntry } from "../weights/manifest.js";
import type { Listing } from "../weights/ranges.js";
import type { CacheSpec, RangeSpec, SourceSpec } from "../weights/spec.js";

/** Implementation that computes a model: WebGPU, or the processor. */
export type Backend = "webgpu" | "cpu";

// Written out, because the API reference has no generated types. A load assigns it to the generated `EngineOptions["precision"]`, where the
// compiler compares the two.
/** Rounding of products, see `LoadOptions.precision`. */
export type Precision = "f32" | "f16" | "q8";

/** A kernel set of `crates/kernels`. */
export type KernelSet = NonNullable<EngineOptions["kernels"]>;

/** Facts about a loaded model. */
export interface ModelInfo {
  /** Name of the checkpoint that was converted. */
  source: string;
  /** Changes that the conversion made to the weights. */
  modifications: string;
  /** Licence, notices and model card of the weights: names of files in the model's folder. */
  notices: string[];
  /** Backend that computes the model. */
  backend: Backend;
  /** Generation of the model. */
  family: Family;
  /** `chatml` for chat models, `raw` for base models. */
  chatFormat: string;
  /** Longest sequence of prompt and answer, in tokens. */
  contextLength: number;
  /**
   * Fewest and most tokens of a picture, see `LoadOptions.maxPictureTokens`. They are equal where all pictures have one size, as in the 2023
   * model.
   */
  pictureTokens: { min: number; max: number };
  /** Bytes of all shards and the vocabulary. */
  downloadBytes: number;
  /** Bytes of all GPU buffers after loading; without a GPU, of the weights in memory. */
  gpuBytes: number;
  /**
   * Description of the adapter. `adapter.kernels` names the kernel variants that were chosen for it, and is empty without a GPU;
   * `adapter.kernelChoice` says how they were chosen.
   */
  adapter: Adapter;
}

/** A picture on its way to the worker. `original`: colours as in the original, see `ImageOptions.imageColors`. */
export type ImagePayload =
  | { kind: "encoded"; bytes: Uint8Array<ArrayBuffer>; upright: boolean; original: boolean }
  | { kind: "rgba"; width: number; height: number; pixels: Uint8Array<ArrayBuffer>; original: boolean }
  | { kind: "bitmap"; bitmap: ImageBitmap; original: boolean }
  /** Frames in the size that the engine planned, three bytes a pixel, one after the other. `times` are in seconds. */
  | { kind: "video"; width: number; height: number; rgb: Uint8Array<ArrayBuffer>; times: Float64Array; fps?: number }
  /** A picture or a video that the engine has kept. */
  | { kind: "kept"; id: string };

/** A picture with its pixels. */
export type FramePayload = Exclude<ImagePayload, { kind: "kept" | "video" }>;

/** A decoded frame. */
export interface FrameReply {
  /** Width and height before the frame was stretched. */
  width: number;
  height: number;
  /** Three bytes a pixel. */
  rgb: Uint8Array<ArrayBuffer>;
}

/** Result of a run. */
export interface AnswerReply {
  answer: Answer;
  /** Pictures of the prompt. If turns were left out, these are the last of the pictures that were sent. */
  pictures: PictureInfo[];
}

export type { Adapter, EngineOptions, Family, KernelChoice, KernelTrial, Steps };

/** Settings of a conversion. */
export type ConversionSettings = Omit<ConversionRequest, "name" | "place" | "files">;

/** Bytes of a checkpoint from an offset on. */
export interface Supply {
  /** Index into the list of files. */
  file: number;
  start: number;
  bytes: Uint8Array<ArrayBuffer>;
}

/** Input of a load. */
export interface LoadParams {
  source: SourceSpec;
  cache: CacheSpec;
  concurrency: number;
  whenBusy: "wait" | "fail";
  wasmUrl?: string;
  options: EngineOptions;
  /** True if the kernels are checked on the GPU before the load completes. */
  selfCheck: boolean;
  keptImages?: number;
}

/** Parameters of `convertOpen`. */
export interface ConvertOpenParams {
  source: RangeSpec;
  settings: ConversionSettings;
  listing?: Listing;
  supplies: Supply[];
  /** Absent if nothing will be written. */
  output?: OutputSpec;
  wasm?: string | Uint8Array<ArrayBuffer>;
}

/** An open checkpoint. */
export interface ConvertOpened {
  plan: ConversionPlan;
  listing: Listing;
  /** The bytes that were read, for other workers. */
  supplies: Supply[];
}

/** Progress of a conversion since the last event. */
export interface ConvertStep {
  /** Bytes of the source that arrived. */
  read: number;
  /** Bytes of the result that were written. */
  written: number;
  /** Requests that failed and were repeated. */
  retries: number;
}

/** A shard that a conversion has made: its manifest entry, and what the converter measured, which only it reads. */
export interface FinishedShard extends FileEntry {
  errors: unknown;
}

/** The output of a conversion, in a form that the page can post. */
export type OutputSpec =
  /** The weight cache, where a load finds the model at `url`. */
  | { kind: "cache"; cache: CacheSpec; url: string }
  | { kind: "directory"; folder: FileSystemDirectoryHandle }
  /** A store that receives the files of a folder. */
  | { kind: "store"; cache: CacheSpec }
  /** A folder on the disk, in Node. */
  | { kind: "path"; folder: string };

/**
 * A vocabulary: the bytes of all tokens, the index after the last byte of each, the ids of those that are not part of a text, and the ids of
 * those that end it.
 */
export type TokenTable = [Uint8Array<ArrayBuffer>, Uint32Array<ArrayBuffer>, Uint32Array<ArrayBuffer>, Uint32Array<ArrayBuffer>];

/** The latest token of an answer; none before the first. */
export interface LatestToken {
  token?: number;
}

/** The tokens that may come next, a bit each. */
export type AllowedReply = { allowed: Uint32Array<ArrayBuffer>; error?: undefined } | { allowed?: undefined; error: ErrorData };

/** Kinds of calls that the worker answers: parameters, events while a call is pending, and result. */
export interface Calls {
  load: { params: LoadParams; event: LoadProgress; result: ModelInfo };
  /** Reads facts about a model, without fetching its weights. */
  inspect: {
    params: { source: SourceSpec; cache: CacheSpec; options: EngineOptions; wasmUrl?: string };
    event: never;
    result: Inspection<Estimate>;
  };
  cache: { params: { operation: CacheOperation; cache: CacheSpec; wasmUrl?: string }; event: LoadProgress; result: CacheContents };
  /** The result `"missing"` means that a picture is no longer kept and must be sent whole. */
  ask: {
    params: { request: EngineRequest; images: ImagePayload[]; constraint?: MessagePort };
    event: AnswerEvent;
    result: AnswerReply | "missing";
  };
  score: {
    params: { prompt: PromptInput; candidates: string[]; images: ImagePayload[]; limits: EngineLimits };
    event: never;
    result: EngineScore[] | "missing";
  };
  encode: { params: { image: ImagePayload; limits: EngineLimits; hold: boolean }; event: never; result: PictureInfo | "missing" };
  /** Chooses the frames of a video and their size. */
  planVideo: { params: { source: VideoFacts; options: EngineVideoOptions }; event: never; result: VideoPlan };
  /** Decodes a frame of a video and stretches it to `size`, width and height. */
  frame: { params: { image: FramePayload; size?: [number, number] }; event: never; result: FrameReply };
  release: { params: { image: string }; event: never; result: undefined };
  count: { params: { prompt: PromptInput; images: ImagePayload[]; limits: EngineLimits }; event: never; result: number | "missing" };
  benchmark: { params: { options: EngineBenchmark }; event: Steps; result: EngineBenchmarkReport };
  logits: { params: object; event: never; result: Float32Array };
  /** Returns the vocabulary for the worker of constraints. */
  tokens: { params: object; event: never; result: TokenTable };
  /** Takes the vocabulary. Answered by the worker of constraints. */
  constrainOpen: { params: { tokens: TokenTable; wasm?: string }; event: never; result: undefined };
  /** Compiles a form for one answer that begins with `prefix`. `port` then answers a {@link LatestToken} with an {@link AllowedReply}; `undefined` ends it. */
  constrain: { params: { form: Form; prefix: string; port: MessagePort }; event: never; result: undefined };
  /** Opens a checkpoint in the published layout. `supplies` are bytes of it that another worker has read. */
  convertOpen: { params: ConvertOpenParams; event: ConvertStep; result: ConvertOpened };
  /** Returns the shards that an earlier run has finished, by index. */
  convertFinished: { params: object; event: never; result: Map<number, FinishedShard> };
  /** Passes the shards on to a load, while they are made, and these of the other files now: see `PipedSource`. */
  convertPipe: { params: { port: MessagePort; files: string[] }; event: never; result: undefined };
  /** Makes a shard of the open checkpoint, or passes one on that an earlier run has `finished`. */
  convertShard: { params: { index: number; finished?: FinishedShard }; event: ConvertStep; result: FinishedShard };
  /** Writes the other files of the open checkpoint. The result is the manifest. */
  convertFinish: { params: { shards: FinishedShard[] }; event: never; result: string };
  /** Deletes what a conversion has written. */
  convertDiscard: { params: object; event: never; result: undefined };
  /** Frees the model. The result is the number of bytes of GPU buffers that are left, by our own accounting. */
  dispose: { params: object; event: never; result: number };
}

export type CallKind = keyof Calls;

/** A call as it is posted. */
export type Call = { [K in CallKind]: { kind: K; id: number } & Calls[K]["params"] }[CallKind];

/** A message from the page to the worker. */
export type Request = Call | { kind: "cancel"; id: number };

/** A message from the worker to the page. */
export type Reply =
  | { kind: "event"; id: number; event: Calls[CallKind]["event"] }
  | { kind: "done"; id: number; result: Calls[CallKind]["result"] }
  | { kind: "error"; id: number; error: ErrorData }
  /** The GPU device is lost. The model must be loaded into a new worker. */
  | { kind: "lost"; error: ErrorData }
  /** The worker failed and answers no more calls. */
  | { kind: "fatal"; error: ErrorData };
