/** A session of the Prompt API. */

import type { Grounded } from "../../wire/types.js";
import { untilAborted } from "../../wire/abort.js";
import { trimOf } from "../trim.js";
import { chatOf, type StoredMessage } from "./chat.js";
import { responseConstraint, type ResponseConstraint } from "./constraint.js";
import { Conversation } from "./conversation.js";
import { promptOf, promptOptionsOf, type ConvertedPrompt, type ConvertedPromptOptions } from "./convert.js";
import { domException, promptFailure } from "./errors.js";
import { EventHandler } from "./handler.js";
import type { Loaded } from "./host.js";
import { encodeAll, inputOf, type Input } from "./input.js";
import { readRun } from "./read.js";
import type { Sampling } from "./options.js";
import type { LanguageModelMessageType, LanguageModelSamplingMode } from "./types.js";

/** Shares of the window that an answer should find: an eighth of it, at most these tokens. Exchanges are left out for them. */
const ANSWER_SHARE = 8;
const ANSWER_TOKENS = 512;

/** Parts of a new session. */
export interface SessionParts {
  loaded: Loaded;
  sampling: Sampling;
  types: ReadonlySet<LanguageModelMessageType>;
  window: number;
  conversation: Conversation;
}

/** Converted arguments of a call. */
interface Call {
  prompt: ConvertedPrompt;
  options: ConvertedPromptOptions;
  signal: AbortSignal;
}

/** Allows this package alone to construct sessions. */
export const CONSTRUCTION = Symbol("construction");

/** The instance side of `LanguageModel`. */
export class PromptSession extends EventTarget {
  readonly #parts: SessionParts;
  readonly #destruction = new AbortController();
  readonly #onContextOverflow = new EventHandler(this, "contextoverflow");
  readonly #onQuotaOverflow = new EventHandler(this, "quotaoverflow");
  #conversation: Conversation;
  /** Tokens of the input that is being answered. */
  #pendingUsage = 0;
  #objects: readonly Grounded[] = [];
  /** Resolves when all calls so far have ended. */
  #idle: Promise<unknown> = Promise.resolve();

  constructor(key?: symbol, parts?: SessionParts) {
    super();
    if (key !== CONSTRUCTION || !parts) throw new TypeError("Illegal constructor: call LanguageModel.create()");
    this.#parts = parts;
    this.#conversation = parts.conversation;
  }

  get [Symbol.toStringTag](): string {
    return "LanguageModel";
  }

  get contextUsage(): number {
    return this.#conversation.usage + this.#pendingUsage;
  }

  get contextWindow(): number {
    return this.#parts.window;
  }

  get inputUsage(): number {
    return this.contextUsage;
  }

  get inputQuota(): number {
    return this.contextWindow;
  }

  get topK(): number {
    return this.#parts.sampling.topK;
  }

  get temperature(): number {
    return this.#parts.sampling.temperature;
  }

  get samplingMode(): LanguageModelSamplingMode | null {
    return this.#parts.sampling.mode;
  }

  get objects(): readonly Grounded[] {
    return this.#objects;
  }

  get oncontextoverflow(): ((event: Event) => unknown) | null {
    return this.#onContextOverflow.value;
  }

  set oncontextoverflow(value: ((event: Event) => unknown) | null) {
    this.#onContextOverflow.value = value;
  }

  get onquotaoverflow(): ((event: Event) => unknown) | null {
    return this.#onQuotaOverflow.value;
  }

  set onquotaoverflow(value: ((event: Event) => unknown) | null) {
    this.#onQuotaOverflow.value = value;
  }

  async prompt(input: unknown, options: unknown = {}): Promise<string> {
    const call = this.#begin("prompt", arguments.length, input, options);
    const { signal } = call;
    const form = responseConstraint(call.options);
    const asked = this.#input(call.prompt, form, signal);
    return this.#queued(signal, form, () => this.#answer(asked, form, signal, () => undefined));
  }

