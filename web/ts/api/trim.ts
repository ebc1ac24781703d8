/** White space at the ends of an answer, which the engine removes. */

import type { AskOptions } from "../wire/types.js";

/** The ends of an answer at which the engine removes white space. */
export type Trim = "both" | "end" | "none";

/** White space as Rust defines it: `String.trim` strips U+FEFF and does not strip U+0085. */
const START = /^\p{White_Space}+/u;
const END = /\p{White_Space}+$/u;

/** Returns the ends at which the engine trims the answer of a run. */
export function trimOf({ constraint, prefix }: AskOptions): Trim {
  // A form can demand white space, and words that continue a text begin with it.
  if (constraint !== undefined) return "none";
  return prefix === undefined ? "both" : "end";
}

/** Returns a whole answer without its white space. */
export function trimmed(text: string, trim: Trim): string {
  return begun(trim === "none" ? text : text.replace(END, ""), trim);
}

/** Returns the beginning of an answer without its white space. */
export function begun(text: string, trim: Trim): string {
  return trim === "both" ? text.replace(START, "") : text;
}

/** Returns the part of an answer that its events have not sent. */
export function unsent(answer: string, sent: string, trim: Trim): string {
  return answer.slice(begun(sent, trim).length);
}
