/** Runs of requests in the form of OpenAI's chat completions, and what the model says in them. */

import type { Answer, AskOptions, Grounded } from "../wire/types.js";
import type { QwenVLModel } from "./model.js";
import { conversation, hasTools, toolConversation, type ChatCompletionParams } from "./openai-request.js";
import { CallReader, type ChatToolCall, type Said } from "./openai-tools.js";
import type { Run } from "./run.js";
import { trimmed, unsent, type Trim } from "./trim.js";

/** A request whose messages are checked. */
export interface ChatRun {
  /** True if the answer can have calls. */
  tooled: boolean;
  start(settings: AskOptions): Run;
}

/** Checks the messages and tools of a request. */
export function chatRun(model: QwenVLModel, params: ChatCompletionParams, signal?: AbortSignal): ChatRun {
  if (hasTools(params)) {
    const request = toolConversation(params, model.imageView, signal);
    return { tooled: true, start: (settings) => model.start(() => Promise.resolve(request), settings) };
  }
  const { system, history, question } = conversation(params);
  const session = model.createSession({ history, ...(system === undefined ? {} : { system }) });
  return { tooled: false, start: (settings) => session.ask(question, settings) };
}

/** The way an answer is read. */
export interface Reading {
  /** True if the answer can have calls. */
  tooled: boolean;
  /** The ends at which the engine trims it. */
  trim: Trim;
}

/** Separates a whole answer into text and calls. */
export function withoutCalls(text: string, { tooled, trim }: Reading): Said {
  if (!tooled) return { text, calls: [] };
  const reader = new CallReader();
  const said = reader.push(text);
  return { text: trimmed(said.text + reader.finish(), trim), calls: said.calls };
}

/** A piece of an answer, or the whole answer at its end. */
export type SaidEvent = { text: string } | { call: ChatToolCall } | { object: Grounded } | { answer: Answer };

/** Iterates over what the model says in a run. With `markup` the text has the markup of objects. */
export async function* listen(run: Run, markup: boolean, { tooled, trim }: Reading): AsyncGenerator<SaidEvent, void> {
  const reader = tooled ? new CallReader() : undefined;
  let sent = "";
  const pass = function* (piece: string): Generator<SaidEvent, void> {
    const { text, calls } = reader?.push(piece) ?? { text: piece, calls: [] };
    if (text) yield { text };
    for (const call of calls) yield { call };
  };
  for await (const event of run) {
    if (event.type === "text") {
      const text = markup ? event.raw : event.delta;
      sent += text;
      yield* pass(text);
    } else if (event.type === "object") yield { object: event.object };
    else if (event.type === "done") {
      const { answer } = event;
      // Tags after the last text.
      if (markup) yield* pass(unsent(answer.raw, sent, trim));
      const held = reader?.finish();
      if (held) yield { text: held };
      yield { answer };
    }
  }
}
