import { QwenVLError } from "../wire/errors.js";
import type { FileEntry } from "./manifest.js";

/** The error for a file, or a piece of it, whose length or hash is not the manifest's. */
export function wrongFile({ file }: FileEntry, expected: number | string, found: number | string): QwenVLError {
  const what = typeof expected === "number" ? "bytes" : "SHA-256";
  const details = { shard: file, expected, found };
  return new QwenVLError("INTEGRITY", `\`${file}\`: ${what} ${found}, the manifest says ${expected}`, { details });
}
