/** Verifies a file piece by piece while it streams. The browser's SHA-256 is fast, but needs the whole input at once. */

import { sha256 } from "./cache.js";
import type { FileEntry } from "./manifest.js";
import { wrongFile } from "./errors.js";

/** Regroups bytes into the pieces of a file and passes on those with the expected hash. */
export class PieceChecker {
  readonly #entry: FileEntry;
  readonly #hashes: readonly string[];
  readonly #piece: Uint8Array<ArrayBuffer>;
  readonly #take: (piece: Uint8Array) => Promise<void>;
  /** Bytes that were passed on. */
  #passed = 0;
  /** Bytes of the unfinished piece. */
  #filled = 0;

  /** @param take gets the pieces in order and must not use one after its promise has settled */
  constructor(entry: FileEntry, { bytes, sha256 }: NonNullable<FileEntry["pieces"]>, take: (piece: Uint8Array) => Promise<void>) {
    this.#entry = entry;
    this.#hashes = sha256;
    this.#piece = new Uint8Array(Math.min(bytes, entry.bytes));
    this.#take = take;
  }

  /** Takes the next bytes. Throws `INTEGRITY` if the hash of a piece differs. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let rest = bytes; rest.byteLength > 0;) {
      const whole = Math.min(this.#piece.byteLength, this.#entry.bytes - this.#passed);
      const part = rest.subarray(0, whole - this.#filled);
      if (part.byteLength === 0) throw wrongFile(this.#entry, this.#entry.bytes, this.#passed + rest.byteLength);
      rest = rest.subarray(part.byteLength);
      let piece: Uint8Array<ArrayBuffer>;
      if (part.byteLength === whole && isUnshared(part)) piece = part;
      else {
        this.#piece.set(part, this.#filled);
        this.#filled += part.byteLength;
        if (this.#filled < whole) continue;
        piece = this.#piece.subarray(0, whole);
      }
      const index = Math.floor(this.#passed / this.#piece.byteLength);
      const expected = this.#hashes[index] ?? "";
      const found = await sha256(piece);
      if (found !== expected) throw wrongFile(this.#entry, expected, found);
      await this.#take(piece);
      this.#passed += whole;
      this.#filled = 0;
    }
  }

  /** Discards the bytes so far and starts over at the first byte. */
  restart(): void {
    this.#passed = 0;
    this.#filled = 0;
  }
}

/** True if the browser can hash the bytes: it does not hash shared memory. */
function isUnshared(bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer;
}
