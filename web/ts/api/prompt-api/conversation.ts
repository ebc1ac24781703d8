/** The messages of a session, and which of them are left out when the context is full. */

import { quotaExceeded } from "./errors.js";
import type { StoredMessage } from "./chat.js";
import type { ChatMeter } from "./meter.js";

/** Messages that are left out together: the input of a call, with its answer. */
interface Exchange {
  readonly messages: readonly StoredMessage[];
}

/** A conversation at one time. It does not change. */
export class Conversation {
  /** Tokens of the messages. */
  readonly usage: number;
  /** These stay. */
  readonly #initial: readonly StoredMessage[];
  readonly #exchanges: readonly Exchange[];

  constructor(initial: readonly StoredMessage[], usage: number, exchanges: readonly Exchange[] = []) {
    this.#initial = initial;
    this.usage = usage;
    this.#exchanges = exchanges;
  }

  /** All messages in order. */
  get messages(): StoredMessage[] {
    return [...this.#initial, ...this.#exchanges.flatMap(({ messages }) => messages)];
  }

  get isEmpty(): boolean {
    return this.#initial.length === 0 && this.#exchanges.length === 0;
  }

  /** Returns the conversation with more messages. */
  with(messages: readonly StoredMessage[], usage: number): Conversation {
    return new Conversation(this.#initial, this.usage + usage, [...this.#exchanges, { messages }]);
  }

  /**
   * Returns the conversation without its oldest exchanges, as many as need to go for `requested` tokens. Throws a `QuotaExceededError` if that
   * is not enough.
   *
   * @param wish tokens of an answer, for which exchanges are left out, too
   */
  async withRoom(requested: number, wish: number, window: number, meter: ChatMeter, signal: AbortSignal): Promise<Conversation> {
    const left = await this.#reducedTo(window - requested - wish, meter, signal);
    if (left.usage + requested > window) throw quotaExceeded(this.usage + requested, window);
    return left;
  }

  /** Returns the conversation without its oldest exchanges, until it has at most `usage` tokens or none is left. */
  async #reducedTo(usage: number, meter: ChatMeter, signal: AbortSignal): Promise<Conversation> {
    if (this.usage <= usage || this.#exchanges.length === 0) return this;
    return (await this.#withoutOldest(meter, signal)).#reducedTo(usage, meter, signal);
  }

  async #withoutOldest(meter: ChatMeter, signal: AbortSignal): Promise<Conversation> {
    const [oldest, ...exchanges] = this.#exchanges;
    // A system text stays, wherever it came from.
    const system = oldest?.messages.filter(({ role }) => role === "system") ?? [];
    const initial = [...this.#initial, ...system];
    const messages = [...initial, ...exchanges.flatMap(({ messages }) => messages)];
    return new Conversation(initial, await meter.count(messages, signal), exchanges);
  }
}
