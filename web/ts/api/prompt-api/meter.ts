/** Counts the tokens of messages as the chat template writes them. */

import type { PromptInput } from "../../wire/engine.js";
import type { Picture } from "../picture.js";
import type { EncodingOptions, SessionModel } from "../session.js";
import { chatOf, type StoredMessage } from "./chat.js";

/** Tokens that the template adds. */
interface Template {
  /** Length of a conversation without messages: the default system text, and the beginning and end of a question and of an answer. */
  empty: number;
  /** The same with a system text that is empty. */
  emptySystem: number;
  /** Tokens around a question, and around a system text. */
  question: number;
  /** Tokens around an answer. */
  answer: number;
}

/** Counts for all sessions of a model. */
export class ChatMeter {
  readonly #model: SessionModel;
  #template: Promise<Template> | undefined;

  constructor(model: SessionModel) {
    this.#model = model;
  }

  /**
   * Returns the tokens that messages add to a conversation. The sum over a conversation and {@link window} leave exactly one token for the
   * answer if the sum is the window.
   */
  async count(messages: readonly StoredMessage[], signal?: AbortSignal): Promise<number> {
    if (messages.length === 0) return 0;
    const { empty, emptySystem, question, answer } = await this.#ready();
    const { prompt, pictures } = chatOf(messages);
    const turns = prompt.history?.length ?? 0;
    const has = (role: StoredMessage["role"]) => messages.filter((message) => message.role === role).length;
    const total = await this.#model.count({ prompt, pictures }, signal ? { signal } : {});
    const texts = total - (prompt.system === undefined ? empty : emptySystem) - turns * (question + answer);
    return texts + (has("system") + has("user")) * question + has("assistant") * answer;
  }

  /** Returns the most tokens that the messages of a conversation can have, so that there is room for an answer of one token. */
  async window(): Promise<number> {
    const { empty, question } = await this.#ready();
    return this.#model.info.contextLength - empty + question - 1;
  }

  /** Returns the tokens around an answer. */
  async answerOverhead(): Promise<number> {
    return (await this.#ready()).answer;
  }

  #ready(): Promise<Template> {
    this.#template ??= this.#measure().catch((error: unknown) => {
      this.#template = undefined;
      throw error;
    });
    return this.#template;
  }

  async #measure(): Promise<Template> {
    const chat = (more: object): PromptInput => ({ kind: "chat", query: [], overflow: "error", ...more });
    const count = (more: object) => this.#model.count({ prompt: chat(more), pictures: [] as Picture[] }, {} as EncodingOptions);
    const [empty, emptySystem, oneTurn] = await Promise.all([count({}), count({ system: "" }), count({ history: [[[], ""]] })]);
    const turn = oneTurn - empty;
    // The template writes both in the same way, with the name of the role.
    const question = Math.floor(turn / 2);
    return { empty, emptySystem, question, answer: turn - question };
  }
}
