/** Conversions of the values that callers pass, as Web IDL does them before the steps of a method begin. */

import { describe } from "../../wire/quote.js";
import { abortSignal } from "../options.js";
import type {
  CreateMonitorCallback,
  LanguageModelExpected,
  LanguageModelMessageContent,
  LanguageModelMessageRole,
  LanguageModelMessageType,
  LanguageModelMessageValue,
  LanguageModelSamplingMode,
} from "./types.js";

/** A message with its content as it was passed. */
export interface ConvertedMessage {
  role: LanguageModelMessageRole;
  content: string | LanguageModelMessageContent[];
  prefix: boolean;
}

export type ConvertedPrompt = string | ConvertedMessage[];

export interface ConvertedPromptOptions {
  responseConstraint?: object;
  omitResponseConstraintInput: boolean;
  signal?: AbortSignal;
}

export interface ConvertedCoreOptions {
  samplingMode?: LanguageModelSamplingMode;
  topK?: number;
  temperature?: number;
  expectedInputs: LanguageModelExpected[];
  expectedOutputs: LanguageModelExpected[];
  /** Number of tools. */
  tools: number;
}

export interface ConvertedCreateOptions extends ConvertedCoreOptions {
  signal?: AbortSignal;
  monitor?: CreateMonitorCallback;
  initialPrompts?: ConvertedMessage[];
}

type Dictionary = Readonly<Record<string, unknown>>;

const ROLES = ["system", "user", "assistant"] as const;
const TYPES = ["text", "image", "audio", "tool-call", "tool-response"] as const;
const MODES = [
  "most-predictable",
  "predictable",
  "slightly-predictable",
  "balanced",
  "slightly-creative",
  "creative",
  "most-creative",
] as const;

/** Names of the classes of `ImageBitmapSource`. Objects of other windows have them too. */
const PICTURES = new Set([
  "Blob",
  "File",
  "ImageData",
  "ImageBitmap",
  "HTMLImageElement",
  "SVGImageElement",
  "HTMLVideoElement",
  "HTMLCanvasElement",
  "OffscreenCanvas",
  "VideoFrame",
]);

/** Returns the name of an object's class. */
function className(value: object): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}

/** True if a value is an `ImageBitmapSource` or a `BufferSource`. */
export function isPicture(value: unknown): boolean {
  return typeof value === "object" && value !== null && (isBuffer(value) || PICTURES.has(className(value)));
}

/** True if a value is a `RegExp`. */
export function isRegExp(value: object): value is RegExp {
  return className(value) === "RegExp";
}

function isBuffer(value: object): boolean {
  return ArrayBuffer.isView(value) || className(value) === "ArrayBuffer";
}

/** Converts the first argument of `prompt` and its like. What is not a list of messages is a text. */
export function promptOf(input: unknown): ConvertedPrompt {
  const list = sequenceOf(input);
  return list ? list.map((message, index) => messageOf(`input[${index}]`, message)) : text("input", input);
}

/** Converts the options of `prompt`, `append` and `clone`. */
export function promptOptionsOf(options: unknown): ConvertedPromptOptions {
  const { responseConstraint, omitResponseConstraintInput, signal } = dictionary("options", options);
  if (responseConstraint !== undefined && !isObject(responseConstraint)) {
    throw wrong("responseConstraint", responseConstraint, "a JSON schema or a RegExp");
  }
  return {
    ...(responseConstraint === undefined ? {} : { responseConstraint }),
    omitResponseConstraintInput: Boolean(omitResponseConstraintInput),
    ...signalOf(signal),
  };
}

/** Converts the options of `availability`. */
export function coreOptionsOf(options: unknown): ConvertedCoreOptions {
  const { expectedInputs, expectedOutputs, samplingMode, temperature, tools, topK } = dictionary("options", options);
  return {
    ...(samplingMode === undefined ? {} : { samplingMode: oneOf("samplingMode", samplingMode, MODES) }),
    ...(topK === undefined ? {} : { topK: Number(topK) }),
    ...(temperature === undefined ? {} : { temperature: Number(temperature) }),
    expectedInputs: listOf("expectedInputs", expectedInputs, expectedOf),
    expectedOutputs: listOf("expectedOutputs", expectedOutputs, expectedOf),
    tools: listOf("tools", tools, checkTool).length,
  };
}

