/** What the page has to tell beside the conversation. */

import { signal } from "@preact/signals";
import { QwenVLError } from "qwen-vl-web";

export interface Failure {
  code: string;
  message: string;
  hint: string;
}

export const failure = signal<Failure | undefined>(undefined);
/** Read aloud by screen readers, not shown. */
export const announcement = signal("");
/** A new version of the page waits; calling it lets it take over. */
export const update = signal<(() => void) | undefined>(undefined);
export const offlineReady = signal(false);

export function fail(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  const known = error instanceof QwenVLError;
  failure.value = {
    code: known ? error.code : "",
    message: error instanceof Error ? error.message : String(error),
    hint: known ? error.hint : "",
  };
}
