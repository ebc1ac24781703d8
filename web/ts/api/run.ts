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

  /** Ends the run at its next step. The answer is then what has been generated so far, with `finishReason` `"cancelled"`. */
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
