import { QwenVLError } from "../wire/errors.js";
import type { EnginePart, PictureInfo, PromptInput } from "../wire/engine.js";
import type { ModelInfo } from "../wire/protocol.js";
import type { AskOptions, GenerationOptions, PictureLimits } from "../wire/types.js";
import { untilAborted } from "../wire/abort.js";
import { Question, type Content, type Message, type QuestionView } from "./content.js";
import { imageView, type ImageOptions } from "./image.js";
import {
  abortSignal,
  anyString,
  ASK_CHECKS,
  checkArgument,
  checkedElsewhere,
  checkIsObject,
  checkOptions,
  IMAGE_CHECKS,
  LIMIT_CHECKS,
  oneOf,
  whole,
  type Checks,
} from "./options.js";
import type { Picture } from "./picture.js";
import type { Run } from "./run.js";

/** Behaviour of a conversation that does not fit the context. */
export type ContextOverflow =
  /** The question fails with `CONTEXT_OVERFLOW`. */
  | "error"
  /**
   * The oldest turns are left out: those beyond the checkpoint's window (6144 tokens), as in the original, and then as many as leave room
   * for an answer of a quarter of the context. They stay in {@link Session.history}.
   */
  | "drop-oldest";

/** Options of a session. Those of pictures are the model's by default; limits of pictures hold for every question that has none itself. */
export interface SessionOptions extends ImageOptions, PictureLimits {
  /** System prompt; the original's by default. */
  system?: string;
  /** Messages so far: user and assistant by turns. */
  history?: readonly Message[];
  /** Defaults for every question. */
  generation?: GenerationOptions;
  /** `"error"` by default. */
  onContextOverflow?: ContextOverflow;
}

/** Functions of a model that its sessions use. */
export interface SessionModel {
  readonly info: ModelInfo;
  readonly imageView: QuestionView;
  start(prepare: () => Promise<PreparedRequest>, options: AskOptions): Run;
  encode(picture: Picture, hold: boolean, options: EncodingOptions): Promise<PictureInfo>;
  count(request: PreparedRequest, options: EncodingOptions): Promise<number>;
}

/** Options of the encoding of a picture. */
export interface EncodingOptions extends PictureLimits {
  signal?: AbortSignal;
}

/** Request of a run. */
export interface PreparedRequest {
  prompt: PromptInput;
  pictures: readonly Picture[];
}

/** `history` is checked where it is read. */
const CHECKS: Checks<SessionOptions> = {
  system: anyString,
  history: { expected: "an array of messages", accepts: Array.isArray },
  generation: checkedElsewhere,
  onContextOverflow: oneOf("error", "drop-oldest"),
  ...IMAGE_CHECKS,
  ...LIMIT_CHECKS,
};
const COUNT_CHECKS: Checks<EncodingOptions> = { ...LIMIT_CHECKS, signal: abortSignal };

interface Turn {
  question: Question;
  raw: string;
  /** Length of the conversation after the turn, in tokens; 0 if the turn was never run. */
  tokens: number;
}

/**
 * A conversation with pictures. Questions are answered one after the other. The session is on the page: the model keeps the state of the
 * latest conversation and continues from there, and runs the prompt of another conversation again.
 */
