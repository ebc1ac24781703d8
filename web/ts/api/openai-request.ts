/** Reads and checks requests in the form of OpenAI's chat completions. */

import type { EngineMessage } from "../wire/engine.js";
import { QwenVLError } from "../wire/errors.js";
import type { AskOptions, Constraint } from "../wire/types.js";
import { Question, type Message, type Part, type QuestionView } from "./content.js";
import { checkImage } from "./image.js";
import { anyBoolean, anyNumber, anyString, arrayOf, checkArgument, either, oneOf, whole, type Check } from "./options.js";
import { checkCalls, toolTexts, type ChatTool, type ChatToolCall } from "./openai-tools.js";
import { ImageRef, type ImageInput, type Picture } from "./picture.js";
import type { PreparedRequest } from "./session.js";

/**
 * A part of a user's message. `url` can be any picture that this package accepts; OpenAI's clients send a string. If all pictures have the detail
 * `"low"`, models that take pictures of any size see at most 256 tokens of each.
 */
export type ChatContentPart =
  { type: "text"; text: string } | { type: "image_url"; image_url: string | { url: ImageInput; detail?: "auto" | "low" | "high" } };

export interface ChatMessage {
  /** `tool` is the result of a call. */
  role: "system" | "developer" | "user" | "assistant" | "tool";
  /** Can be `null` in an answer with calls. */
  content?: string | readonly ChatContentPart[] | null;
  /** Of an answer that is sent back: the text with its markup of objects, which the model reads in place of `content`. */
  raw?: string;
  /** Calls of an answer that is sent back. */
  tool_calls?: readonly ChatToolCall[];
  /** Of a result: the call that it belongs to. */
  tool_call_id?: string;
}

/**
 * Form of an answer: any text, a JSON object, or JSON that is valid under a JSON schema. The schema is always followed, with `strict: false` too.
 * The model does not read `name`, `description` and `schema`: say in the question what the fields are for.
 */
export type ChatResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name: string; description?: string; schema?: object; strict?: boolean | null } };

/** Parameters of a completion, with OpenAI's names and meanings. */
export interface ChatCompletionParams {
  messages: readonly ChatMessage[];
  /** Ignored: there is one model. */
  model?: string;
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  seed?: number | null;
  stop?: string | readonly string[] | null;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
  n?: number | null;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
  /** An addition of this package, see `GenerationOptions.repetitionPenalty`. */
  repetition_penalty?: number | null;
  presence_penalty?: number | null;
  /** Cannot be combined with `tools`, unless `tool_choice` is `"none"`. */
  response_format?: ChatResponseFormat | null;
  /** Functions that the model may call. Only Qwen3-VL knows them. */
  tools?: readonly ChatTool[] | null;
  /** `"auto"` (default) lets the model decide, `"none"` hides the tools. */
  tool_choice?: "auto" | "none" | null;
  /** Only `true`: the model may write several calls. */
  parallel_tool_calls?: true | null;
}

export interface Conversation {
  system: string | undefined;
  history: Message[];
  question: Part[];
}

const anyDetail = oneOf("auto", "low", "high");
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
const anyObject: Check = { expected: "an object", accepts: isObject };
/** JSON schema of every object. */
export const ANY_OBJECT = { type: "object" };
const role: Check = {
  expected: `"system", "developer", "user", "assistant" or "tool"`,
  accepts: (value) => ["system", "developer", "user", "assistant", "tool"].includes(value as string),
};

/** True for values that ask for nothing: clients send them for parameters that the user did not set. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === 0 || value === "") return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

function checkMessages(params: ChatCompletionParams): void {
  checkArgument("the request", params, anyObject);
  checkArgument("messages", params.messages, {
    expected: "an array of messages",
    accepts: (value) => Array.isArray(value) && value.length > 0,
  });
}

/** True if the model may call tools of the request. */
const offersTools = ({ tools, tool_choice }: ChatCompletionParams): boolean => !isEmpty(tools) && tool_choice !== "none";

/** True if the request has tools, or messages about their calls. */
export function hasTools(params: ChatCompletionParams): boolean {
  checkMessages(params);
  return (
    offersTools(params) || params.messages.some((message) => isObject(message) && (message.role === "tool" || !isEmpty(message.tool_calls)))
  );
}

