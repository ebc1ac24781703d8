import { QwenVLError } from "../wire/errors.js";
import { collect } from "./download.js";

/** Storage for weights: a flat folder of files. `WeightCache` decides which files are complete and correct. */
export interface CacheStore {
  /** Name of the store, shown to users. */
  readonly kind: string;
  /**
   * Opens a file. If it does not exist, creates it, or returns `undefined` if `create` is false. A file has at most one open handle at a
   * time.
   */
  open(name: string, create: boolean): Promise<CacheFile | undefined>;
  list(): Promise<StoredFile[]>;
  /** Deletes a file. Does nothing if it does not exist. */
  delete(name: string): Promise<void>;
  /** Renames a closed file and replaces one of the new name. Without this method, files are copied. */
  rename?(from: string, to: string): Promise<void>;
}

export interface StoredFile {
  name: string;
  bytes: number;
}

/** An open file of a {@link CacheStore}. Methods that write can reject with a `QuotaExceededError`. */
export interface CacheFile {
  /** Current size. */
  readonly bytes: number;
  /** Returns at most `length` bytes from offset `at`, none at the end of the file. The next call may overwrite the returned bytes. */
  read(at: number, length: number): Promise<Uint8Array>;
  /** Writes at the end. Must not use `bytes` after its promise has settled. */
  append(bytes: Uint8Array): Promise<void>;
  /** Removes all bytes, or those from offset `bytes` on. A store may remove all in any case. */
  truncate(bytes?: number): Promise<void>;
  /** Makes written bytes durable while the file stays open. Stores without this method do so in `close`. */
  flush?(): Promise<void>;
  /** Makes written bytes durable and releases the file. */
  close(): Promise<void>;
}

/** Bytes to copy at a time. */
const COPY_BYTES = 2 << 20;

/** Renames a closed file, also in a store that can only copy. */
export async function renameFile(store: CacheStore, from: string, to: string): Promise<void> {
  if (store.rename) return store.rename(from, to);
  const source = await store.open(from, false);
  try {
    const target = await createFile(store, to);
    try {
      await target.truncate();
      let copied = 0;
      for await (const piece of source ? bytesOf(source) : []) {
        await target.append(piece);
        copied += piece.byteLength;
      }
      const bytes = source?.bytes ?? 0;
      if (copied < bytes) {
        const problem = `it has ${bytes} bytes, and those from byte ${copied} on cannot be read`;
        throw new QwenVLError("STORAGE", `could not rename \`${from}\` in the storage \`${store.kind}\`: ${problem}`);
      }
    } finally {
      await target.close();
    }
  } finally {
    await source?.close();
  }
  await store.delete(from);
}

/** Reads a small file as text, as far as it can be read; `undefined` if it does not exist. */
export async function readText(store: CacheStore, name: string): Promise<string | undefined> {
  const file = await store.open(name, false);
  if (!file) return undefined;
  try {
    return new TextDecoder().decode(await collect(bytesOf(file)));
  } finally {
    await file.close();
  }
}

/** Yields the bytes of a file up to the first that cannot be read: a browser can evict a part of a file. */
async function* bytesOf(file: CacheFile): AsyncGenerator<Uint8Array, void, undefined> {
  const { bytes } = file;
  for (let at = 0; at < bytes;) {
    const piece = await file.read(at, Math.min(COPY_BYTES, bytes - at));
    if (piece.byteLength === 0) return;
    at += piece.byteLength;
    yield piece;
  }
}

/** Opens a file for writing. */
export async function createFile(store: CacheStore, name: string): Promise<CacheFile> {
  const file = await store.open(name, true);
  if (!file) throw new Error(`the cache store \`${store.kind}\` did not create the file \`${name}\``);
  return file;
}

/** Writes a small file. */
export async function writeFile(store: CacheStore, name: string, bytes: Uint8Array): Promise<void> {
  const file = await createFile(store, name);
  try {
    await file.truncate();
    await file.append(bytes);
  } finally {
    await file.close();
  }
}
