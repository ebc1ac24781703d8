/** Data of the engine (`crates/runtime/src/session`), and its translation into the package's types. */

import type { Answer, AnswerEvent, AnswerLogprob, FinishReason, GenerationOptions, Grounded } from "./types.js";

/** Input of a run. */
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

/** Options of a benchmark, `crates/runtime/src/benchmark.rs`. */
export interface EngineBenchmark {
  contexts?: number[];
  prompts?: number[];
  decode_tokens?: number;
  runs?: number;
  picture?: boolean;
}

/** Result of a benchmark. */
export interface EngineBenchmarkReport {
  encode_ms: number;
  picture_parts: { block_ms: number; resampler_ms: number } | null;
  prefill: { tokens: number; millis: number; tokens_per_second: number }[];
  decode: { context: number; tokens_per_second: number; bytes_per_token: number }[];
  dispatches_per_token: number;
  limits: { copy_gigabytes_per_second: number; microseconds_per_dispatch: number; upload_gigabytes_per_second: number } | null;
}

/** A picture that the engine has encoded. */
export interface PictureInfo {
  /** Hash of its pixels. */
  id: string;
  width: number;
  height: number;
}

interface EngineObject {
  ref: string | null;
  kind: "box" | "quad";
  image: number | null;
  norm: unknown;
  pixels: unknown;
  range: [number, number];
}

export type EngineEvent =
  | { type: "encode" | "prefill"; done: number; total: number }
  | { type: "text"; delta: string; raw: string }
  | { type: "object"; object: EngineObject };

export interface EngineAnswer {
  prompt_ids: number[];
  reused_tokens: number;
  dropped_turns: number;
  images: PictureInfo[];
  tokens: number[];
  text: string;
  raw: string;
  objects: EngineObject[];
  finish_reason: FinishReason;
  timings: {
    encode_ms: number;
    prefill_ms: number;
    first_token_ms: number;
    decode_ms: number;
    decode_tokens_per_second: number;
  };
  logprobs: AnswerLogprob[] | null;
}

export interface EngineScore {
  tokens: number[];
  logprobs: number[];
}

/** Translates generation options. Absent options stay absent, so that the engine takes the checkpoint's. */
export function generationForEngine(options: GenerationOptions & { ignoreStop?: boolean }): EngineRequest["generation"] {
  const { stop, logprobs } = options;
  const settings = {
    max_new_tokens: options.maxTokens,
    min_new_tokens: options.minTokens,
    greedy: options.greedy,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    repetition_penalty: options.repetitionPenalty,
    seed: options.seed,
    stop: stop === undefined ? undefined : typeof stop === "string" ? [stop] : [...stop],
    stop_tokens: options.stopTokens && [...options.stopTokens],
    logprobs: logprobs === true ? 0 : logprobs === false ? undefined : logprobs,
    kv_reuse: options.kvReuse,
    ignore_stop: options.ignoreStop,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** Translates an event of a run. */
export function eventFromEngine(event: EngineEvent): AnswerEvent {
  return event.type === "object" ? { type: "object", object: objectFromEngine(event.object) } : event;
}

/**
 * Translates an answer.
 *
 * @param imageTokens positions of a picture in the prompt
 */
export function answerFromEngine(answer: EngineAnswer, imageTokens: number): Answer {
  const { timings } = answer;
  return {
    text: answer.text,
    raw: answer.raw,
    tokens: answer.tokens,
    objects: answer.objects.map(objectFromEngine),
    finishReason: answer.finish_reason,
    usage: {
      promptTokens: answer.prompt_ids.length,
      imageTokens: answer.images.length * imageTokens,
      reusedTokens: answer.reused_tokens,
      completionTokens: answer.tokens.length,
      droppedTurns: answer.dropped_turns,
    },
    timings: {
      encodeMs: timings.encode_ms,
      prefillMs: timings.prefill_ms,
      firstTokenMs: timings.first_token_ms,
      decodeMs: timings.decode_ms,
      decodeTokensPerSecond: timings.decode_tokens_per_second,
    },
    ...(answer.logprobs ? { logprobs: answer.logprobs } : {}),
  };
}

function objectFromEngine({ ref, kind, image, norm, pixels, range }: EngineObject): Grounded {
  const common = { ...(ref === null ? {} : { ref }), ...(image === null ? {} : { image }), range };
  // A box has four numbers, a quad four points.
  return { kind, norm, ...(pixels === null ? {} : { pixels }), ...common } as Grounded;
}
