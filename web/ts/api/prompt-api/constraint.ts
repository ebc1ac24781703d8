/** The form of an answer: a JSON schema or a regular expression. */

import type { Constraint } from "../../wire/types.js";
import { isRegExp, type ConvertedPromptOptions } from "./convert.js";
import { domException } from "./errors.js";

/** A `responseConstraint`. */
export interface ResponseConstraint {
  /** For the engine. */
  constraint: Constraint;
  /** Text that describes it to the model, unless it is left out. */
  guidance: string | undefined;
  /** Throws a `SyntaxError` unless a whole answer fits. */
  check(answer: string): void;
}

/** Reads the constraint of a call. */
export function responseConstraint(options: ConvertedPromptOptions): ResponseConstraint | undefined {
  const { responseConstraint: given, omitResponseConstraintInput: omitted } = options;
  if (given === undefined) {
    if (!omitted) return undefined;
    throw new TypeError("`omitResponseConstraintInput` is true without a `responseConstraint`: give both or neither");
  }
  return isRegExp(given) ? ofRegExp(given, omitted) : ofSchema(given, omitted);
}

function ofRegExp({ source, flags }: RegExp, omitted: boolean): ResponseConstraint {
  const regex = new RegExp(source, flags.replace(/[gy]/g, ""));
  return {
    constraint: { regex },
    guidance: omitted ? undefined : `Answer with a text that matches this regular expression: ${source}`,
    check(answer) {
      if (!regex.test(answer)) throw misfit("does not match the RegExp of the `responseConstraint`");
    },
  };
}

function ofSchema(schema: object, omitted: boolean): ResponseConstraint {
  if (Array.isArray(schema) || typeof schema === "function") {
    const found = Array.isArray(schema) ? "an array" : "a function";
    throw new TypeError(`\`responseConstraint\` is ${found}, expected a JSON schema or a RegExp`);
  }
  let json: string;
  try {
    json = JSON.stringify(schema);
  } catch (cause) {
    throw domException("NotSupportedError", `\`responseConstraint\` cannot be written as JSON: ${String(cause)}`, cause);
  }
  return {
    constraint: { jsonSchema: JSON.parse(json) as object },
    guidance: omitted ? undefined : `Answer in JSON that is valid under this JSON schema: ${json}`,
    check(answer) {
      try {
        JSON.parse(answer);
      } catch (cause) {
        throw misfit("is not JSON, as the `responseConstraint` demands", cause);
      }
    },
  };
}

function misfit(what: string, cause?: unknown): DOMException {
  return domException("SyntaxError", `the answer ${what}: ask for a shorter one, or leave more of the context free`, cause);
}
