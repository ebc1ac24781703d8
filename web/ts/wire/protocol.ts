/** What the page and the worker say to each other. */

import type { ErrorData } from "./errors.js";
import type { ModelInfo } from "../api/model.js";
import type { EngineScore } from "./engine.js";
import type { Answer, AnswerEvent } from "./types.js";
import type { CachedModel } from "../weights/cache.js";
import type { CacheOperation } from "../weights/maintain.js";
import type { LoadProgress } from "../weights/progress.js";
import type { CacheSpec, SourceSpec } from "../weights/spec.js";

/** Request of the runtime, `crates/runtime/src/session.rs`. */
export interface EngineRequest {
  prompt:
    | { kind: "raw"; text: string }
    | { kind: "chat"; system?: string; history: [string, string][]; query: string; overflow: "error" | "drop-oldest" }
    | { kind: "ids"; ids: number[] };
  generation: {
    max_new_tokens?: number;
    greedy?: boolean;
    temperature?: number;
    top_p?: number;
    top_k?: number;
    seed?: number;
    ignore_stop?: boolean;
    min_new_tokens?: number;
    repetition_penalty?: number;
    stop?: string[];
    stop_tokens?: number[];
    logprobs?: number;
    kv_reuse?: "exact" | "fast";
  };
}

/** What a benchmark measures, `crates/runtime/src/benchmark.rs`. */
export interface EngineBenchmark {
  contexts?: number[];
  prompts?: number[];
  decode_tokens?: number;
  runs?: number;
  picture?: boolean;
}

/** Its result. */
export interface EngineBenchmarkReport {
  encode_ms: number;
  picture_parts: { block_ms: number; resampler_ms: number } | null;
  prefill: { tokens: number; millis: number; tokens_per_second: number }[];
  decode: { context: number; tokens_per_second: number; bytes_per_token: number }[];
  dispatches_per_token: number;
  limits: { copy_gigabytes_per_second: number; microseconds_per_dispatch: number; upload_gigabytes_per_second: number } | null;
}

/** A picture as the engine knows it. */
export interface PictureInfo {
  /** Hash of its pixels. */
  id: string;
  width: number;
  height: number;
}

/** A picture on its way to the worker. */
export type ImagePayload =
  | { kind: "encoded"; bytes: Uint8Array<ArrayBuffer>; upright: boolean }
  | { kind: "rgba"; width: number; height: number; pixels: Uint8Array<ArrayBuffer> }
  | { kind: "bitmap"; bitmap: ImageBitmap }
  /** One that the engine should still know. */
  | { kind: "kept"; id: string };

/** What an answer needs beside itself. */
export interface AnswerReply {
  answer: Answer;
  /** The pictures of the prompt: the latest ones of those that were given, if turns were left out. */
  pictures: PictureInfo[];
}

/** What products are computed in, see `LoadOptions.precision`. */
export type Precision = "f32" | "f16" | "q8";

/** Sets of kernels, `Kernels` of `crates/kernels`. */
export type KernelSet = "plain" | "cpu" | "subgroups" | "f16" | "packed";

/** Choices of the wasm edge, `LoadOptions` in `src/lib.rs`. */
export interface EngineOptions {
  contextLength?: number;
  forceFallbackAdapter?: boolean;
  lowPower?: boolean;
  kv?: "f32" | "f16" | "q8";
  precision?: Precision;
  /** Rather than the fastest. */
  kernels?: KernelSet;
}

/** Steps done, of all. */
export interface Steps {
  done: number;
  total: number;
}

/** Everything that a load needs to know. */
export interface LoadParams {
  source: SourceSpec;
  cache: CacheSpec;
  concurrency: number;
  whenBusy: "wait" | "fail";
  wasmUrl?: string;
  options: EngineOptions;
  /** Whether the kernels are checked on the GPU before the model counts as loaded. */
  selfCheck: boolean;
  keptImages?: number;
}

/** What can be asked of the worker: what goes in, what is told meanwhile, what comes out. */
export interface Calls {
  load: { params: LoadParams; note: LoadProgress; result: ModelInfo };
  cache: { params: { operation: CacheOperation; cache: CacheSpec; wasmUrl?: string }; note: LoadProgress; result: CachedModel[] };
  /** `"missing"`: a picture is not kept any more, and must come whole. */
  ask: { params: { request: EngineRequest; images: ImagePayload[] }; note: AnswerEvent; result: AnswerReply | "missing" };
  score: {
    params: { prompt: EngineRequest["prompt"]; candidates: string[]; images: ImagePayload[] };
    note: never;
    result: EngineScore[] | "missing";
  };
  encode: { params: { image: ImagePayload; hold: boolean }; note: never; result: PictureInfo | "missing" };
  release: { params: { image: string }; note: never; result: undefined };
  count: { params: { prompt: EngineRequest["prompt"] }; note: never; result: number };
  benchmark: { params: { options: EngineBenchmark }; note: Steps; result: EngineBenchmarkReport };
  logits: { params: object; note: never; result: Float32Array };
  /** Bytes of GPU buffers that are left by our own accounting. */
  dispose: { params: object; note: never; result: number };
}

export type Call = keyof Calls;

export type Request = { [K in Call]: { kind: K; id: number } & Calls[K]["params"] }[Call] | { kind: "cancel"; id: number };

export type Reply =
  | { kind: "note"; id: number; note: Calls[Call]["note"] }
  | { kind: "done"; id: number; result: Calls[Call]["result"] }
  | { kind: "error"; id: number; error: ErrorData }
  /** The GPU device is gone: nothing but a new worker helps. */
  | { kind: "lost"; error: ErrorData }
  /** The worker can not go on. */
  | { kind: "fatal"; error: ErrorData };
