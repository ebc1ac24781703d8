import type { Content, Message, Part } from "./content.js";
import { QwenVLError } from "../wire/errors.js";
import type { ImageInput } from "./picture.js";
import type { QwenVLModel } from "./model.js";
import type { Run } from "./run.js";
import type { Answer, AnswerLogprob, AskOptions, FinishReason, Grounded, TokenLogprob } from "../wire/types.js";

/** A piece of a user's message. `url` may be anything that this package takes for a picture. */
export type ChatContentPart = { type: "text"; text: string } | { type: "image_url"; image_url: { url: ImageInput } };

export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant";
  content: string | readonly ChatContentPart[];
}

/** Parameters of a completion. Names and meanings are OpenAI's. */
export interface ChatCompletionParams {
  messages: readonly ChatMessage[];
  /** Not looked at: there is one model. */
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
  /** Of this package: see `GenerationOptions.repetitionPenalty`. */
  repetition_penalty?: number | null;
}

export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number; image_tokens: number };
}

export interface TopLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}

export interface ChoiceLogprobs {
  content: (TopLogprob & { top_logprobs: TopLogprob[] })[];
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  /** Seconds since 1970. */
  created: number;
  model: string;
  choices: [
    {
      index: 0;
      message: { role: "assistant"; content: string; refusal: null; objects: Grounded[] };
      logprobs: ChoiceLogprobs | null;
      finish_reason: "stop" | "length";
    },
  ];
  usage: CompletionUsage;
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: {
    index: 0;
    delta: { role?: "assistant"; content?: string; objects?: Grounded[] };
    logprobs: null;
    finish_reason: "stop" | "length" | null;
  }[];
  usage?: CompletionUsage | null;
}