/** Converts the options of `create`. */
export function createOptionsOf(options: unknown): ConvertedCreateOptions {
  const core = coreOptionsOf(options);
  const { initialPrompts, monitor, signal } = dictionary("options", options);
  if (monitor !== undefined && typeof monitor !== "function") throw wrong("monitor", monitor, "a function");
  return {
    ...core,
    ...(initialPrompts === undefined ? {} : { initialPrompts: listOf("initialPrompts", initialPrompts, messageOf) }),
    ...(monitor === undefined ? {} : { monitor: monitor as CreateMonitorCallback }),
    ...signalOf(signal),
  };
}

function messageOf(name: string, value: unknown): ConvertedMessage {
  const { content, prefix, role } = dictionary(name, value);
  if (content === undefined) throw wrong(`${name}.content`, content, "a string or an array of { type, value }");
  const parts = sequenceOf(content);
  return {
    role: oneOf(`${name}.role`, role, ROLES),
    content: parts ? parts.map((part, index) => contentOf(`${name}.content[${index}]`, part)) : text(`${name}.content`, content),
    prefix: Boolean(prefix),
  };
}

function contentOf(name: string, part: unknown): LanguageModelMessageContent {
  const { type, value } = dictionary(name, part);
  if (value === undefined) throw wrong(`${name}.value`, value, "a string or a picture");
  const known = isPicture(value) || (isObject(value) && className(value) === "AudioBuffer");
  return {
    type: oneOf<LanguageModelMessageType>(`${name}.type`, type, TYPES),
    value: known ? (value as LanguageModelMessageValue) : text(`${name}.value`, value),
  };
}

function expectedOf(name: string, value: unknown): LanguageModelExpected {
  const { languages, type } = dictionary(name, value);
  return {
    type: oneOf<LanguageModelMessageType>(`${name}.type`, type, TYPES),
    ...(languages === undefined ? {} : { languages: listOf(`${name}.languages`, languages, text) }),
  };
}

function checkTool(name: string, value: unknown): void {
  const { description, execute, inputSchema, name: called } = dictionary(name, value);
  if (called === undefined) throw wrong(`${name}.name`, called, "a string");
  if (description === undefined) throw wrong(`${name}.description`, description, "a string");
  if (!isObject(inputSchema)) throw wrong(`${name}.inputSchema`, inputSchema, "a JSON schema");
  if (typeof execute !== "function") throw wrong(`${name}.execute`, execute, "a function");
}

function signalOf(signal: unknown): { signal?: AbortSignal } {
  if (signal === undefined) return {};
  if (!abortSignal.accepts(signal)) throw wrong("signal", signal, abortSignal.expected);
  return { signal: signal as AbortSignal };
}

function dictionary(name: string, value: unknown): Dictionary {
  if (value === undefined || value === null) return {};
  if (!isObject(value)) throw wrong(name, value, "an object");
  return value as Dictionary;
}

/** Returns the items of an iterable object, or `undefined` for any other value. */
function sequenceOf(value: unknown): unknown[] | undefined {
  return isObject(value) && Symbol.iterator in value ? [...(value as Iterable<unknown>)] : undefined;
}

function listOf<T>(name: string, value: unknown, item: (name: string, value: unknown) => T): T[] {
  if (value === undefined) return [];
  const items = sequenceOf(value);
  if (!items) throw wrong(name, value, "an array");
  return items.map((value, index) => item(`${name}[${index}]`, value));
}

function oneOf<T extends string>(name: string, value: unknown, values: readonly T[]): T {
  const found = values.find((known) => known === value);
  if (found === undefined) throw wrong(name, value, values.map((known) => `"${known}"`).join(" or "));
  return found;
}

/** Converts a value to a string, as Web IDL does: `null` becomes "null". A symbol and an object that refuses throw. */
function text(name: string, value: unknown): string {
  if (typeof value === "symbol") throw wrong(name, value, "a string");
  return String(value);
}

function isObject(value: unknown): value is object {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

function wrong(name: string, value: unknown, expected: string): TypeError {
  return new TypeError(`\`${name}\` is ${describe(value)}, expected ${expected}`);
}
