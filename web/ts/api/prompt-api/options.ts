/** Options of a session: languages, types of content, sampling. */

import type { Family } from "../../wire/protocol.js";
import type { GenerationOptions } from "../../wire/types.js";
import type { ConvertedCoreOptions, ConvertedCreateOptions } from "./convert.js";
import { expectedTypes, validated, type LonghandMessage } from "./messages.js";
import type {
  Availability,
  LanguageModelExpected,
  LanguageModelMessageType,
  LanguageModelParams,
  LanguageModelSamplingMode,
} from "./types.js";

/** The languages of Qwen-VL (2023). */
const FIRST_LANGUAGES = ["en", "zh"];
/** The languages that the makers name for text in pictures and answers of Qwen2-VL and later, and their closest relatives. */
const LANGUAGES = [
  ...FIRST_LANGUAGES,
  ..."ar bg cs da de el es et fa fi fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv th tr uk ur vi".split(" "),
];
const INPUTS: readonly LanguageModelMessageType[] = ["text", "image"];

/** Sampling of the published checkpoints, for sessions without a `topK` or `temperature`. 2023: all tokens, of which top-p keeps some. */
const DEFAULTS: Record<Family, { topK: number; temperature: number }> = {
  qwen_vl: { topK: 1000, temperature: 1 },
  qwen2_vl: { topK: 1, temperature: 0.01 },
  qwen2_5_vl: { topK: 50, temperature: 0.000001 },
  qwen3_vl: { topK: 20, temperature: 0.7 },
};
const MAX_TOP_K = 1000;
const MAX_TEMPERATURE = 2;

/** The sampling of each mode. Top-p changes with the temperature, since most checkpoints have a narrow one. */
const MODES: Record<LanguageModelSamplingMode, GenerationOptions> = {
  "most-predictable": { greedy: true },
  predictable: { temperature: 0.3, topP: 0.3 },
  "slightly-predictable": { temperature: 0.5, topP: 0.6 },
  balanced: {},
  "slightly-creative": { temperature: 0.9, topP: 0.9, topK: 40 },
  creative: { temperature: 1.1, topP: 0.95, topK: 80 },
  "most-creative": { temperature: 1.4, topP: 1, topK: MAX_TOP_K },
};

/** Sampling of a session. */
export interface Sampling {
  mode: LanguageModelSamplingMode | null;
  topK: number;
  temperature: number;
  generation: GenerationOptions;
}

/** Options of a session that are checked. */
export interface SessionOptions {
  core: ConvertedCoreOptions;
  types: ReadonlySet<LanguageModelMessageType>;
  initial: LonghandMessage[];
}

/** Checks options and puts their language tags into the canonical form ("validate and canonicalize language model options"). */
export function validatedOptions(options: ConvertedCreateOptions): SessionOptions {
  const core = validatedCore(options);
  checkRange("temperature", options.temperature, 0);
  checkRange("topK", options.topK, 1);
  const types = expectedTypes(core.expectedInputs);
  // In a prompt an empty list stands for an empty message; here it does not.
  const prompts = options.initialPrompts ?? [];
  const initial = prompts.length === 0 ? [] : validated(prompts, types, false, "initialPrompts");
  return { core, types, initial };
}

/** Checks the options of `availability`. */
export function validatedCore(options: ConvertedCoreOptions): ConvertedCoreOptions {
  const { expectedInputs, expectedOutputs, samplingMode, topK, temperature } = options;
  if (samplingMode !== undefined && (topK ?? temperature) !== undefined) {
    throw new TypeError("`samplingMode` is given together with `topK` or `temperature`: give one or the other");
  }
  return { ...options, expectedInputs: expectedInputs.map(canonical), expectedOutputs: expectedOutputs.map(canonical) };
}

function canonical({ type, languages }: LanguageModelExpected): LanguageModelExpected {
  // Throws a RangeError for a tag that is not well-formed.
  return languages ? { type, languages: Intl.getCanonicalLocales([...languages]) } : { type };
}

function checkRange(name: string, value: number | undefined, min: number): void {
  if (value === undefined || value >= min) return;
  throw new RangeError(`\`${name}\` is ${value}, expected a number from ${min}`);
}

/**
 * Returns the first option that no session can have, in words, or `undefined`.
 *
 * @param family generation of the model, if it is known
 */
export function unsupported({ expectedInputs, expectedOutputs, tools }: ConvertedCoreOptions, family?: Family): string | undefined {
  if (tools > 0) return "`tools` are not supported: ask for JSON with `responseConstraint`";
  const known = family === "qwen_vl" ? FIRST_LANGUAGES : LANGUAGES;
  const find = (name: string, expected: readonly LanguageModelExpected[], types: readonly LanguageModelMessageType[]) => {
    for (const [index, { type, languages = [] }] of expected.entries()) {
      const place = `${name}[${index}]`;
      if (!types.includes(type)) return `\`${place}.type\` is "${type}", expected ${types.map((type) => `"${type}"`).join(" or ")}`;
      const unknown = languages.find((tag) => !known.includes(new Intl.Locale(tag).language));
      if (unknown !== undefined) return `\`${place}.languages\` has "${unknown}", which the model does not know`;
    }
    return undefined;
  };
  return find("expectedInputs", expectedInputs, INPUTS) ?? find("expectedOutputs", expectedOutputs, ["text"]);
}

/** Returns the sampling of a session. */
export function samplingOf({ samplingMode, topK, temperature }: ConvertedCoreOptions, family: Family): Sampling {
  const defaults = DEFAULTS[family];
  if (topK === undefined && temperature === undefined) {
    const mode = samplingMode ?? "balanced";
    return { mode, ...rounded(defaults), generation: MODES[mode] };
  }
  const generation: GenerationOptions = {
    ...(topK === undefined ? {} : { topK: Math.min(Math.floor(topK), MAX_TOP_K) }),
    ...(temperature === undefined ? {} : { temperature: Math.min(temperature, MAX_TEMPERATURE) }),
  };
  return { mode: null, ...rounded({ ...defaults, ...generation }), generation };
}

/** Returns the result of `params`, for a model of this generation. */
export function paramsOf(family: Family): LanguageModelParams {
  const { topK, temperature } = rounded(DEFAULTS[family]);
  return { defaultTopK: topK, maxTopK: MAX_TOP_K, defaultTemperature: temperature, maxTemperature: MAX_TEMPERATURE };
}

/** Temperatures are of the type `float`. */
function rounded({ topK, temperature }: { topK: number; temperature: number }): { topK: number; temperature: number } {
  return { topK, temperature: Math.fround(temperature) };
}

/** Order of the results of several checks, the worst first ("minimum availability"). */
const WORST_FIRST: readonly Availability[] = ["unavailable", "downloading", "downloadable", "available"];

/** Returns the worst of several results, or `null` if one of them is not known. */
export function minimum(all: readonly (Availability | null)[]): Availability | null {
  if (all.includes(null)) return null;
  return WORST_FIRST.find((availability) => all.includes(availability)) ?? "available";
}
