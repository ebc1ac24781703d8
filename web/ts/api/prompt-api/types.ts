/** The types of the Prompt API (https://webmachinelearning.github.io/prompt-api/), and what this package adds to them. */

import type { Grounded } from "../../wire/types.js";

export type Availability = "unavailable" | "downloadable" | "downloading" | "available";

/** Target of `downloadprogress` events, whose `loaded` grows from 0 to 1. */
export interface CreateMonitor extends EventTarget {
  ondownloadprogress: ((event: ProgressEvent) => unknown) | null;
}

export type CreateMonitorCallback = (monitor: CreateMonitor) => void;

export type LanguageModelMessageRole = "system" | "user" | "assistant";

/** Of these, a model takes `"text"` and `"image"`. */
export type LanguageModelMessageType = "text" | "image" | "audio" | "tool-call" | "tool-response";

export type LanguageModelMessageValue = ImageBitmapSource | AudioBuffer | BufferSource | string;

export interface LanguageModelMessageContent {
  type: LanguageModelMessageType;
  value: LanguageModelMessageValue;
}

export interface LanguageModelMessage {
  role: LanguageModelMessageRole;
  content: string | readonly LanguageModelMessageContent[];
  /** The model continues this text. For the last message, of the role `"assistant"`. */
  prefix?: boolean;
}

/** A text is a message of the user. */
export type LanguageModelPrompt = string | readonly LanguageModelMessage[];

/** An input or output of a session. */
export interface LanguageModelExpected {
  type: LanguageModelMessageType;
  /** BCP 47 language tags. */
  languages?: readonly string[];
}

/** From the most likely answer to the most surprising. The two that begin with `slightly` are those of Chromium. */
export type LanguageModelSamplingMode =
  "most-predictable" | "predictable" | "slightly-predictable" | "balanced" | "slightly-creative" | "creative" | "most-creative";

/** A tool. No model takes any: `availability` is then `"unavailable"`. */
export interface LanguageModelTool {
  name: string;
  description: string;
  inputSchema: object;
  execute: (...args: any[]) => Promise<string>;
}

export interface LanguageModelCreateCoreOptions {
  /** `"balanced"` by default: the checkpoint's own sampling. */
  samplingMode?: LanguageModelSamplingMode;
  /** Most likely tokens to sample from. Not together with `samplingMode`. */
  topK?: number;
  /** Divisor of the logits. Not together with `samplingMode`. */
  temperature?: number;
  expectedInputs?: readonly LanguageModelExpected[];
  expectedOutputs?: readonly LanguageModelExpected[];
  tools?: readonly LanguageModelTool[];
}

export interface LanguageModelCreateOptions extends LanguageModelCreateCoreOptions {
  /** Aborts the creation, and afterwards destroys the session. */
  signal?: AbortSignal;
  monitor?: CreateMonitorCallback;
  /** The beginning of the conversation, which is never left out. A system message can only be the first. */
  initialPrompts?: readonly LanguageModelMessage[];
}

export interface LanguageModelPromptOptions {
  /** A JSON schema, or a `RegExp` that matches the whole answer. */
  responseConstraint?: object;
  /** True to leave the constraint out of the prompt. */
  omitResponseConstraintInput?: boolean;
  signal?: AbortSignal;
}

export interface LanguageModelAppendOptions {
  signal?: AbortSignal;
}

export interface LanguageModelCloneOptions {
  signal?: AbortSignal;
}

export interface LanguageModelParams {
  readonly defaultTopK: number;
  readonly maxTopK: number;
  readonly defaultTemperature: number;
  readonly maxTemperature: number;
}

/** A session. */
export interface LanguageModel extends EventTarget {
  prompt(input: LanguageModelPrompt, options?: LanguageModelPromptOptions): Promise<string>;
  promptStreaming(input: LanguageModelPrompt, options?: LanguageModelPromptOptions): ReadableStream<string>;
  /** Adds messages without an answer, and encodes their pictures. */
  append(input: LanguageModelPrompt, options?: LanguageModelAppendOptions): Promise<undefined>;
  /** Returns the tokens that a prompt takes. */
  measureContextUsage(input: LanguageModelPrompt, options?: LanguageModelPromptOptions): Promise<number>;
  /** Tokens of the conversation. */
  readonly contextUsage: number;
  /** Most tokens of the conversation. */
  readonly contextWindow: number;
  /** Called when the oldest prompts and answers are left out. */
  oncontextoverflow: ((event: Event) => unknown) | null;
  /** The former name of {@link measureContextUsage}. */
  measureInputUsage(input: LanguageModelPrompt, options?: LanguageModelPromptOptions): Promise<number>;
  /** The former name of {@link contextUsage}. */
  readonly inputUsage: number;
  /** The former name of {@link contextWindow}. */
  readonly inputQuota: number;
  /** The former name of {@link oncontextoverflow}. */
  onquotaoverflow: ((event: Event) => unknown) | null;
  readonly topK: number;
  readonly temperature: number;
  /** `null` for a session with a `topK` or a `temperature`. */
  readonly samplingMode: LanguageModelSamplingMode | null;
  clone(options?: LanguageModelCloneOptions): Promise<LanguageModel>;
  destroy(): undefined;
}

/** A session of this package. */
export interface GroundingLanguageModel extends LanguageModel {
  /** Things that the latest answer points at in the pictures of the conversation; not part of the specification. */
  readonly objects: readonly Grounded[];
  clone(options?: LanguageModelCloneOptions): Promise<GroundingLanguageModel>;
}

/** The class `LanguageModel`. */
export type LanguageModelClass<Session extends LanguageModel = LanguageModel> = (abstract new () => Session) & {
  readonly prototype: Session;
  create(options?: LanguageModelCreateOptions): Promise<Session>;
  availability(options?: LanguageModelCreateCoreOptions): Promise<Availability>;
  /** Fulfills with `null` where no model can run. */
  params(): Promise<LanguageModelParams>;
};