export interface OpenAIOptions {
  /** What the model is called; the checkpoint's name by default. */
  name?: string;
  /** Leave `<ref>`, `<box>` and `<quad>` tags in the text, as the original's server does. */
  tags?: boolean;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

/** A stream of chunks; leaving the loop ends the answer. */
export type ChatCompletionStream = AsyncIterable<ChatCompletionChunk>;

/** What {@link createOpenAI} makes: the part of OpenAI's client that a model in the browser can serve. */
export interface OpenAIClient {
  chat: {
    completions: {
      create(params: ChatCompletionParams & { stream: true }, options?: RequestOptions): Promise<ChatCompletionStream>;
      create(params: ChatCompletionParams & { stream?: false | null }, options?: RequestOptions): Promise<ChatCompletion>;
      create(params: ChatCompletionParams, options?: RequestOptions): Promise<ChatCompletion | ChatCompletionStream>;
    };
  };
  models: { list(): Promise<{ object: "list"; data: { id: string; object: "model"; created: number; owned_by: string }[] }> };
}

/** Speaks OpenAI's chat completions with a loaded model. */
export function createOpenAI(model: QwenVLModel, { name = model.info.source, tags = false }: OpenAIOptions = {}): OpenAIClient {
  async function create(params: ChatCompletionParams, options: RequestOptions = {}): Promise<ChatCompletion | ChatCompletionStream> {
    const { system, history, question } = conversation(params);
    const session = model.createSession({ history, ...(system === "" ? {} : { system }) });
    const head = { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model: name };
    const run = session.ask(question, { ...generation(params), ...(options.signal ? { signal: options.signal } : {}) });
    if (params.stream) return chunks(run, head, params.stream_options?.include_usage ?? false, tags);
    const answer = await run;
    const message = { role: "assistant", content: tags ? answer.raw : answer.text, refusal: null, objects: answer.objects } as const;
    const logprobs = answer.logprobs ? choiceLogprobs(answer.logprobs) : null;
    const finish_reason = finishReason(answer.finishReason);
    return { ...head, object: "chat.completion", choices: [{ index: 0, message, logprobs, finish_reason }], usage: usage(answer) };
  }
  return {
    chat: { completions: { create: create as OpenAIClient["chat"]["completions"]["create"] } },
    models: {
      list: async () => ({ object: "list", data: [{ id: name, object: "model", created: 0, owned_by: "qwen-vl-web" }] }),
    },
  };
}

function conversation({ messages }: ChatCompletionParams): { system: string; history: Message[]; question: Content } {
  const system: string[] = [];
  const history: Message[] = [];
  messages.forEach(({ role, content }, index) => {
    if (role === "system" || role === "developer") {
      if (history.length > 0) throw refused(`messages[${index}]: a system message can stand at the beginning only`);
      system.push(text(content, index));
    } else if (role === "user") history.push({ role, content: parts(content) });
    else if (role === "assistant") history.push({ role, content: text(content, index) });
    else throw refused(`messages[${index}]: role \`${String(role)}\` is not known here`);
  });
  const question = history.pop();
  if (question?.role !== "user") throw refused("the last message must be of the user");
  return { system: system.join("\n"), history, question: question.content };
}

function parts(content: ChatMessage["content"]): Content {
  if (typeof content === "string") return content;
  return content.map((part): Part => (part.type === "text" ? part.text : { image: part.image_url.url }));
}

function text(content: ChatMessage["content"], index: number): string {
  if (typeof content === "string") return content;
  return content
    .map((part) => {
      if (part.type !== "text") throw refused(`messages[${index}]: only the user shows pictures`);
      return part.text;
    })
    .join("");
}

/** Parameters that are understood, or make no difference. */
const KNOWN = new Set([
  ...["messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs"],
  ...["n", "stream", "stream_options", "repetition_penalty", "user", "metadata", "store"],
]);

function generation(params: ChatCompletionParams): AskOptions {
  for (const [key, value] of Object.entries(params)) {
    const nothing = value === null || value === undefined || value === 0 || (Array.isArray(value) && value.length === 0);
    if (!KNOWN.has(key) && !nothing) throw refused(`\`${key}\` is not possible with a model in the browser`);
  }
  if ((params.n ?? 1) !== 1) throw refused("`n` can be 1 only");
  const maxTokens = params.max_completion_tokens ?? params.max_tokens;
  const { temperature, top_p, seed, stop, logprobs, top_logprobs, repetition_penalty } = params;
  return {
    ...(maxTokens == null ? {} : { maxTokens }),
    ...(temperature == null ? {} : { temperature }),
    ...(top_p == null ? {} : { topP: top_p }),
    ...(seed == null ? {} : { seed }),
    ...(stop == null ? {} : { stop }),
    ...(logprobs ? { logprobs: top_logprobs ?? true } : {}),
    ...(repetition_penalty == null ? {} : { repetitionPenalty: repetition_penalty }),
  };
}

async function* chunks(
  run: Run,
  head: { id: string; created: number; model: string },
  includeUsage: boolean,
  tags: boolean,
): AsyncGenerator<ChatCompletionChunk, void, undefined> {
  type Choice = ChatCompletionChunk["choices"][0];
  const chunk = (delta: Choice["delta"], finish_reason: Choice["finish_reason"] = null): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    ...(includeUsage ? { usage: null } : {}),
  });
  yield chunk({ role: "assistant", content: "" });
  let sent = "";
  for await (const event of run) {
    if (event.type === "text") {
      const content = tags ? event.raw : event.delta;
      sent += content;
      if (content) yield chunk({ content });
    } else if (event.type === "object") yield chunk({ objects: [event.object] });
    else if (event.type === "done") {
      // Tags that came behind the last text.
      const { raw, finishReason: reason } = event.answer;
      const rest = tags ? raw.slice(sent.trimStart().length) : "";
      if (rest) yield chunk({ content: rest });
      yield chunk({}, finishReason(reason));
      if (includeUsage) yield { ...head, object: "chat.completion.chunk", choices: [], usage: usage(event.answer) };
    }
  }
}

function usage({ usage: { promptTokens, completionTokens, reusedTokens, imageTokens } }: Answer): CompletionUsage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens, image_tokens: imageTokens },
  };
}

function choiceLogprobs(logprobs: readonly AnswerLogprob[]): ChoiceLogprobs {
  const one = ({ text, logprob }: TokenLogprob): TopLogprob => ({ token: text, logprob, bytes: [...new TextEncoder().encode(text)] });
  return { content: logprobs.map((token) => ({ ...one(token), top_logprobs: token.top.map(one) })) };
}

function finishReason(reason: FinishReason): "stop" | "length" {
  return reason === "length" || reason === "context" ? "length" : "stop";
}

function refused(message: string): QwenVLError {
  return new QwenVLError("INVALID_ARGUMENT", message);
}
