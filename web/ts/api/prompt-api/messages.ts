/** Messages in the longhand form of the specification. */

import { describe } from "../../wire/quote.js";
import { isPicture, type ConvertedMessage, type ConvertedPrompt } from "./convert.js";
import { domException } from "./errors.js";
import type { LanguageModelExpected, LanguageModelMessageContent, LanguageModelMessageType } from "./types.js";

/** A message whose content is checked. */
export interface LonghandMessage extends ConvertedMessage {
  content: LanguageModelMessageContent[];
}

/** Returns the types of content that a session takes ("get the expected content types"). */
export function expectedTypes(expected: readonly LanguageModelExpected[]): Set<LanguageModelMessageType> {
  return new Set([...expected.map(({ type }) => type), "text"]);
}

/**
 * Checks messages and returns them in the longhand form ("validate and canonicalize a prompt").
 *
 * @param hasAppendedInput true if the conversation has messages, so that no system message may follow
 * @param name place of the messages, for error texts
 */
export function validated(
  input: ConvertedPrompt,
  expected: ReadonlySet<LanguageModelMessageType>,
  hasAppendedInput: boolean,
  name = "input",
): LonghandMessage[] {
  if (typeof input === "string") return [user(input)];
  if (input.length === 0) return [user("")];
  return input.map((message, index) => {
    const { role, content, prefix } = message;
    const place = `${name}[${index}]`;
    if (prefix && (role !== "assistant" || index < input.length - 1)) {
      throw domException("SyntaxError", `\`${place}.prefix\` is true: only the last message, of the role "assistant", can have it`);
    }
    if (role === "system" && (hasAppendedInput || index > 0)) {
      throw new TypeError(`\`${place}\` is a system message: only the first message of a conversation can be one`);
    }
    const given = typeof content === "string" ? [text(content)] : content;
    const parts = given.length === 0 ? [text("")] : given;
    parts.forEach((part, index) => check(`${place}.content[${index}]`, role, part, expected));
    return { role, content: collapsed(parts), prefix };
  });
}

function check(
  name: string,
  role: ConvertedMessage["role"],
  { type, value }: LanguageModelMessageContent,
  expected: ReadonlySet<LanguageModelMessageType>,
): void {
  if (role === "assistant" && type !== "text") {
    throw domException("NotSupportedError", `\`${name}\` is of the type "${type}": a message of the assistant is text`);
  }
  if (type === "text") {
    if (typeof value !== "string") throw new TypeError(`\`${name}.value\` is ${describe(value)}, expected a string`);
    return;
  }
  if (!expected.has(type)) {
    const advice = type === "image" ? `: create the session with \`expectedInputs: [{ type: "image" }]\`` : "";
    throw domException("NotSupportedError", `\`${name}\` is of the type "${type}", which the session does not take${advice}`);
  }
  // No session expects another type than these two.
  if (!isPicture(value)) {
    const wanted = "a Blob, bytes, ImageData, or something that a canvas can draw";
    throw new TypeError(`\`${name}.value\` is ${describe(value)}, expected ${wanted}`);
  }
  if (role === "system") {
    throw domException("NotSupportedError", `\`${name}\` is a picture: a system message is text`);
  }
}

/** Joins texts that follow each other. */
function collapsed(parts: readonly LanguageModelMessageContent[]): LanguageModelMessageContent[] {
  const joined: LanguageModelMessageContent[] = [];
  for (const part of parts) {
    const last = joined.at(-1);
    if (part.type === "text" && last?.type === "text") last.value = `${last.value as string}${part.value as string}`;
    else joined.push({ ...part });
  }
  return joined;
}

/** Returns a message of the user. */
export function user(value: string): LonghandMessage {
  return { role: "user", content: [text(value)], prefix: false };
}

function text(value: string): LanguageModelMessageContent {
  return { type: "text", value };
}
