/** Two opposite corners: `[x1, y1, x2, y2]`. */
export type Box = [number, number, number, number];

/** Four corners in order. */
export type Quad = [[number, number], [number, number], [number, number], [number, number]];

/** Something that an answer points at in a picture. */
export type Grounded = {
  /** Its name, if the answer gives one. */
  ref?: string;
  /** Index of the picture among all of the conversation: the latest one before the answer, as in the original. */
  image?: number;
  /** Where the name stands in `Answer.text`, for `text.slice(...range)`. Empty at the object's place if it has no name there. */
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
);

/** How the next token is chosen, and where an answer ends. What is left out is as the checkpoint says. */
export interface GenerationOptions {
  /** Longest answer, tokens. */
  maxTokens?: number;
  /** Shortest answer, tokens: stop tokens are not chosen before. */
  minTokens?: number;
  /** Always take the most likely token. */
  greedy?: boolean;
  /** Divides the logits; 0 is greedy. */
  temperature?: number;
  /** Probability mass to keep. */
  topP?: number;
  /** Most likely tokens to keep; 0 keeps all. */
  topK?: number;
  /** Divides the likelihood of tokens that occur already; 1 changes nothing. */
  repetitionPenalty?: number;
  /** Start of the random numbers; the same seed gives the same answer on the same device. */
  seed?: number;
  /** Texts that end the answer; they are not part of it. Looked for in `Answer.raw`. */
  stop?: string | readonly string[];
  /** Token ids that end the answer, beside the checkpoint's own. */
  stopTokens?: readonly number[];
  /** How likely each token was, and this many of those that were likelier or came next. */
  logprobs?: boolean | number;
  /**
   * What happens to the KV cache where a growing conversation changes the rotary base (above 2048 tokens, then at each doubling):
   * `"exact"` (default) runs the prompt again, as the original does; `"fast"` keeps the base and what was computed with it.
   */
  kvReuse?: "exact" | "fast";
}

/** What a run may be told. */
export interface AskOptions extends GenerationOptions {
  /** Ends the run; its promise and its iterator then reject with the signal's reason. */
  signal?: AbortSignal;
  /** `false` fails with `BUSY` where the model is at work; by default a run waits for its turn. */
  queue?: boolean;
}

/**
 * Why an answer ended: at a stop token, at `maxTokens`, at one of the `stop` texts, at the end of the context, or because somebody
 * cancelled it.
 */
export type FinishReason = "stop" | "length" | "stop-string" | "context" | "cancelled";

/** Tokens of a run. */
export interface Usage {
  promptTokens: number;
  /** Those of the prompt that stand for pictures. */
  imageTokens: number;
  /** Those of the prompt that were computed already, by the run before. */
  reusedTokens: number;
  completionTokens: number;
  /** Oldest turns that were left out to make room, see `SessionOptions.onContextOverflow`. */
  droppedTurns: number;
}

/** Wall-clock times of a run, milliseconds. */
export interface Timings {
  /** Pictures: decoding, resize, vision tower and resampler. */
  encodeMs: number;
  /** Prompt through the decoder. */
  prefillMs: number;
  /** From the start to the first token. */
  firstTokenMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  decodeTokensPerSecond: number;
}

/** A token and how likely it was. */
export interface TokenLogprob {
  token: number;
  /** The token alone, as text; a part of a character shows as U+FFFD. */
  text: string;
  /** Natural logarithm of its probability, before temperature and the like. */
  logprob: number;
}

/** A token of an answer with its rivals. */
export interface AnswerLogprob extends TokenLogprob {
  /** The most likely tokens at this place, as many as were asked for. */
  top: TokenLogprob[];
}

/** A whole answer. */
export interface Answer {
  /** The text without tags. */
  text: string;
  /** The text with its `<ref>`, `<box>` and `<quad>` tags. */
  raw: string;
  /** Token ids; the last may be a stop token. */
  tokens: number[];
  /** What the answer points at. */
  objects: Grounded[];
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
  /** One for each of `tokens`, where `logprobs` were asked for. */
  logprobs?: AnswerLogprob[];
}

/** How likely a text was to follow a prompt. */
export interface Score {
  /** Natural logarithm of its probability: the mean over its tokens, or their sum. */
  logprob: number;
  /** Of each token. */
  perToken: number[];
  /** Token ids. */
  tokens: number[];
}

/** What happens during a run. */
export type AnswerEvent =
  /** Pictures are going through the vision tower: `done` of `total`. */
  | { type: "encode"; done: number; total: number }
  /** The prompt is going through the decoder; tokens. */
  | { type: "prefill"; done: number; total: number }
  /** More text: `delta` never holds a part of a tag or of a character, `raw` is all that came since the event before, tags included. */
  | { type: "text"; delta: string; raw: string }
  /** A box or a quad was closed. */
  | { type: "object"; object: Grounded }
  | { type: "done"; answer: Answer };
