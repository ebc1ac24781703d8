/** Stored messages and the prompt that they become. */

import type { EnginePart, PromptInput } from "../../wire/engine.js";
import { Question, type Part, type QuestionView } from "../content.js";
import type { Picture } from "../picture.js";
import type { ImageSource } from "../image.js";
import type { LonghandMessage } from "./messages.js";

/** A message with its pictures as they were when it was passed. */
export type StoredMessage =
  | { role: "user"; question: Question }
  /** `raw` is the text with its markup of objects. */
  | { role: "assistant" | "system"; raw: string };

/** The prompt of a conversation. */
export interface Chat {
  prompt: Extract<PromptInput, { kind: "chat" }>;
  pictures: Picture[];
}

/** Captures the pictures of messages. */
export function stored(messages: readonly LonghandMessage[], view: QuestionView, signal?: AbortSignal): StoredMessage[] {
  return messages.map(({ role, content }): StoredMessage => {
    if (role !== "user") return { role, raw: content.map(({ value }) => value as string).join("") };
    const parts = content.map(({ type, value }): Part => (type === "text" ? { text: value as string } : { image: value as ImageSource }));
    return { role, question: new Question(parts, view, signal) };
  });
}

/**
 * Returns the prompt for an answer to a conversation. Messages of one role in a row become one, joined by line ends. After an answer the
 * question is empty.
 */
export function chatOf(messages: readonly StoredMessage[]): Chat {
  const pictures: Picture[] = [];
  const turns: { question: EnginePart[]; answer?: string }[] = [];
  let system: string | undefined;
  for (const message of messages) {
    const last = turns.at(-1);
    if (message.role === "system") system = message.raw;
    else if (message.role === "user") {
      const parts = message.question.parts(pictures);
      pictures.push(...message.question.pictures);
      if (last && last.answer === undefined) {
        // A picture ends its line itself.
        const ended = "text" in (last.question.at(-1) ?? {});
        last.question.push(...(ended ? [{ text: "\n" }] : []), ...parts);
      } else turns.push({ question: parts });
    } else if (!last) turns.push({ question: [], answer: message.raw });
    else last.answer = last.answer === undefined ? message.raw : `${last.answer}\n${message.raw}`;
  }
  const open = turns.at(-1)?.answer === undefined ? turns.pop() : undefined;
  const history = turns.map(({ question, answer = "" }): [EnginePart[], string] => [question, answer]);
  return {
    prompt: {
      kind: "chat",
      history,
      query: open?.question ?? [],
      overflow: "error",
      ...(system === undefined ? {} : { system }),
    },
    pictures,
  };
}