/** Reads the messages and tools of a request with tools. The template joins nothing: each message stays one. */
export function toolConversation(params: ChatCompletionParams, view: QuestionView, signal?: AbortSignal): PreparedRequest {
  const pictures: Picture[] = [];
  const called = new Set<string>();
  const messages = params.messages.map((message, index): EngineMessage => {
    const place = `messages[${index}]`;
    checkArgument(place, message, anyObject);
    checkArgument(`${place}.role`, message.role, role);
    checkKeys(place, message);
    const parts = partsOf(place, message);
    if (message.role === "user") {
      const question = new Question(parts, view, signal, `${place}.content`);
      const content = question.parts(pictures);
      pictures.push(...question.pictures);
      return { role: "user", content };
    }
    const content = [{ text: textOf(parts) }];
    if (message.role === "assistant") {
      const calls = message.tool_calls ? checkCalls(`${place}.tool_calls`, message.tool_calls) : [];
      calls.forEach(({ id }) => called.add(id));
      // A list without parts is an answer without text.
      return { role: "assistant", content: textOf(parts) === "" ? [] : content, tool_calls: calls.map((call) => call.function) };
    }
    if (message.role === "tool") {
      checkArgument(`${place}.tool_call_id`, message.tool_call_id, {
        expected: "the `id` of a call before it",
        accepts: (id) => called.has(id as string),
      });
      return { role: "tool", content };
    }
    if (index > 0) throw refused(`${place}: a ${message.role} message can only be the first with tools`);
    return { role: "system", content };
  });
  const last = messages.at(-1)?.role;
  if (last !== "user" && last !== "tool") throw refused("messages: the last message must be of the role `user` or `tool`");
  const tools = offersTools(params) ? toolTexts(params.tools) : [];
  if (tools.length > 0 && (params.parallel_tool_calls as unknown) === false) {
    throw refused("`parallel_tool_calls: false` is not possible with a model in the browser: use the first call alone");
  }
  return { prompt: { kind: "messages", messages, tools }, pictures };
}

/** Reads the messages. Messages of one role in a row are joined by line ends, as most servers do. */
export function conversation(params: ChatCompletionParams): Conversation {
  checkMessages(params);
  const system: string[] = [];
  const turns: { role: "user" | "assistant"; parts: Part[] }[] = [];
  params.messages.forEach((message, index) => {
    const place = `messages[${index}]`;
    checkArgument(place, message, anyObject);
    checkArgument(`${place}.role`, message.role, role);
    checkKeys(place, message);
    const parts = partsOf(place, message);
    const latest = turns.at(-1);
    if (message.role === "system" || message.role === "developer") {
      if (latest) throw refused(`${place}: a ${message.role} message can only be at the beginning`);
      system.push(textOf(parts));
    } else if (latest?.role === message.role) {
      // A picture ends its line itself.
      if (typeof latest.parts.at(-1) === "string") latest.parts.push("\n");
      latest.parts.push(...parts);
    } else {
      if (!latest && message.role === "assistant") throw refused(`${place}: an answer has no question before it`);
      // A `tool` message makes the request one with tools.
      turns.push({ role: message.role as "user" | "assistant", parts });
    }
  });
  const question = turns.pop();
  if (question?.role !== "user") throw refused("messages: the last message must be of the role `user`");
  const history = turns.map(({ role, parts }): Message => (role === "user" ? { role, content: parts } : { role, content: textOf(parts) }));
  return {
    system: system.length > 0 ? system.join("\n") : undefined,
    history,
    question: question.parts,
  };
}

/** True if all pictures of checked messages have the detail `"low"`. */
export function isLowDetail({ messages }: ChatCompletionParams): boolean {
  // Only questions have pictures. The content of an answer is not checked where its `raw` counts.
  const parts = messages.flatMap(({ role, content }) => (role !== "user" || typeof content === "string" ? [] : (content ?? [])));
  const pictures = parts.filter((part) => part.type === "image_url");
  const details = pictures.map(({ image_url }) => (typeof image_url === "string" ? undefined : image_url.detail));
  return details.length > 0 && details.every((detail) => detail === "low");
}

/** Keys of a message that are read, and those of an answer of this facade that is sent back. */
const MESSAGE_KEYS = ["role", "content"];
const ANSWER_KEYS = [...MESSAGE_KEYS, "raw", "objects", "tool_calls"];
const RESULT_KEYS = [...MESSAGE_KEYS, "tool_call_id", "name"];

function checkKeys(place: string, message: ChatMessage): void {
  const keys = message.role === "assistant" ? ANSWER_KEYS : message.role === "tool" ? RESULT_KEYS : MESSAGE_KEYS;
  for (const [key, value] of Object.entries(message)) {
    if (!keys.includes(key) && !isEmpty(value)) throw refused(`${place}.${key} is not possible with a model in the browser`);
  }
}

/** Returns the parts of a message; those of other roles than `user` are texts. */
function partsOf(place: string, { role, content, raw, tool_calls }: ChatMessage): Part[] {
  if (role === "assistant" && raw != null) {
    checkArgument(`${place}.raw`, raw, anyString);
    return [raw];
  }
  if (content == null && !isEmpty(tool_calls)) return [];
  if (typeof content === "string") return [content];
  checkArgument(`${place}.content`, content, { expected: "a string or an array of parts", accepts: Array.isArray });
  return (content ?? []).map((part, index): Part => {
    const at = `${place}.content[${index}]`;
    checkArgument(at, part, anyObject);
    if (part.type === "text") {
      checkArgument(`${at}.text`, part.text, anyString);
      return part.text;
    }
    checkArgument(`${at}.type`, part.type, { expected: `"text" or "image_url"`, accepts: (type) => type === "image_url" });
    if (role !== "user") throw refused(`${at}: only messages of the role \`user\` can have pictures`);
    const { image_url } = part;
    const image: unknown = isObject(image_url) ? image_url.url : image_url;
    const url = isObject(image_url) ? `${at}.image_url.url` : `${at}.image_url`;
    checkArgument(url, image, {
      expected: "{ url } with an address or a picture",
      accepts: (value) => value !== undefined && value !== null,
    });
    if (!(image instanceof ImageRef)) checkImage(url, image);
    if (isObject(image_url) && image_url.detail != null) checkArgument(`${at}.image_url.detail`, image_url.detail, anyDetail);
    return { image };
  });
}

