/** The form of an answer: a JSON schema or a regular expression. */

import type { Answer, Constraint } from "../../wire/types.js";
import { isRegExp, type ConvertedPromptOptions } from "./convert.js";
import { domException } from "./errors.js";

/** A `responseConstraint`. */
export interface ResponseConstraint {
  /** For the engine. */
  constraint: Constraint;
  /** Text that describes it to the model, unless it is left out. */
  guidance: string | undefined;
  /** Throws a `SyntaxError` unless an answer fits as a whole. */
  check(text: string, finishReason: Answer["finishReason"]): void;
}

/** Reads the constraint of a call. */
export function responseConstraint(options: ConvertedPromptOptions): ResponseConstraint | undefined {
  const { responseConstraint: given, omitResponseConstraintInput: omitted } = options;
  if (given === undefined) {
    if (!omitted) return undefined;
    throw new TypeError("`omitResponseConstraintInput` is true without a `responseConstraint`: give both or neither");
  }
  const { check, ...form } = isRegExp(given) ? ofRegExp(given, omitted) : ofSchema(given, omitted);
  return {
    ...form,
    check(text, finishReason) {
      // The beginning of a text that fits can fit by chance.
      if (finishReason !== "stop") throw misfit(`ended before it was complete ("${finishReason}")`);
      check(text, finishReason);
    },
  };
}

function ofRegExp({ source, flags }: RegExp, omitted: boolean): ResponseConstraint {
  const regex = new RegExp(source, flags.replace(/[gy]/g, ""));
  return {
    constraint: { regex },
    guidance: omitted ? undefined : `Answer with a text that matches this regular expression: ${source}`,
    check(text) {
      if (!wholeOf(regex).test(text)) throw misfit("does not match the RegExp of the `responseConstraint`");
    },
  };
}

/** Returns a pattern for a whole text. Characters are code points, as in the engine, if the pattern is valid with them. */
function wholeOf({ source, flags }: RegExp): RegExp {
  // `^` and `$` can be those of a line: the flag `y` binds the beginning, and nothing follows the end.
  const whole = `(?:${source})(?![^])`;
  try {
    return new RegExp(whole, /[uv]/.test(flags) ? `${flags}y` : `${flags}uy`);
  } catch {
    return new RegExp(whole, `${flags}y`);
  }
}

function ofSchema(schema: object, omitted: boolean): ResponseConstraint {
  if (Array.isArray(schema) || typeof schema === "function") {
    const found = Array.isArray(schema) ? "an array" : "a function";
    throw new TypeError(`\`responseConstraint\` is ${found}, expected a JSON schema or a RegExp`);
  }
  const unwritten = (why: string, cause?: unknown) =>
    domException("NotSupportedError", `\`responseConstraint\` cannot be written as JSON: ${why}`, cause);
  let json: string | undefined;
  try {
    json = JSON.stringify(schema);
  } catch (cause) {
    throw unwritten(String(cause), cause);
  }
  if (json === undefined) throw unwritten("its `toJSON` returns nothing");
  return {
    constraint: { jsonSchema: JSON.parse(json) as object },
    guidance: omitted ? undefined : `Answer in JSON that is valid under this JSON schema: ${json}`,
    check(text) {
      try {
        JSON.parse(text);
      } catch (cause) {
        throw misfit("is not JSON, as the `responseConstraint` demands", cause);
      }
    },
  };
}

function misfit(what: string, cause?: unknown): DOMException {
  return domException("SyntaxError", `the answer ${what}: ask for a shorter one, or leave more of the context free`, cause);
}
