import type { Answer, AnswerEvent } from "../wire/types.js";

/** Starts a run and emits its events. `cancel` ends it early: the answer is then what has been generated so far. */
export type StartRun = (emit: (event: AnswerEvent) => void) => { answer: Promise<Answer>; cancel: () => void };

/**
 * A question in progress: iterate over its events, await the whole answer, or both. A run starts at once, even if nobody listens. Leaving
 * the loop early cancels it.
 *
 * ```js
 * for await (const event of session.ask("What is this?")) if (event.type === "text") show(event.delta);
 * const { text, objects } = await session.ask("And this?");
 * ```
 */
export class Run implements AsyncIterable<AnswerEvent>, PromiseLike<Answer> {
  readonly #events: AnswerEvent[] = [];
  readonly #answer: Promise<Answer>;
  readonly #cancel: () => void;
  #settled = false;
  #failure: { reason: unknown } | undefined;
  #wake: (() => void)[] = [];

  /** @internal */
  constructor(start: StartRun) {
    const { answer, cancel } = start((event) => this.#push(event));
    this.#cancel = cancel;
    this.#answer = answer;
    // A caller that only iterates gets the failure there. This handler keeps the promise from being reported as unhandled.
    answer.then(
      (answer) => {
        this.#settled = true;
        this.#push({ type: "done", answer });
      },
      (reason: unknown) => {
        this.#settled = true;
        this.#failure = { reason };
        this.#notify();
      },
    );
  }

  /**
   * Ends the run at its next step. The answer is then what has been generated so far, with `finishReason` `"cancelled"`. A run without an
   * event so far, for example because it waits for another one, ends at once: its answer is empty, with a usage of 0 tokens.
   */
  cancel(): void {
    if (!this.#settled) this.#cancel();
  }

  // oxlint-disable-next-line unicorn/no-thenable -- a run can be awaited by design
  then<T = Answer, E = never>(
    onAnswer?: ((answer: Answer) => T | PromiseLike<T>) | null,
    onFailure?: ((reason: unknown) => E | PromiseLike<E>) | null,
  ): Promise<T | E> {
    return this.#answer.then(onAnswer, onFailure);
  }

  /** Iterates over the text alone, without tags. */
  async *text(): AsyncGenerator<string, void, undefined> {
    for await (const event of this) if (event.type === "text" && event.delta) yield event.delta;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<AnswerEvent, void, undefined> {
    let next = 0;
    try {
      for (;;) {
        for (let event = this.#events[next]; event !== undefined; event = this.#events[++next]) yield event;
        if (this.#failure) throw this.#failure.reason;
        if (this.#settled) return;
        await new Promise<void>((wake) => this.#wake.push(wake));
      }
    } finally {
      this.cancel();
    }
  }

  #push(event: AnswerEvent): void {
    this.#events.push(event);
    this.#notify();
  }

  #notify(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }
}

/** Returns the answer of a run that was cancelled before its first event. */
function emptyAnswer(): Answer {
  return {
    text: "",
    raw: "",
    tokens: [],
    objects: [],
    finishReason: "cancelled",
    usage: { promptTokens: 0, imageTokens: 0, reusedTokens: 0, completionTokens: 0, droppedTurns: 0 },
    timings: { encodeMs: 0, prefillMs: 0, firstTokenMs: 0, decodeMs: 0, decodeTokensPerSecond: 0 },
  };
}

/** State of a run from its start to its end, for cancelling. */
export class RunState {
  /** Resolves if the run is cancelled before its first event. */
  readonly cancelledEarly: Promise<Answer>;
  readonly #emit: (event: AnswerEvent) => void;
  #endEarly!: () => void;
  #hasEvents = false;
  #hasEnded = false;
  #isCancelled = false;
  #call: { cancel(): void } | undefined;

  /** @param emit takes the run's events */
  constructor(emit: (event: AnswerEvent) => void) {
    this.#emit = emit;
    this.cancelledEarly = new Promise((resolve) => (this.#endEarly = () => resolve(emptyAnswer())));
  }

  get isCancelled(): boolean {
    return this.#isCancelled;
  }

  /** Emits an event, unless the run has ended. */
  emit(event: AnswerEvent): void {
    if (this.#hasEnded) return;
    this.#hasEvents = true;
    this.#emit(event);
  }

  /** Sets the worker's call, which is cancelled with the run. */
  follow(call: { cancel(): void }): void {
    this.#call = call;
    if (this.#isCancelled) call.cancel();
  }

  /** Cancels the run: at once if it has no events, else at the worker's next step. */
  cancel(): void {
    this.#isCancelled = true;
    this.#call?.cancel();
    if (this.#hasEvents) return;
    this.#hasEnded = true;
    this.#endEarly();
  }
}
