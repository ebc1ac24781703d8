/** Reads calls of the AI SDK: messages, tools and settings, and warnings for those that the model cannot follow. */

import type { LanguageModelV4CallOptions, LanguageModelV4FilePart, LanguageModelV4Message, SharedV4Warning } from "@ai-sdk/provider";
import { present } from "../wire/engine.js";
import { QwenVLError } from "../wire/errors.js";
import type { Family } from "../wire/protocol.js";
import type { AskOptions } from "../wire/types.js";
import { ANY_OBJECT, type ChatCompletionParams, type ChatContentPart, type ChatMessage } from "./openai-request.js";
import { spaced, type ChatTool, type ChatToolCall } from "./openai-tools.js";

/** Name of the provider, and of its options and metadata. */
export const NAME = "qwenVL";

type CallMessage<Role> = Extract<LanguageModelV4Message, { role: Role }>;
type ToolOutput = Extract<CallMessage<"tool">["content"][number], { type: "tool-result" }>["output"];
type FileData = LanguageModelV4FilePart["data"];

/** A call in the form of the OpenAI facade. */
export interface Call {
  params: ChatCompletionParams;
  settings: AskOptions;
  /** True if the answer is to be JSON, which must keep what looks like the markup of objects. */
  isJson: boolean;
  warnings: SharedV4Warning[];
}

/** Reads a call for a model of this generation. */
export function readCall(options: LanguageModelV4CallOptions, family: Family): Call {
  const warnings: SharedV4Warning[] = [];
  const warn = (feature: string, details: string) => void warnings.push({ type: "unsupported", feature, details });
  const { toolChoice, responseFormat } = options;
  const messages = options.prompt.flatMap((message, index) => chatMessages(message, `prompt[${index}]`));
  askBeforeAnswer(messages);
  const prefix = takePrefix(messages);
  const tools = toolChoice?.type === "none" ? [] : readTools(options.tools ?? [], family, warn);
  if (toolChoice?.type === "required" || toolChoice?.type === "tool") warn("toolChoice", "the model decides whether it calls a tool");
  if (options.frequencyPenalty) warn("frequencyPenalty", "use presencePenalty, or providerOptions.qwenVL.repetitionPenalty");
  const { reasoning = "none" } = options;
  if (reasoning !== "none" && reasoning !== "provider-default") warn("reasoning", "the model answers without reasoning");
  const isJson = responseFormat?.type === "json";
  if (isJson && tools.length > 0)
    warn("responseFormat", "the form of the answer would exclude calls of tools: the answer can have any form");
  const constraint = isJson && tools.length === 0 ? { jsonSchema: responseFormat.schema ?? ANY_OBJECT } : undefined;
  const settings = present({
    maxTokens: options.maxOutputTokens,
    temperature: options.temperature,
    topP: options.topP,
    topK: options.topK,
    presencePenalty: options.presencePenalty,
    stop: options.stopSequences,
    seed: options.seed,
    constraint,
    prefix,
    ...(options.providerOptions?.[NAME] as AskOptions | undefined),
    signal: options.abortSignal,
  });
  return { params: { messages: joinSystem(messages), tools }, settings, isJson, warnings };
}

/** Reads the tools that the model can call. */
function readTools(
  tools: NonNullable<LanguageModelV4CallOptions["tools"]>,
  family: Family,
  warn: (feature: string, details: string) => void,
): ChatTool[] {
  if (family !== "qwen3_vl") {
    if (tools.length > 0) warn("tools", "only Qwen3-VL calls tools");
    return [];
  }
  return tools.flatMap((tool): ChatTool[] => {
    if (tool.type === "provider") {
      warn(`provider-defined tool ${tool.id}`, "a model in the browser has no tools itself");
      return [];
    }
    const { name, description, inputSchema, strict } = tool;
    if (strict) warn(`strict of the tool ${name}`, "the input of a call is what the model writes");
    const { $schema: _, ...parameters } = inputSchema;
    return [{ type: "function", function: { name, ...(description === undefined ? {} : { description }), parameters } }];
  });
}

