/** Translation between the engine's data (`generated.ts`) and the package's types. */

import type * as Engine from "./generated.js";
import type { Answer, AnswerEvent, GenerationOptions, Grounded, PictureLimits, VideoOptions } from "./types.js";

/** Request of a run, with all of its parts. */
export type EngineRequest = Required<Engine.Request>;
/** Event of a run that answers a question: scoring has its own. */
export type EngineEvent = Exclude<Engine.Event, { type: "score" }>;
export type {
  Answer as EngineAnswer,
  BenchmarkOptions as EngineBenchmark,
  BenchmarkReport as EngineBenchmarkReport,
  LoadOptions as EngineOptions,
  Message as EngineMessage,
  MessagePart as EnginePart,
  ModelFacts,
  PictureInfo,
  PictureLimits as EngineLimits,
  PromptInput,
  Score as EngineScore,
  VideoOptions as EngineVideoOptions,
  VideoPlan,
  VideoSource as VideoFacts,
} from "./generated.js";

/** Translates generation options. Absent options stay absent, so that the engine takes the checkpoint's. */
export function generationForEngine(options: GenerationOptions & { ignoreStop?: boolean }): Engine.GenerationOptions {
  const { stop, logprobs } = options;
  const settings = {
    max_new_tokens: options.maxTokens,
    min_new_tokens: options.minTokens,
    greedy: options.greedy,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    repetition_penalty: options.repetitionPenalty,
    presence_penalty: options.presencePenalty,
    allow_loops: options.allowLoops,
    seed: options.seed,
    stop: stop === undefined ? undefined : typeof stop === "string" ? [stop] : [...stop],
    stop_tokens: options.stopTokens && [...options.stopTokens],
    logprobs: logprobs === true ? 0 : logprobs === false ? undefined : logprobs,
    kv_reuse: options.kvReuse,
    ignore_stop: options.ignoreStop,
  };
  return present(settings);
}

/** Translates limits of pictures. Absent limits stay absent, so that the engine takes those of the checkpoint and of the load. */
export function limitsForEngine({ minPictureTokens, maxPictureTokens }: PictureLimits): Engine.PictureLimits {
  return present({ min_tokens: minPictureTokens, max_tokens: maxPictureTokens });
}

/** Translates options of videos. */
export function videoForEngine({ fps, maxFrames, minStepTokens, maxTokens }: VideoOptions): Engine.VideoOptions {
  return present({ fps, max_frames: maxFrames, min_step_tokens: minStepTokens, max_tokens: maxTokens });
}

/** Returns the properties that are not `undefined`. */
export function present<T extends object>(settings: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as ReturnType<typeof present<T>>;
}

/** Translates an event of a run. */
export function eventFromEngine(event: EngineEvent): AnswerEvent {
  return event.type === "object" ? { type: "object", object: objectFromEngine(event.object) } : event;
}

/** Translates an answer. */
export function answerFromEngine(answer: Engine.Answer): Answer {
  const { timings } = answer;
  return {
    text: answer.text,
    raw: answer.raw,
    tokens: answer.tokens,
    objects: answer.objects.map(objectFromEngine),
    finishReason: answer.finish_reason,
    usage: {
      promptTokens: answer.prompt_ids.length,
      imageTokens: answer.images.reduce((sum, { tokens }) => sum + tokens, 0),
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

function objectFromEngine({ ref, kind, image, norm, pixels, range }: Engine.GroundedObject): Grounded {
  const common = { ...(ref === null ? {} : { ref }), ...(image === null ? {} : { image }), range };
  // A box has four numbers, a quad four points, a point two numbers.
  return { kind, norm, ...(pixels === null ? {} : { pixels }), ...common } as Grounded;
}
