/** Messages of the page outside the conversation. */

import { signal } from "@preact/signals";
import { QwenVLError, type ErrorCode } from "qwen-vl-web";
import { en, type Texts } from "../texts/en";

/** Returns what went wrong and, if one is known, the next step, in a visitor's language. */
export type Explanation = (texts: Texts) => readonly [title: string, step?: string];

export interface Failure {
  explain: Explanation;
  /** Technical details in English, for those who report the error. */
  details?: { code: ErrorCode; message: string };
}

/** An error that the page can explain without technical details. */
export class PageError extends Error {
  constructor(
    readonly explain: Explanation,
    options?: ErrorOptions,
  ) {
    super(explain(en)[0], options);
  }
}

export const failure = signal<Failure | undefined>(undefined);
/** Text for screen readers only. */
export const announcement = signal("");
/** Activates the new version of the page that is waiting, if there is one. */
export const update = signal<(() => void) | undefined>(undefined);
export const offlineReady = signal(false);

export function fail(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (error instanceof PageError) {
    failure.value = { explain: error.explain };
    return;
  }
  const code = error instanceof QwenVLError ? error.code : "INTERNAL";
  const message = error instanceof Error ? error.message : String(error);
  failure.value = { explain: explanation(code), details: { code, message } };
}

/** Returns the explanation of an error or a reason of the package. */
export const explanation =
  (code: ErrorCode): Explanation =>
  ({ errors }) =>
    errors[code];
