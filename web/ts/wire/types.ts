/** Two opposite corners: `[x1, y1, x2, y2]`. */
export type Box = [number, number, number, number];

/** Four corners in order. */
export type Quad = [[number, number], [number, number], [number, number], [number, number]];

/** A place: `[x, y]`. */
export type Point = [number, number];

/** Something that an answer points at in a picture. */
export type Grounded = {
  /** Its name, if the answer gives one. */
  ref?: string;
  /**
   * Index of its picture among all pictures of the conversation: the only picture, or the one that the answer or the question names
   * ("Picture 2"). Absent if the picture is not known.
   */
  image?: number;
  /** Range of the name in `Answer.text`, for `text.slice(...range)`; empty at the place of the object if its name is not in the text. */
  range: [number, number];
} & (
  | {
      kind: "box";
      /** Thousandths of the picture's width and height. */
      norm: Box;
      /** Pixels of the picture as it was given. */
      pixels?: Box;
    }
  | { kind: "quad"; norm: Quad; pixels?: Quad }
  | { kind: "point"; norm: Point; pixels?: Point }
);

/** Options of sampling and of the end of an answer. The checkpoint has the defaults. */
export interface GenerationOptions {
  /** Longest answer, in tokens. */
  maxTokens?: number;
  /** Shortest answer, in tokens: stop tokens are not chosen before. */
  minTokens?: number;
  /** Always take the most likely token. */
  greedy?: boolean;
  /** Divisor of the logits; 0 is greedy. */
  temperature?: number;
  /** Probability mass to keep. */
  topP?: number;
  /** Most likely tokens to keep; 0 keeps all. */
  topK?: number;
  /** Divisor of the likelihood of tokens that occur already; 1 changes nothing. */
  repetitionPenalty?: number;
  /**
   * Lowers the likelihood of tokens that occur in the answer: this is subtracted from their logits, -2 to 2; 0 changes nothing. It ends
   * loops. By default 1.5 for sampled answers of Qwen3-VL, as its makers recommend, unless the checkpoint has another.
   */
  presencePenalty?: number;
  /**
   * Continues an answer that repeats itself. By default it ends, with the `finishReason` `"loop"`, once its last tokens are a passage of up to 64
   * tokens, four times and at least 128 tokens in all.
   */
  allowLoops?: boolean;
  /** Seed of the random numbers. The same seed gives the same answer on the same device. */
  seed?: number;
  /** Texts that end the answer, searched for in `Answer.raw`. They are not part of the answer. */
  stop?: string | readonly string[];
  /** Token ids that end the answer, in addition to the checkpoint's. */
  stopTokens?: readonly number[];
  /** Reports the log-probability of each token, and those of this many most likely tokens in its place. */
  logprobs?: boolean | number;
  /**
   * Behaviour when a growing conversation changes the rotary base (above 2048 tokens, then at each doubling): `"exact"` (default) runs the
   * prompt again, as the original does; `"fast"` keeps the base and the KV cache.
   */
  kvReuse?: "exact" | "fast";
}

/**
 * Limits of the size of pictures for models that take pictures of any size (the later generations). A picture outside of them is enlarged or
 * reduced for the model. They hold for all pictures of a prompt. The 2023 model, whose pictures have one size, ignores them.
 */
export interface PictureLimits {
  /** Fewest tokens of a picture; by default the checkpoint decides. Small objects are located best with 1024 or more. */
  minPictureTokens?: number;
  /** Most tokens of a picture: by default, and at most, those of the load. */
  maxPictureTokens?: number;
}

/** The way from a video to the frames that the model sees. */
export interface VideoOptions {
  /** Frames a second; 2 by default, as the models were trained. */
  fps?: number;
  /** Most frames; 768 by default. */
  maxFrames?: number;
  /** Fewest tokens of two frames, which the model sees as one; by default the generation decides. */
  minStepTokens?: number;
  /** Most tokens of the whole video; half of the context by default. Frames are reduced, and if that is not enough, left out. */
  maxTokens?: number;
}

/**
 * A form that an answer has to have: JSON that is valid under a JSON schema (draft 2020-12), a text that a regular expression matches as a whole, or
 * a text of a grammar in Lark's notation. Tokens that would leave the form are excluded. An answer that ends early, for example at `maxTokens`, is
 * the beginning of such a text.
 */
