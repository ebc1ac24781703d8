/**
 * Checks of the options that callers pass. JavaScript callers have no compiler, and numbers such as `NaN` have the right type, so every
 * option is checked where it enters. The runtime checks the ranges of fractions and those that depend on the checkpoint.
 */

import { QwenVLError } from "../wire/errors.js";
import { describe } from "../wire/quote.js";
import type { AskOptions, Box, PictureLimits } from "../wire/types.js";
import type { HubOptions, SourceOptions } from "../weights/spec.js";
import type { ImageOptions } from "./image.js";

/** Check of one option. */
export interface Check {
  /** Accepted values, in words. */
  expected: string;
  accepts(value: unknown): boolean;
}

/** One check for each option of `T`. */
export type Checks<T> = { [K in keyof T]-?: Check };

/** Largest `usize` of wasm32. */
const MAX_SIZE = 2 ** 32 - 1;

export const anyBoolean: Check = { expected: "true or false", accepts: (value) => typeof value === "boolean" };
export const anyString: Check = { expected: "a string", accepts: (value) => typeof value === "string" };
export const anyNumber: Check = { expected: "a number", accepts: (value) => typeof value === "number" && Number.isFinite(value) };
export const anyFunction: Check = { expected: "a function", accepts: (value) => typeof value === "function" };
export const abortSignal: Check = {
  expected: "an AbortSignal",
  accepts: (value) => typeof value === "object" && value !== null && "aborted" in value && "addEventListener" in value,
};
export const address: Check = { expected: "a string or a URL", accepts: (value) => typeof value === "string" || value instanceof URL };

/** Checks of the options of a picture. */
export const IMAGE_CHECKS: Checks<ImageOptions> = {
  imageOrientation: oneOf("from-image", "none"),
  imageColors: oneOf("display", "original"),
};

/** Checks of the limits of pictures. The runtime compares them with each other and with those of the load. */
export const LIMIT_CHECKS: Checks<PictureLimits> = { minPictureTokens: whole(1), maxPictureTokens: whole(1) };

/** A check for another module: the value is used there. */
export const checkedElsewhere: Check = { expected: "", accepts: () => true };

/** Checks of the options of a source. `requestInit` is checked by the browser. */
export const SOURCE_CHECKS: Checks<SourceOptions> = {
  fetch: anyFunction,
  requestInit: checkedElsewhere,
  retries: { expected: "a number from 0", accepts: (value) => typeof value === "number" && value >= 0 },
};

/** Checks of the options of the Hub. */
export const HUB_CHECKS: Checks<HubOptions> = { accessToken: anyString, hubUrl: address };

/** Accepts whole numbers from `min` to `max`. */
export function whole(min: number, max = MAX_SIZE): Check {
  const expected = max === Number.MAX_SAFE_INTEGER ? `a whole number from ${min}` : `a whole number from ${min} to ${max}`;
  return { expected, accepts: (value) => Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max };
}

/** Accepts one of `values`. */
export function oneOf(...values: readonly (string | boolean)[]): Check {
  const expected = values.map((value) => (typeof value === "string" ? `"${value}"` : String(value))).join(" or ");
  return { expected, accepts: (value) => values.includes(value as string) };
}

/** Accepts arrays of values that `check` accepts. */
export function arrayOf(check: Check, items: string): Check {
  return { expected: `an array of ${items}`, accepts: (value) => Array.isArray(value) && value.every((item) => check.accepts(item)) };
}

/** Accepts what one of two checks accepts. */
export function either(first: Check, second: Check): Check {
  return {
    expected: `${first.expected} or ${second.expected}`,
    accepts: (value) => first.accepts(value) || second.accepts(value),
  };
}

/** Throws `INVALID_ARGUMENT` unless `check` accepts the value. */
export function checkArgument(name: string, value: unknown, check: Check): void {
  if (check.accepts(value)) return;
  const found = describe(value);
  throw new QwenVLError("INVALID_ARGUMENT", `\`${name}\` is ${found}, expected ${check.expected}`, {
    details: { argument: name, found, expected: check.expected },
  });
}

/** Throws `INVALID_ARGUMENT` unless the value is an object, whose properties can be read. */
export function checkIsObject(name: string, value: unknown): void {
  checkArgument(name, value, { expected: "an object", accepts: (value) => typeof value === "object" && value !== null });
}

/**
 * Throws `INVALID_ARGUMENT` for the first option that its check does not accept. Absent options and `undefined` are accepted, and so are
 * properties that are not options, as everywhere in the web platform.
 */
export function checkOptions<T extends object>(options: T, checks: Checks<T>): void {
  checkIsObject("options", options);
  for (const name of Object.keys(checks) as (keyof T & string)[]) {
    const value: unknown = options[name];
    if (value !== undefined) checkArgument(name, value, checks[name]);
  }
}

const anyConstraint: Check = {
  expected: "{ jsonSchema }, { regex } or { lark }",
  accepts: (value) => {
    if (typeof value !== "object" || value === null) return false;
    const { jsonSchema, regex, lark } = value as { jsonSchema?: unknown; regex?: unknown; lark?: unknown };
    if ([jsonSchema, regex, lark].filter((form) => form !== undefined).length !== 1) return false;
    if (jsonSchema !== undefined) return typeof jsonSchema === "boolean" || (typeof jsonSchema === "object" && jsonSchema !== null);
    return typeof (regex ?? lark) === "string" || regex instanceof RegExp;
  },
};

/** Checks of the options of a run. Ranges of `temperature`, `topP` and the penalties are checked by the runtime. */
export const ASK_CHECKS: Checks<AskOptions> = {
  maxTokens: whole(1),
  minTokens: whole(0),
  greedy: anyBoolean,
  temperature: anyNumber,
  topP: anyNumber,
  topK: whole(0),
  repetitionPenalty: anyNumber,
  presencePenalty: anyNumber,
  allowLoops: anyBoolean,
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  stop: either(anyString, arrayOf(anyString, "strings")),
  stopTokens: arrayOf(whole(0), `token ids, which are whole numbers from 0 to ${MAX_SIZE}`),
  logprobs: either(anyBoolean, whole(0)),
  kvReuse: oneOf("exact", "fast"),
  ...LIMIT_CHECKS,
  constraint: anyConstraint,
  prefix: anyString,
  signal: abortSignal,
  queue: anyBoolean,
};

/** Throws `INVALID_ARGUMENT` unless `box` has four finite numbers. */
export function checkBox(name: string, box: Box): void {
  const fourNumbers = (value: unknown) => Array.isArray(value) && value.length === 4 && value.every((number) => anyNumber.accepts(number));
  checkArgument(name, box, { expected: "[x1, y1, x2, y2]", accepts: fourNumbers });
}