  promptStreaming(input: unknown, options: unknown = {}): ReadableStream<string> {
    const call = this.#begin("promptStreaming", arguments.length, input, options);
    const cancellation = new AbortController();
    const either = AbortSignal.any([call.signal, cancellation.signal]);
    // Pictures are captured now. Errors of the input are those of the stream.
    const prepared = attempt(() => {
      const form = responseConstraint(call.options);
      return { form, asked: this.#input(call.prompt, form, either) };
    });
    return new ReadableStream<string>({
      start: (controller) => {
        const fail = (reason: unknown) => {
          if (!cancellation.signal.aborted) controller.error(reason);
        };
        if ("error" in prepared) return fail(prepared.error);
        const { form, asked } = prepared.value;
        const enqueue = (chunk: string) => {
          if (!either.aborted) controller.enqueue(chunk);
        };
        void this.#queued(either, form, () => this.#answer(asked, form, either, enqueue)).then(() => {
          if (!cancellation.signal.aborted) controller.close();
        }, fail);
      },
      cancel: () => cancellation.abort(),
    });
  }

  async append(input: unknown, options: unknown = {}): Promise<undefined> {
    const { prompt, signal } = this.#begin("append", arguments.length, input, options);
    const added = this.#input(prompt, undefined, signal);
    await this.#queued(signal, undefined, async () => {
      const requested = await this.#prefill(added, 0, signal);
      signal.throwIfAborted();
      this.#conversation = this.#conversation.with(added.all, requested);
    });
  }

  async measureContextUsage(input: unknown, options: unknown = {}): Promise<number> {
    const call = this.#begin("measureContextUsage", arguments.length, input, options);
    const { signal } = call;
    const form = responseConstraint(call.options);
    const measured = this.#input(call.prompt, form, signal);
    const { model, meter } = this.#parts.loaded;
    const count = async () => {
      await encodeAll(model, measured.messages, signal);
      return meter.count(measured.all, signal);
    };
    return this.#reported(signal, form, count());
  }

  measureInputUsage(input: unknown, options: unknown = {}): Promise<number> {
    return this.measureContextUsage(input, options);
  }

  async clone(options: unknown = {}): Promise<this> {
    const { signal } = promptOptionsOf(options);
    const either = this.#signalWith(signal);
    either.throwIfAborted();
    await untilAborted(either, new Promise((resolve) => setTimeout(resolve)));
    const Class = this.constructor as new (key: symbol, parts: SessionParts) => this;
    return new Class(CONSTRUCTION, { ...this.#parts, conversation: this.#conversation });
  }

  destroy(): undefined {
    this.#destruction.abort(domException("AbortError", "the session was destroyed"));
  }

  /** @internal Destroys the session when a signal is aborted. */
  follow(signal: AbortSignal): void {
    const destruction = this.#destruction;
    signal.addEventListener("abort", () => destruction.abort(signal.reason), { once: true, signal: destruction.signal });
  }

  /** Converts the arguments of a call. Throws if the session or the call is aborted. */
  #begin(method: string, given: number, input: unknown, options: unknown): Call {
    if (given === 0) throw new TypeError(`${method}() has no argument, expected a text or messages`);
    const prompt = promptOf(input);
    const converted = promptOptionsOf(options);
    const signal = this.#signalWith(converted.signal);
    signal.throwIfAborted();
    return { prompt, options: converted, signal };
  }

  #signalWith(signal: AbortSignal | undefined): AbortSignal {
    return AbortSignal.any([this.#destruction.signal, ...(signal ? [signal] : [])]);
  }

  #input(prompt: ConvertedPrompt, form: ResponseConstraint | undefined, signal: AbortSignal): Input {
    return inputOf(prompt, form, this.#parts.types, this.#parts.loaded.model.imageView, signal);
  }

  /** Runs a call when those before it have ended. Rejects at once if it is aborted. */
  #queued<T>(signal: AbortSignal, form: ResponseConstraint | undefined, work: () => Promise<T>): Promise<T> {
    const turn = this.#idle.then(() => {
      signal.throwIfAborted();
      return work();
    });
    this.#idle = turn.catch(() => undefined);
    return this.#reported(signal, form, turn);
  }

  /** Returns the result of a call with its failure as the specification names it. */
  async #reported<T>(signal: AbortSignal, form: ResponseConstraint | undefined, work: Promise<T>): Promise<T> {
    try {
      return await untilAborted(signal, work);
    } catch (error) {
      signal.throwIfAborted();
      throw promptFailure(error, form !== undefined);
    }
  }

  /**
   * Makes room for an input and for an answer of up to `wish` tokens ("prefill"). Returns the tokens of the input. The model runs the
   * messages when it answers; here it encodes their pictures.
   */
  async #prefill(input: Input, wish: number, signal: AbortSignal): Promise<number> {
    const { loaded, window } = this.#parts;
    const { model, meter } = loaded;
    if (input.hasSystem && !this.#conversation.isEmpty) {
      throw new TypeError("`input[0]` is a system message: only the first message of a conversation can be one");
    }
    await encodeAll(model, input.messages, signal);
    const requested = await meter.count(input.all, signal);
    const before = this.#conversation;
    this.#conversation = await before.withRoom(requested, wish, window, meter, signal);
    if (this.#conversation !== before) {
      this.dispatchEvent(new Event("contextoverflow"));
      this.dispatchEvent(new Event("quotaoverflow"));
    }
    return requested;
  }

  /** Answers an input ("prefill" and "generate"), and adds both to the conversation. */
  async #answer(
    input: Input,
    form: ResponseConstraint | undefined,
    signal: AbortSignal,
    onChunk: (chunk: string) => void,
  ): Promise<string> {
    const { loaded, sampling, window } = this.#parts;
    const { model, meter } = loaded;
    const wish = Math.min(Math.floor(window / ANSWER_SHARE), ANSWER_TOKENS);
    this.#pendingUsage = await this.#prefill(input, wish, signal);
    try {
      const { prefix } = input;
      const chat = chatOf([...this.#conversation.messages, ...input.messages]);
      const options = {
        ...sampling.generation,
        maxTokens: model.info.contextLength,
        signal,
        ...(form ? { constraint: form.constraint } : {}),
        ...(prefix === undefined ? {} : { prefix }),
      };
      const run = model.start(() => Promise.resolve(chat), options);
      const { answer, text, raw } = await readRun(run, form !== undefined, trimOf(options), onChunk);
      const said: StoredMessage = { role: "assistant", raw: `${prefix ?? ""}${raw}` };
      form?.check(said.raw, answer.finishReason);
      signal.throwIfAborted();
      const overhead = prefix === undefined ? await meter.answerOverhead() : 0;
      const usage = this.#pendingUsage + answer.usage.completionTokens + overhead;
      this.#objects = answer.objects;
      this.#conversation = this.#conversation.with([...input.messages, said], usage);
      return text;
    } finally {
      this.#pendingUsage = 0;
    }
  }
}

function attempt<T>(work: () => T): { value: T } | { error: unknown } {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}