/** Returns the text of parts that have no pictures. */
function textOf(parts: readonly Part[]): string {
  return parts.filter((part) => typeof part === "string").join("");
}

/** Checks of the parameters that become options of the run. */
const CHECKS: Record<string, Check> = {
  max_tokens: whole(1),
  max_completion_tokens: whole(1),
  temperature: anyNumber,
  top_p: anyNumber,
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  stop: either(anyString, arrayOf(anyString, "strings")),
  logprobs: anyBoolean,
  top_logprobs: whole(0),
  n: { expected: "1", accepts: (value) => value === 1 },
  stream: anyBoolean,
  stream_options: anyObject,
  response_format: anyObject,
  repetition_penalty: anyNumber,
  presence_penalty: anyNumber,
};

/** Parameters that do not change the options of the run. */
const WITHOUT_EFFECT = new Set(["messages", "model", "user", "metadata", "store", "tools"]);

/** Values of other parameters that ask for what happens anyway. */
const DEFAULTS: Record<string, (value: unknown) => boolean> = {
  tool_choice: (value) => value === "auto" || value === "none",
  parallel_tool_calls: (value) => value === true,
  modalities: (value) => JSON.stringify(value) === `["text"]`,
  service_tier: (value) => value === "auto" || value === "default",
};

/** Reads the parameters. An explicit sampling parameter means sampling, as everywhere in this package. */
export function generation(params: ChatCompletionParams): AskOptions {
  for (const [key, value] of Object.entries(params) as [string, unknown][]) {
    const check = Object.hasOwn(CHECKS, key) ? CHECKS[key] : undefined;
    if (value === null || value === undefined || WITHOUT_EFFECT.has(key)) continue;
    if (check) checkArgument(key, value, check);
    else if (!isEmpty(value) && !(Object.hasOwn(DEFAULTS, key) && DEFAULTS[key]?.(value)))
      throw refused(`\`${key}\` is not possible with a model in the browser`);
  }
  const { max_tokens, max_completion_tokens, temperature, top_p, seed, stop, logprobs, top_logprobs } = params;
  const { repetition_penalty, presence_penalty } = params;
  if (max_tokens != null && max_completion_tokens != null && max_tokens !== max_completion_tokens) {
    throw refused(`\`max_tokens\` is ${max_tokens} and \`max_completion_tokens\` is ${max_completion_tokens}: give one of them`);
  }
  if (top_logprobs != null && !logprobs) throw refused("`top_logprobs` needs `logprobs: true`");
  if (params.stream_options != null && !params.stream) throw refused("`stream_options` needs `stream: true`");
  const maxTokens = max_completion_tokens ?? max_tokens;
  const constraint = responseConstraint(params.response_format);
  if (constraint && offersTools(params)) {
    throw refused(
      '`response_format` is not possible with `tools`, whose calls it would exclude: leave one out, or set `tool_choice: "none"`',
    );
  }
  return {
    ...(maxTokens == null ? {} : { maxTokens }),
    ...(temperature == null ? {} : { temperature }),
    ...(top_p == null ? {} : { topP: top_p }),
    ...(seed == null ? {} : { seed }),
    ...(stop == null ? {} : { stop }),
    ...(logprobs ? { logprobs: top_logprobs ?? true } : {}),
    ...(repetition_penalty == null ? {} : { repetitionPenalty: repetition_penalty }),
    ...(presence_penalty == null ? {} : { presencePenalty: presence_penalty }),
    ...(constraint ? { constraint } : {}),
  };
}

/** Returns the constraint of a form; `undefined` if any text is possible. */
function responseConstraint(format: ChatResponseFormat | null | undefined): Constraint | undefined {
  if (format == null) return undefined;
  checkArgument("response_format.type", format.type, oneOf("text", "json_object", "json_schema"));
  if (format.type === "text") return undefined;
  if (format.type === "json_object") return { jsonSchema: ANY_OBJECT };
  checkArgument("response_format.json_schema", format.json_schema, anyObject);
  const { schema = ANY_OBJECT } = format.json_schema;
  checkArgument("response_format.json_schema.schema", schema, anyObject);
  return { jsonSchema: schema };
}

function refused(message: string): QwenVLError {
  return new QwenVLError("INVALID_ARGUMENT", message);
}
