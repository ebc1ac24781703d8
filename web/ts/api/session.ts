import { Question, type Content, type Message } from "./content.js";
import { QwenVLError } from "../wire/errors.js";
import type { ImageOrientation } from "./image.js";
import type { QwenVLModel } from "./model.js";
import type { EngineRequest } from "../wire/protocol.js";
import type { Picture } from "./picture.js";
import { Run } from "./run.js";
import type { AskOptions, GenerationOptions } from "../wire/types.js";

/** What happens to a conversation that does not fit the context. */
export type ContextOverflow =
  /** The question fails with `CONTEXT_OVERFLOW`. */
  | "error"
  /**
   * The oldest turns are left out: those beyond the checkpoint's window (6144 tokens), as in the original, and then as many as leave
   * room for an answer of a quarter of the context. They stay in {@link Session.history}.
   */
  | "drop-oldest";

export interface SessionOptions {
  /** What the assistant is told at the start; the original's sentence by default. */
  system?: string;
  /** Messages so far: user and assistant by turns. */
  history?: readonly Message[];
  /** Defaults for every question. */
  generation?: GenerationOptions;
  /** `"error"` by default. */
  onContextOverflow?: ContextOverflow;
  /** For pictures that do not say it themselves; that of the model by default. */
  imageOrientation?: ImageOrientation;
}

interface Turn {
  question: Question;
  raw: string;
  /** Of the conversation after it; 0 where it was never run. */
  tokens: number;
}

/**
 * A conversation with pictures. Questions are answered one after the other. It lives on the page: the model keeps what it computed for the
 * latest conversation and goes on from there, and computes again what another one has pushed out.
 */
export class Session {
  /** What happens to a conversation that does not fit the context. */
  onContextOverflow: ContextOverflow;
  readonly #model: QwenVLModel;
  readonly #options: SessionOptions;
  #turns: Turn[];
  /** Settles when the latest question is answered or has failed. */
  #latest: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(model: QwenVLModel, options: SessionOptions, turns?: readonly Turn[]) {
    this.#model = model;
    this.#options = options;
    this.onContextOverflow = options.onContextOverflow ?? "error";
    this.#turns = turns ? [...turns] : turnsOf(options.history ?? [], this.#orientation);
  }

  /** Messages so far. A question that was cancelled or failed is not among them. Pictures are as they were captured. */
  get history(): readonly Message[] {
    return this.#turns.flatMap(({ question, raw }): Message[] => [
      { role: "user", content: question.content() },
      { role: "assistant", content: raw },
    ]);
  }

  /** Tokens of the conversation after its latest answer; 0 before the first. */
  get contextUsage(): number {
    return this.#turns.at(-1)?.tokens ?? 0;
  }

  /** Tokens that fit: prompt and answer. */
  get contextWindow(): number {
    return this.#model.info.contextLength;
  }

  /** Tokens of the whole prompt if `content` was asked now: system, turns so far, and the question. */
  async countTokens(content: Content = "", options: { signal?: AbortSignal } = {}): Promise<number> {
    await this.#latest;
    const question = new Question(content, this.#orientation, options.signal);
    const { prompt } = await this.#prompt(this.#turns, question, options.signal);
    return this.#model.count(prompt, options.signal);
  }

  /** Asks a question. Pictures are captured now, even if the question has to wait. */
  ask(content: Content, options: AskOptions = {}): Run {
    return this.#run(new Question(content, this.#orientation, options.signal), options);
  }

  /** Asks the latest question again; the new answer takes the place of the old one. */
  regenerate(options: AskOptions = {}): Run {
    return this.#run(undefined, options);
  }

  /** Takes the latest turns back. Returns how many there were to take. Questions that are still being answered are not touched. */
  undo(turns = 1): number {
    const kept = Math.max(this.#turns.length - Math.max(turns, 0), 0);
    const taken = this.#turns.length - kept;
    this.#turns = this.#turns.slice(0, kept);
    return taken;
  }

  /** Forgets all turns. */
  reset(): void {
    this.#turns = [];
  }

  /** A conversation that begins as this one and goes its own way. */
  fork(): Session {
    return new Session(this.#model, { ...this.#options, onContextOverflow: this.onContextOverflow }, this.#turns);
  }

  /** Plain data, pictures as data URLs: what {@link QwenVLModel.createSession} takes to go on from here. */
  toJSON(): SessionOptions {
    const { history: _, ...options } = this.#options;
    const history = this.#turns.flatMap(({ question, raw }): Message[] => [
      { role: "user", content: question.toJSON() },
      { role: "assistant", content: raw },
    ]);
    return { ...options, onContextOverflow: this.onContextOverflow, history };
  }

  get #orientation(): ImageOrientation {
    return this.#options.imageOrientation ?? this.#model.imageOrientation;
  }

  /** @param question the latest one again, if there is none */
  #run(question: Question | undefined, options: AskOptions): Run {
    const merged = { ...this.#options.generation, ...options };
    const earlier = this.#latest;
    // What is known only when the turn comes.
    let asked: { question: Question; before: Turn[]; seen: Turn[] } | undefined;
    const run = this.#model.start(async () => {
      await earlier;
      const before = question ? this.#turns : this.#turns.slice(0, -1);
      const latest = question ?? this.#turns.at(-1)?.question;
      if (!latest) throw new QwenVLError("INVALID_ARGUMENT", "there is no question to ask again");
      asked = { question: latest, before, seen: this.#turns };
      return this.#prompt(before, latest, merged.signal);
    }, merged);
    this.#latest = run.then(
      ({ finishReason, raw, usage }) => {
        if (!asked || finishReason === "cancelled") return;
        // Turns that were taken back meanwhile stay away.
        const before = this.#turns === asked.seen ? asked.before : this.#turns;
        this.#turns = [...before, { question: asked.question, raw, tokens: usage.promptTokens + usage.completionTokens }];
      },
      () => undefined,
    );
    return run;
  }

  async #prompt(
    turns: readonly Turn[],
    question: Question,
    signal?: AbortSignal,
  ): Promise<{ prompt: EngineRequest["prompt"]; pictures: Picture[] }> {
    const pictures: Picture[] = [];
    const text = async (question: Question): Promise<string> => {
      for (const picture of question.picturesWithPixelBoxes(pictures)) await this.#model.encode(picture, false, signal);
      const text = question.text(pictures);
      pictures.push(...question.pictures);
      return text;
    };
    const history: [string, string][] = [];
    for (const turn of turns) history.push([await text(turn.question), turn.raw]);
    const query = await text(question);
    const { system } = this.#options;
    return {
      prompt: { kind: "chat", history, query, overflow: this.onContextOverflow, ...(system === undefined ? {} : { system }) },
      pictures,
    };
  }
}

function turnsOf(history: readonly Message[], orientation: ImageOrientation): Turn[] {
  const turns: Turn[] = [];
  for (let at = 0; at < history.length; at += 2) {
    const [question, answer] = [history[at], history[at + 1]];
    if (question?.role !== "user" || answer?.role !== "assistant") {
      throw new QwenVLError("INVALID_ARGUMENT", `history[${at}] must be of the user and history[${at + 1}] of the assistant`);
    }
    turns.push({ question: new Question(question.content, orientation), raw: answer.content, tokens: 0 });
  }
  return turns;
}
