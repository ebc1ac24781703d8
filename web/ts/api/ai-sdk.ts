import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart,
  LanguageModelV4Usage,
  ProviderV4,
  SharedV4ProviderMetadata,
} from "@ai-sdk/provider";
import { QwenVLError } from "../wire/errors.js";
import type { Answer, AnswerLogprob, FinishReason, Grounded, Timings } from "../wire/types.js";
import { NAME, readCall } from "./ai-sdk-request.js";
import type { QwenVLModel } from "./model.js";
import { chatRun, listen, withoutCalls, type Reading, type SaidEvent } from "./openai-run.js";
import type { ChatToolCall } from "./openai-tools.js";
import { begun, trimmed, trimOf } from "./trim.js";

export interface QwenVLProviderSettings {
  /** Id of the model; the checkpoint's name by default. */
  name?: string;
}

/**
 * Metadata of answers, as `providerMetadata.qwenVL`. That of a text part has `objects` and `raw`, also while the text is streamed; that of a step
 * and of a result has all but `raw`.
 */
export interface QwenVLMetadata {
  /** Objects that the answer points at. Their ranges are places in the text without markup, which an answer with a form keeps. */
  objects: Grounded[];
  /** The text with its markup of objects. Messages that are sent back as they came contain it, and the model reads it in place of the text. */
  raw?: string;
  timings?: Timings;
  /** One for each token, if `providerOptions.qwenVL.logprobs` asked for them. */
  logprobs?: AnswerLogprob[];
}

/** A provider of one model, which is loaded already. */
export interface QwenVLProvider extends ProviderV4 {
  (modelId?: string): LanguageModelV4;
  /** Returns the model. */
  languageModel(modelId?: string): LanguageModelV4;
}

/** Returns a provider for a loaded model. Calls wait for each other: the model answers one at a time. */
export function createQwenVL(model: QwenVLModel, { name = model.info.source }: QwenVLProviderSettings = {}): QwenVLProvider {
  const languageModel = (modelId = name): LanguageModelV4 => {
    if (modelId === name) return new BrowserModel(model, name);
    throw new QwenVLError("INVALID_ARGUMENT", `\`modelId\` is "${modelId}", expected "${name}" or none: the provider has one model`);
  };
  const missing = (what: string) => () => {
    throw new QwenVLError("INVALID_ARGUMENT", `the model of this provider makes no ${what}: take another provider`);
  };
  return Object.assign((modelId?: string) => languageModel(modelId), {
    specificationVersion: "v4" as const,
    languageModel,
    embeddingModel: missing("embeddings"),
    imageModel: missing("images"),
  });
}

/** A loaded model as the AI SDK sees it. */
class BrowserModel implements LanguageModelV4 {
  readonly specificationVersion = "v4";
  readonly provider = NAME;
  /** Addresses that the package fetches itself. */
  readonly supportedUrls = { "image/*": [/^(https?|blob|data):/] };
  readonly modelId: string;
  readonly #model: QwenVLModel;

  constructor(model: QwenVLModel, name: string) {
    this.#model = model;
    this.modelId = name;
  }

