/** Two opposite corners: `[x1, y1, x2, y2]`. */
export type Box = [number, number, number, number];

/** Four corners in order. */
export type Quad = [[number, number], [number, number], [number, number], [number, number]];

/** Something that an answer points at in a picture. */
export type Grounded = {
  /** Its name, if the answer gives one. */
  ref?: string;
  /** Index of the picture among those of the prompt: the latest one, as in the original. */
  image?: number;
  /** Where the name stands in `Answer.text`, for `text.slice(...range)`. Empty at the object's place if it has no name there. */
  range: [number, number];
} & (
  | {
      kind: "box";
      /** Thousandths of the picture's width and height. */
      norm: Box;
      /** Pixels of the picture. */
      pixels?: Box;
    }
  | { kind: "quad"; norm: Quad; pixels?: Quad }
);

/** How an answer is generated. What is left out is as the checkpoint says. */
export interface AskOptions {
  /** Ends the run; its promise and its iterator then reject with the signal's reason. */
  signal?: AbortSignal;
  /** Longest answer, tokens. */
  maxTokens?: number;
  /** Always take the most likely token. */
  greedy?: boolean;
  /** Divides the logits. */
  temperature?: number;
  /** Probability mass to keep. */
  topP?: number;
  /** Most likely tokens to keep; 0 keeps all. */
  topK?: number;
  /** Start of the random numbers; the same seed gives the same answer on the same device. */
  seed?: number;
}

/** Why an answer ended. */
export type FinishReason = "stop" | "length" | "context" | "cancelled";

/** Tokens of a run. */
export interface Usage {
  promptTokens: number;
  /** Those of the prompt that stand for pictures. */
  imageTokens: number;
  completionTokens: number;
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
}

/** What happens during a run. */
export type AnswerEvent =
  /** Pictures are going through the vision tower. */
  | { type: "encode"; done: number; total: number }
  /** The prompt is going through the decoder; tokens. */
  | { type: "prefill"; done: number; total: number }
  /** More text, never a part of a tag. */
  | { type: "text"; delta: string }
  /** A box or a quad was closed. */
  | { type: "object"; object: Grounded }
  | { type: "done"; answer: Answer };