/** Puts an empty question before an answer that begins the conversation. */
function askBeforeAnswer(messages: ChatMessage[]): void {
  const first = messages.findIndex(({ role }) => role !== "system");
  if (messages[first]?.role === "assistant") messages.splice(first, 0, { role: "user", content: [] });
}

/** Removes the answers at the end, which the model is to continue, joined by line ends. */
function takePrefix(messages: ChatMessage[]): string | undefined {
  const texts: string[] = [];
  for (let last = messages.at(-1); last?.role === "assistant" && !last.tool_calls; last = messages.at(-1)) {
    messages.pop();
    if (last.content) texts.unshift(last.content as string);
  }
  return texts.length > 0 ? texts.join("\n") : undefined;
}

/** Joins the system messages at the beginning. */
function joinSystem(messages: ChatMessage[]): ChatMessage[] {
  const first = messages.findIndex(({ role }) => role !== "system");
  const system = messages.slice(0, first).map(({ content }) => content as string);
  return system.length > 1 ? [{ role: "system", content: system.join("\n") }, ...messages.slice(first)] : messages;
}

function chatMessages(message: LanguageModelV4Message, place: string): ChatMessage[] {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }];
    case "user":
      return [{ role: "user", content: message.content.map((part, index) => userPart(part, `${place}.content[${index}]`)) }];
    case "assistant":
      return [answerMessage(message, place)];
    case "tool":
      return message.content.flatMap((part, index): ChatMessage[] => {
        // Approvals concern tools of providers.
        if (part.type !== "tool-result") return [];
        return [{ role: "tool", tool_call_id: part.toolCallId, content: outputText(part.output, `${place}.content[${index}].output`) }];
      });
  }
}

function userPart(part: CallMessage<"user">["content"][number], place: string): ChatContentPart {
  if (part.type === "text") return { type: "text", text: part.text };
  const { data, mediaType } = part;
  if (data.type === "text") return { type: "text", text: data.text };
  if (!/^image(\/|$)/.test(mediaType)) throw refused(`${place}.mediaType`, `"${mediaType}"`, "a type of pictures, as image/png");
  return { type: "image_url", image_url: { url: address(data, mediaType, `${place}.data`) } };
}

/** Returns a file as a picture of a question. */
function address(data: FileData, mediaType: string, place: string): URL | Uint8Array | string {
  if (data.type === "url") return data.url;
  if (data.type !== "data") throw refused(place, `a ${data.type}`, "bytes, base64 or an address: files of other providers are not here");
  return typeof data.data === "string" ? `data:${mediaType};base64,${data.data}` : data.data;
}

/** Reads an answer. Its text is what the model wrote, with the markup of objects, if the AI SDK kept it. */
function answerMessage({ content }: CallMessage<"assistant">, place: string): ChatMessage {
  const calls: ChatToolCall[] = [];
  let text = "";
  content.forEach((part, index) => {
    if (part.type === "text") {
      const raw = part.providerOptions?.[NAME]?.["raw"];
      text += typeof raw === "string" ? raw : part.text;
    } else if (part.type === "tool-call") {
      const called = { name: part.toolName, arguments: spaced(part.input ?? {}) };
      calls.push({ id: part.toolCallId, type: "function", function: called });
    } else if (part.type === "file" || part.type === "tool-result") {
      throw refused(`${place}.content[${index}]`, `a ${part.type}`, "text or a call of a tool: answers have nothing else");
    }
    // The models do not reason, and do not read the reasoning of others.
  });
  return { role: "assistant", content: text, ...(calls.length > 0 ? { tool_calls: calls } : {}) };
}

function outputText(output: ToolOutput, place: string): string {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "json":
    case "error-json":
      return spaced(output.value);
    case "execution-denied":
      return output.reason ?? "The user has denied the call.";
    case "content":
      return output.value
        .map((part, index) => {
          if (part.type === "text") return part.text;
          throw refused(`${place}.value[${index}]`, `a ${part.type}`, "text: put pictures into a message of the user");
        })
        .join("\n");
  }
}

function refused(argument: string, found: string, expected: string): QwenVLError {
  return new QwenVLError("INVALID_ARGUMENT", `\`${argument}\` is ${found}, expected ${expected}`, {
    details: { argument, found, expected },
  });
}
