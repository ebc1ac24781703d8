/** Events and answers of the runtime (`crates/runtime/src/session.rs`) as those of the package. */

import type { PictureInfo } from "./protocol.js";
import type { Answer, AnswerEvent, AnswerLogprob, FinishReason, Grounded } from "./types.js";

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

export function eventFromEngine(event: EngineEvent): AnswerEvent {
  return event.type === "object" ? { type: "object", object: objectFromEngine(event.object) } : event;
}

/** @param imageTokens positions that a picture takes */
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
  // The engine gives four numbers for a box and four points for a quad.
  return { kind, norm, ...(pixels === null ? {} : { pixels }), ...common } as Grounded;
}