  async doGenerate(options: LanguageModelV4CallOptions) {
    const { said, reading, warnings } = this.#start(options);
    const calls: LanguageModelV4Content[] = [];
    let text = "";
    let ended: Answer | undefined;
    for await (const event of said) {
      if ("text" in event) text += event.text;
      else if ("call" in event) calls.push(toolCall(event.call));
      else if ("answer" in event) ended = event.answer;
    }
    const answer = ended as Answer;
    const raw = withoutCalls(answer.raw, reading).text;
    text = trimmed(text, reading.trim);
    const content = [...calls];
    if (raw !== "" || calls.length === 0) content.unshift({ type: "text", text, ...metadata({ objects: answer.objects, raw }) });
    return { content, ...ending(answer, calls.length > 0), warnings, response: this.#response };
  }

  async doStream(options: LanguageModelV4CallOptions) {
    const { run, said, reading, warnings } = this.#start(options);
    const parts = streamed(said, reading, options.abortSignal);
    const head: LanguageModelV4StreamPart[] = [
      { type: "stream-start", warnings },
      { type: "response-metadata", ...this.#response },
    ];
    const stream = new ReadableStream<LanguageModelV4StreamPart>({
      start: (controller) => head.forEach((part) => controller.enqueue(part)),
      async pull(controller) {
        const { done, value } = await parts.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: () => run.cancel(),
    });
    return { stream };
  }

  get #response() {
    return { modelId: this.modelId, timestamp: new Date() };
  }

  /** Starts a run. */
  #start(options: LanguageModelV4CallOptions) {
    const { params, settings, isJson, warnings } = readCall(options, this.#model.info.family);
    const { tooled, start } = chatRun(this.#model, params, options.abortSignal);
    const run = start(settings);
    const reading = { tooled, trim: trimOf(settings) };
    // JSON of a form can look like the markup of objects.
    const markup = isJson || settings.constraint !== undefined;
    return { run, said: listen(run, markup, reading), reading, warnings };
  }
}

/** Id of the one text part of an answer. */
const TEXT = "0";

async function* streamed(
  events: AsyncIterable<SaidEvent>,
  reading: Reading,
  signal?: AbortSignal,
): AsyncGenerator<LanguageModelV4StreamPart, void> {
  const objects: Grounded[] = [];
  let open = false;
  let trim = reading.trim;
  let called = false;
  const pass = function* (delta: string, pointed = {}): Generator<LanguageModelV4StreamPart, void> {
    if (!open) yield { type: "text-start", id: TEXT };
    open = true;
    yield { type: "text-delta", id: TEXT, delta, ...pointed };
  };
  try {
    for await (const event of events) {
      if ("text" in event) {
        const text: string = begun(event.text, trim);
        if (text === "") continue;
        // White space after the first text stays.
        trim = "none";
        yield* pass(text);
      } else if ("object" in event) {
        objects.push(event.object);
        yield* pass("", metadata({ objects: [...objects] }));
      } else if ("call" in event) {
        const { id, function: input } = event.call;
        called = true;
        yield { type: "tool-input-start", id, toolName: input.name };
        yield { type: "tool-input-delta", id, delta: input.arguments };
        yield { type: "tool-input-end", id };
        yield toolCall(event.call);
      } else {
        const { answer } = event;
        const raw = withoutCalls(answer.raw, reading).text;
        if (open) yield { type: "text-end", id: TEXT, ...metadata({ objects: answer.objects, raw }) };
        yield { type: "finish", ...ending(answer, called) };
      }
    }
  } catch (error) {
    // The AI SDK distinguishes an aborted call by its signal.
    if (signal?.aborted) throw error;
    yield { type: "error", error };
    yield { type: "finish", usage: usage(), finishReason: { unified: "error", raw: undefined } };
  }
}

function toolCall({ id, function: { name, arguments: input } }: ChatToolCall) {
  return { type: "tool-call" as const, toolCallId: id, toolName: name, input };
}

function metadata(data: QwenVLMetadata): { providerMetadata: SharedV4ProviderMetadata } {
  return { providerMetadata: { [NAME]: data as unknown as SharedV4ProviderMetadata[string] } };
}

function ending(answer: Answer, called: boolean) {
  const { objects, timings, logprobs } = answer;
  return {
    finishReason: finishReason(answer.finishReason, called),
    usage: usage(answer.usage),
    ...metadata({ objects, timings, ...(logprobs ? { logprobs } : {}) }),
  };
}

function usage(used?: Answer["usage"]): LanguageModelV4Usage {
  const { promptTokens: total, reusedTokens: cacheRead, completionTokens } = used ?? {};
  const noCache = used && used.promptTokens - used.reusedTokens;
  return {
    inputTokens: { total, noCache, cacheRead, cacheWrite: undefined },
    outputTokens: { total: completionTokens, text: completionTokens, reasoning: undefined },
    ...(used ? { raw: { ...used } } : {}),
  };
}

function finishReason(raw: FinishReason, called: boolean): LanguageModelV4FinishReason {
  if (raw === "length" || raw === "context") return { unified: "length", raw };
  if (raw === "loop" || raw === "cancelled") return { unified: "other", raw };
  return { unified: called ? "tool-calls" : "stop", raw };
}
