import { QwenVLError } from "../wire/errors.js";
import type { FileEntry } from "./manifest.js";

/** Returns the error for a file, or a piece of it, whose size or hash differs from the manifest's. */
export function wrongFile({ file }: FileEntry, expected: number | string, found: number | string): QwenVLError {
  const wanted = typeof expected === "number" ? `${expected} bytes` : `SHA-256 ${expected}`;
  const details = { shard: file, expected, found };
  return new QwenVLError("INTEGRITY", `\`${file}\`: expected ${wanted} as in the manifest, found ${found}`, { details });
}

/** Returns the error for a local file or folder that changed after it was chosen, or that the page may not read. */
export function unreadable(name: string, cause: unknown): QwenVLError {
  return new QwenVLError("INTEGRITY", `could not read \`${name}\` (${String(cause)}): choose the folder again`, { cause });
}