export type Constraint = { jsonSchema: object | boolean } | { regex: string | RegExp } | { lark: string };

/** Options of a run. */
export interface AskOptions extends GenerationOptions, PictureLimits {
  /** The form of the answer, with its `prefix` if it has one. */
  constraint?: Constraint;
  /** Beginning of the answer, which the model continues. The answer is what follows; the history of a session has both. */
  prefix?: string;
  /** Aborts the run, also while it waits. Its promise and its iterator then reject with the signal's reason. */
  signal?: AbortSignal;
  /** `false` fails with `BUSY` if the model is busy; by default a run waits. */
  queue?: boolean;
}

/**
 * Reason why an answer ended: at a stop token, at `maxTokens`, at one of the `stop` texts, at the end of the context, because it repeats itself,
 * or because it was cancelled.
 */
export type FinishReason = "stop" | "length" | "stop-string" | "context" | "loop" | "cancelled";

/** Tokens of a run. */
export interface Usage {
  promptTokens: number;
  /** Prompt tokens of pictures and videos. */
  imageTokens: number;
  /** Prompt tokens that the previous run had computed already. */
  reusedTokens: number;
  completionTokens: number;
  /** Number of oldest turns that were left out, see `SessionOptions.onContextOverflow`. */
  droppedTurns: number;
}

/** Wall-clock times of a run, in milliseconds. */
export interface Timings {
  /** Resizing of pictures, vision tower and resampler, and the decoding of pictures that the browser does not decode. */
  encodeMs: number;
  /** Prefill. */
  prefillMs: number;
  /** From the start to the first token. */
  firstTokenMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  decodeTokensPerSecond: number;
}

/** A token and its likelihood. */
export interface TokenLogprob {
  token: number;
  /** Text of the token alone. Parts of a character become U+FFFD. */
  text: string;
  /** Natural logarithm of its probability, before temperature and other sampling options. */
  logprob: number;
}

/** A token of an answer with its alternatives. */
export interface AnswerLogprob extends TokenLogprob {
  /** The most likely tokens in its place, as many as `logprobs` asked for. */
  top: TokenLogprob[];
}

/** A whole answer. */
export interface Answer {
  /** The text without markup of objects. */
  text: string;
  /** The text with its markup of objects: tags, or the JSON of Qwen3-VL. */
  raw: string;
  /** Token ids; the last may be a stop token. */
  tokens: number[];
  /** Objects that the answer points at. */
  objects: Grounded[];
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
  /** One for each of `tokens`, if `logprobs` was set. */
  logprobs?: AnswerLogprob[];
}

/** Likelihood of a text as the continuation of a prompt. */
export interface Score {
  /** Natural logarithm of its probability: the mean over its tokens, or the sum. */
  logprob: number;
  /** Natural logarithm of the probability of each token. */
  perToken: number[];
  /** Token ids. */
  tokens: number[];
}

/** Event of a run. */
export type AnswerEvent =
  /** Pictures are being encoded: `done` of `total`. */
  | { type: "encode"; done: number; total: number }
  /** Prefill, in tokens: `done` of `total`. */
  | { type: "prefill"; done: number; total: number }
  /** More text. `delta` never ends within a tag or a character. `raw` is all text since the previous event, with tags. */
  | { type: "text"; delta: string; raw: string }
  /** A box or a quad is complete. */
  | { type: "object"; object: Grounded }
  | { type: "done"; answer: Answer };

/** Number format of weights: 4 or 8 bits with a scale for each group, half precision, or single precision. */
export type Scheme = "q4" | "q8" | "f16" | "f32";

/** Settings that decide about the bytes of the result. They are those of the command `quantize`. */
export interface ConvertSettings {
  /** Scheme of the matrices; `"q4"` by default. Small modules that matter are stored in more bits then. */
  scheme?: Scheme;
  /** Weights that share a scale: 32 (default), 64 or 128. */
  groupSize?: number;
  /** Modules to store in another scheme, as `MODULE=SCHEME`: `["vision=f16", "lm_head=q8"]`. The last one that applies counts. */
  keep?: readonly string[];
  /** Store NaN and infinite weights as zero, instead of refusing them. */
  allowNonfinite?: boolean;
  /** Close a shard at this number of bytes; 64 MiB by default, which is the most. */
  shardBytes?: number;
}
