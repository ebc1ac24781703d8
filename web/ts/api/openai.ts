import type { Answer, AnswerLogprob, FinishReason, Grounded, TokenLogprob } from "../wire/types.js";
import type { QwenVLModel } from "./model.js";
import { generation, isLowDetail, type ChatCompletionParams } from "./openai-request.js";
import { chatRun, listen, withoutCalls, type Reading, type SaidEvent } from "./openai-run.js";
import type { ChatToolCall, Said } from "./openai-tools.js";
import { trimOf } from "./trim.js";

export type { ChatCompletionParams, ChatContentPart, ChatMessage, ChatResponseFormat } from "./openai-request.js";
export type { ChatTool, ChatToolCall } from "./openai-tools.js";

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
      message: {
        role: "assistant";
        /** `null` in an answer that has calls and no text. */
        content: string | null;
        refusal: null;
        raw: string;
        objects: Grounded[];
        tool_calls?: ChatToolCall[];
      };
      logprobs: ChoiceLogprobs | null;
      finish_reason: ChatFinishReason;
    },
  ];
  usage: CompletionUsage;
}

export type ChatFinishReason = "stop" | "length" | "tool_calls";

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: {
    index: 0;
    /** `raw` is the whole text with its markup of objects, in the last chunk. It belongs into the message that is sent back. */
    delta: {
      role?: "assistant";
      content?: string;
      raw?: string;
      objects?: Grounded[];
      /** Whole calls. */
      tool_calls?: (ChatToolCall & { index: number })[];
    };
    /** In the last chunk of the answer, if they were requested. */
    logprobs: ChoiceLogprobs | null;
    finish_reason: ChatFinishReason | null;
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
    const { signal } = options;
    const { tooled, start } = chatRun(model, params, signal);
    const limits = isLowDetail(params) ? { maxPictureTokens: Math.min(LOW_DETAIL_TOKENS, model.info.pictureTokens.max) } : {};
    const settings = { ...limits, ...generation(params), ...(signal ? { signal } : {}) };
    // The text of an answer has no markup of objects, which in later generations is JSON.
    const markup = tags || settings.constraint !== undefined;
    const head = { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model: name };
    const reading = { tooled, trim: trimOf(settings) };
    const run = start(settings);
    if (params.stream) return chunks(listen(run, markup, reading), head, params.stream_options?.include_usage ?? false, reading);
    const answer = await run;
    const { objects } = answer;
    const [said, whole] = [markup ? answer.raw : answer.text, answer.raw].map((text) => withoutCalls(text, reading)) as [Said, Said];
    const message = {
      role: "assistant",
      content: said.text === "" && said.calls.length > 0 ? null : said.text,
      refusal: null,
      raw: whole.text,
      objects,
      ...(said.calls.length > 0 ? { tool_calls: said.calls } : {}),
    } as const;
    const logprobs = answer.logprobs ? choiceLogprobs(answer.logprobs) : null;
    const finish_reason = finishReason(answer.finishReason, said.calls.length > 0);
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
  events: AsyncIterable<SaidEvent>,
  head: { id: string; created: number; model: string },
  includeUsage: boolean,
  reading: Reading,
): AsyncGenerator<ChatCompletionChunk, void, undefined> {
  type Choice = ChatCompletionChunk["choices"][0];
  const chunk = (delta: Choice["delta"], end: Partial<Choice> = {}): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, logprobs: null, finish_reason: null, ...end }],
    ...(includeUsage ? { usage: null } : {}),
  });
  yield chunk({ role: "assistant", content: "" });
  let calls = 0;
  for await (const event of events) {
    if ("text" in event) yield chunk({ content: event.text });
    else if ("call" in event) yield chunk({ tool_calls: [{ index: calls++, ...event.call }] });
    else if ("object" in event) yield chunk({ objects: [event.object] });
    else {
      const { raw, finishReason: reason, logprobs } = event.answer;
      const end = { finish_reason: finishReason(reason, calls > 0), logprobs: logprobs ? choiceLogprobs(logprobs) : null };
      yield chunk({ raw: withoutCalls(raw, reading).text }, end);
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

function finishReason(reason: FinishReason, called: boolean): ChatFinishReason {
  if (called && reason === "stop") return "tool_calls";
  return reason === "length" || reason === "context" || reason === "loop" ? "length" : "stop";
}
