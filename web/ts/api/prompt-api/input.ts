/** The input of a call: its messages with their pictures, and the beginning of the answer. */

import type { QuestionView } from "../content.js";
import type { SessionModel } from "../session.js";
import { stored, type StoredMessage } from "./chat.js";
import type { ResponseConstraint } from "./constraint.js";
import type { ConvertedPrompt } from "./convert.js";
import { user, validated, type LonghandMessage } from "./messages.js";
import type { LanguageModelMessageType } from "./types.js";

export interface Input {
  /** Without the beginning of the answer. */
  messages: StoredMessage[];
  /** The messages and the beginning of the answer, to be counted. */
  all: StoredMessage[];
  /** True if the first message is of the system. */
  hasSystem: boolean;
  prefix: string | undefined;
}

/** Checks the messages of a call, adds the description of the constraint, and captures the pictures. */
export function inputOf(
  prompt: ConvertedPrompt,
  form: ResponseConstraint | undefined,
  types: ReadonlySet<LanguageModelMessageType>,
  view: QuestionView,
  signal: AbortSignal,
): Input {
  const longhand = validated(prompt, types, false);
  const last = longhand.at(-1) as LonghandMessage;
  const prefix = last.prefix ? (last.content[0]?.value as string) : undefined;
  if (prefix !== undefined) longhand.pop();
  if (form?.guidance !== undefined) longhand.push(user(form.guidance));
  const messages = stored(longhand, view, signal);
  const all = prefix === undefined ? messages : [...messages, { role: "assistant" as const, raw: prefix }];
  return { messages, all, hasSystem: longhand[0]?.role === "system", prefix };
}

/** Encodes the pictures of messages. A picture that cannot be read fails here, before anything changes. */
export async function encodeAll(model: SessionModel, messages: readonly StoredMessage[], signal?: AbortSignal): Promise<void> {
  for (const message of messages) {
    if (message.role !== "user") continue;
    for (const picture of message.question.pictures) await model.encode(picture, false, signal ? { signal } : {});
  }
}
