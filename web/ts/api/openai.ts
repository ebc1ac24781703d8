import type { Answer, AnswerLogprob, FinishReason, Grounded, TokenLogprob } from "../wire/types.js";
import type { QwenVLModel } from "./model.js";
import { conversation, generation, type ChatCompletionParams } from "./openai-request.js";
import type { Run } from "./run.js";

export type { ChatCompletionParams, ChatContentPart, ChatMessage } from "./openai-request.js";

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
  /** Seconds since 1970-01-01 UTC. */
  created: number;
  model: string;
  choices: [
    {
      index: 0;
      /** To continue the conversation, send it back as it is: `raw` is the text with its markup of objects. */
      message: { role: "assistant"; content: string; refusal: null; raw: string; objects: Grounded[] };
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
    /** `raw` is the whole text with its markup of objects, in the last chunk. It belongs into the message that is sent back. */
    delta: { role?: "assistant"; content?: string; raw?: string; objects?: Grounded[] };
    /** In the last chunk of the answer, if they were requested. */
    logprobs: ChoiceLogprobs | null;
    finish_reason: "stop" | "length" | null;
  }[];
  usage?: CompletionUsage | null;
}

export interface OpenAIOptions {
  /** Name of the model; the checkpoint's name by default. */
  name?: string;
  /** Keeps the markup of objects in the text, as the original's server does. */
  tags?: boolean;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

/** A stream of chunks. Leaving the loop cancels the answer. */
export type ChatCompletionStream = AsyncIterable<ChatCompletionChunk>;

/** The part of OpenAI's client that a model in the browser can serve. */
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

/** Most tokens of a picture of low detail: 512×512 pixels in Qwen3-VL, as OpenAI's models see it. */
const LOW_DETAIL_TOKENS = 256;

/** Returns a client for a loaded model. */
export function createOpenAI(model: QwenVLModel, { name = model.info.source, tags = false }: OpenAIOptions = {}): OpenAIClient {
  async function create(params: ChatCompletionParams, options: RequestOptions = {}): Promise<ChatCompletion | ChatCompletionStream> {
    const { lowDetail, system, history, question } = conversation(params);
    const limits = lowDetail ? { maxPictureTokens: Math.min(LOW_DETAIL_TOKENS, model.info.pictureTokens.max) } : {};
    const settings = { ...limits, ...generation(params) };
    const session = model.createSession({ history, ...(system === undefined ? {} : { system }) });
    const head = { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model: name };
    const run = session.ask(question, { ...settings, ...(options.signal ? { signal: options.signal } : {}) });
    if (params.stream) return chunks(run, head, params.stream_options?.include_usage ?? false, tags);
    const answer = await run;
    const { text, raw, objects } = answer;
    const message = { role: "assistant", content: tags ? raw : text, refusal: null, raw, objects } as const;
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

async function* chunks(
  run: Run,
  head: { id: string; created: number; model: string },
  includeUsage: boolean,
  tags: boolean,
): AsyncGenerator<ChatCompletionChunk, void, undefined> {
  type Choice = ChatCompletionChunk["choices"][0];
  const chunk = (delta: Choice["delta"], end: Partial<Choice> = {}): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, logprobs: null, finish_reason: null, ...end }],
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
      // Tags after the last text.
      const { raw, finishReason: reason, logprobs } = event.answer;
      const rest = tags ? raw.slice(sent.trimStart().length) : "";
      if (rest) yield chunk({ content: rest });
      yield chunk({ raw }, { finish_reason: finishReason(reason), logprobs: logprobs ? choiceLogprobs(logprobs) : null });
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
  return reason === "length" || reason === "context" || reason === "loop" ? "length" : "stop";
}
