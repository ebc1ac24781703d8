/** What the page and the worker say to each other. */

import type { ErrorData } from "./errors.js";
import type { ModelInfo } from "./model.js";
import type { Answer, AnswerEvent } from "./types.js";
import type { CachedModel } from "./weights/cache.js";
import type { CacheOperation } from "./weights/maintain.js";
import type { LoadProgress } from "./weights/progress.js";
import type { CacheSpec, SourceSpec } from "./weights/spec.js";

/** Request of the runtime, `crates/runtime/src/session.rs`. */
export interface EngineRequest {
  prompt:
    | { kind: "raw"; text: string }
    | { kind: "chat"; system?: string; history: [string, string][]; query: string }
    | { kind: "ids"; ids: number[] };
  generation: {
    max_new_tokens?: number;
    greedy?: boolean;
    temperature?: number;
    top_p?: number;
    top_k?: number;
    seed?: number;
    ignore_stop?: boolean;
  };
}

/** A picture on its way to the worker. */
export type ImagePayload =
  | { kind: "encoded"; bytes: Uint8Array<ArrayBuffer>; upright: boolean }
  | { kind: "rgba"; width: number; height: number; pixels: Uint8Array<ArrayBuffer> };

/** Choices of the wasm edge, `LoadOptions` in `src/lib.rs`. */
export interface EngineOptions {
  contextLength?: number;
  forceFallbackAdapter?: boolean;
  lowPower?: boolean;
}

/** Everything that a load needs to know. */
export interface LoadParams {
  source: SourceSpec;
  cache: CacheSpec;
  concurrency: number;
  whenBusy: "wait" | "fail";
  wasmUrl?: string;
  options: EngineOptions;
}

/** What can be asked of the worker: what goes in, what is told meanwhile, what comes out. */
export interface Calls {
  load: { params: LoadParams; note: LoadProgress; result: ModelInfo };
  cache: { params: { operation: CacheOperation; cache: CacheSpec; wasmUrl?: string }; note: LoadProgress; result: CachedModel[] };
  ask: { params: { request: EngineRequest; images: ImagePayload[] }; note: AnswerEvent; result: Answer };
  logits: { params: object; note: never; result: Float32Array };
  dispose: { params: object; note: never; result: undefined };
}

export type Call = keyof Calls;

export type Request = { [K in Call]: { kind: K; id: number } & Calls[K]["params"] }[Call] | { kind: "cancel"; id: number };

export type Reply =
  | { kind: "note"; id: number; note: Calls[Call]["note"] }
  | { kind: "done"; id: number; result: Calls[Call]["result"] }
  | { kind: "error"; id: number; error: ErrorData }
  /** The worker can not go on. */
  | { kind: "fatal"; error: ErrorData };