export class Session {
  /** Behaviour of a conversation that does not fit the context. */
  onContextOverflow: ContextOverflow;
  readonly #model: SessionModel;
  readonly #options: SessionOptions;
  #turns: Turn[];
  /** Resolves when all questions so far have been answered or have failed. */
  #idle: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(model: SessionModel, options: SessionOptions, turns?: readonly Turn[]) {
    checkOptions(options, CHECKS);
    if (options.generation !== undefined) checkOptions<AskOptions>(options.generation, ASK_CHECKS);
    this.#model = model;
    this.#options = options;
    this.onContextOverflow = options.onContextOverflow ?? "error";
    this.#turns = turns ? [...turns] : turnsOf(options.history ?? [], this.#view);
  }

  /** Messages so far, with pictures as they were captured. Questions that were cancelled or failed are left out. */
  get history(): readonly Message[] {
    return this.#turns.flatMap(({ question, raw }): Message[] => [
      { role: "user", content: question.content() },
      { role: "assistant", content: raw },
    ]);
  }

  /** Length of the conversation after its latest answer, in tokens; 0 before the first. */
  get contextUsage(): number {
    return this.#turns.at(-1)?.tokens ?? 0;
  }

  /** Longest sequence of prompt and answer, in tokens. */
  get contextWindow(): number {
    return this.#model.info.contextLength;
  }

  /** Returns the tokens of the whole prompt if `content` was asked now: system prompt, turns so far, and the question. */
  async countTokens(content: Content = "", options: PictureLimits & { signal?: AbortSignal } = {}): Promise<number> {
    checkOptions(options, COUNT_CHECKS);
    const { signal } = options;
    const encoding = { ...this.#limits, ...options };
    const count = async () => {
      await this.#idle;
      const question = new Question(content, this.#view, signal);
      return this.#model.count(await this.#prompt(this.#turns, question, encoding), encoding);
    };
    return untilAborted(signal, count());
  }

  /** Asks a question. Pictures are captured now, even if the question has to wait. */
  ask(content: Content, options: AskOptions = {}): Run {
    checkIsObject("options", options);
    return this.#run(new Question(content, this.#view, options.signal), options);
  }

  /** Asks the latest question again. The new answer replaces the old one. */
  regenerate(options: AskOptions = {}): Run {
    checkIsObject("options", options);
    return this.#run(undefined, options);
  }

  /** Removes the latest turns. Returns the number of turns that were removed. Questions in progress are not affected. */
  undo(turns = 1): number {
    checkArgument("turns", turns, whole(0));
    const kept = Math.max(this.#turns.length - turns, 0);
    const removed = this.#turns.length - kept;
    this.#turns = this.#turns.slice(0, kept);
    return removed;
  }

  /** Removes all turns. */
  reset(): void {
    this.#turns = [];
  }

  /** Returns a conversation that begins with the turns of this one and continues separately. */
  fork(): Session {
    return new Session(this.#model, { ...this.#options, onContextOverflow: this.onContextOverflow }, this.#turns);
  }

  /** Returns plain data, with pictures as data URLs. {@link QwenVLModel.createSession} takes it to continue the conversation. */
  toJSON(): SessionOptions {
    const { history: _history, ...options } = this.#options;
    const history = this.#turns.flatMap(({ question, raw }): Message[] => [
      { role: "user", content: question.toJSON() },
      { role: "assistant", content: raw },
    ]);
    return { ...options, onContextOverflow: this.onContextOverflow, history };
  }

  get #view(): QuestionView {
    const defaults = this.#model.imageView;
    return { ...imageView(this.#options, defaults), videos: defaults.videos };
  }

  get #limits(): PictureLimits {
    const { minPictureTokens, maxPictureTokens } = this.#options;
    return {
      ...(minPictureTokens === undefined ? {} : { minPictureTokens }),
      ...(maxPictureTokens === undefined ? {} : { maxPictureTokens }),
    };
  }

  /** @param question `undefined` asks the latest one again */
  #run(question: Question | undefined, options: AskOptions): Run {
    const merged = { ...this.#limits, ...this.#options.generation, ...options };
    const earlier = this.#idle;
    // Known when the earlier questions are answered.
    let asked: { question: Question; before: Turn[]; seen: Turn[] } | undefined;
    const run = this.#model.start(async () => {
      await earlier;
      merged.signal?.throwIfAborted();
      const before = question ? this.#turns : this.#turns.slice(0, -1);
      const latest = question ?? this.#turns.at(-1)?.question;
      if (!latest) throw new QwenVLError("INVALID_ARGUMENT", "the session has no question to ask again");
      asked = { question: latest, before, seen: this.#turns };
      return this.#prompt(before, latest, merged);
    }, merged);
    const recorded = run.then(({ finishReason, raw, usage }) => {
      if (!asked || finishReason === "cancelled") return;
      // Turns that were removed in the meantime stay removed.
      const before = this.#turns === asked.seen ? asked.before : this.#turns;
      this.#turns = [
        ...before,
        { question: asked.question, raw: (merged.prefix ?? "") + raw, tokens: usage.promptTokens + usage.completionTokens },
      ];
    });
    // A run can fail while earlier ones are in progress: later questions wait for all of them.
    this.#idle = Promise.allSettled([earlier, recorded]);
    return run;
  }

  async #prompt(turns: readonly Turn[], question: Question, options: EncodingOptions): Promise<PreparedRequest> {
    const pictures: Picture[] = [];
    const parts = async (question: Question): Promise<EnginePart[]> => {
      for (const picture of question.picturesWithPixelBoxes(pictures)) await this.#model.encode(picture, false, options);
      const parts = question.parts(pictures);
      pictures.push(...question.pictures);
      return parts;
    };
    const history: [EnginePart[], string][] = [];
    for (const turn of turns) history.push([await parts(turn.question), turn.raw]);
    const query = await parts(question);
    const { system } = this.#options;
    return {
      prompt: { kind: "chat", history, query, overflow: this.onContextOverflow, ...(system === undefined ? {} : { system }) },
      pictures,
    };
  }
}

function turnsOf(history: readonly Message[], view: QuestionView): Turn[] {
  const turns: Turn[] = [];
  for (let index = 0; index < history.length; index += 2) {
    const [question, answer] = [history[index], history[index + 1]];
    if (question?.role !== "user" || answer?.role !== "assistant") {
      throw new QwenVLError("INVALID_ARGUMENT", `history[${index}] must be of the user and history[${index + 1}] of the assistant`);
    }
    checkArgument(`history[${index + 1}].content`, answer.content, anyString);
    turns.push({
      question: new Question(question.content, view, undefined, `history[${index}].content`),
      raw: answer.content,
      tokens: 0,
    });
  }
  return turns;
}
