/** Failures of storage as errors with a code and the name of the file. */

import { QwenVLError } from "../wire/errors.js";
import type { CacheFile, CacheStore } from "./store.js";

/** Names of the errors of browsers, and codes of those of Node, for a full disk. */
const FULL = ["QuotaExceededError", "ENOSPC", "EDQUOT"];

/** @param what what could not be done, with the name of the file */
export function storageError(what: string, cause: unknown): QwenVLError {
  if (cause instanceof QwenVLError) return cause;
  const { name, message, code } = Object(cause) as Partial<Error & { code: unknown }>;
  const full = FULL.includes(String(name)) || FULL.includes(String(code));
  const reason = message || name || String(cause);
  return new QwenVLError(full ? "QUOTA_EXCEEDED" : "STORAGE", `could not ${what}: ${reason}`, { cause });
}

/** Runs `work`. If it fails, throws a {@link storageError}. */
export async function storing<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw storageError(what, cause);
  }
}

/** Returns a store whose methods reject with a {@link storageError}, also where those of `store` throw. */
export function withErrors(store: CacheStore): CacheStore {
  const place = `in the storage \`${store.kind}\``;
  const { rename } = store;
  return {
    kind: store.kind,
    open: async (name, create) => {
      const file = await storing(`open \`${name}\` ${place}`, () => store.open(name, create));
      return file && fileWithErrors(file, `\`${name}\` ${place}`);
    },
    list: () => storing(`list the files ${place}`, () => store.list()),
    delete: (name) => storing(`delete \`${name}\` ${place}`, () => store.delete(name)),
    ...(rename ? { rename: (from, to) => storing(`rename \`${from}\` ${place}`, () => rename.call(store, from, to)) } : {}),
  };
}

function fileWithErrors(file: CacheFile, name: string): CacheFile {
  const { flush } = file;
  return {
    get bytes() {
      return file.bytes;
    },
    read: (at, length) => storing(`read ${name}`, () => file.read(at, length)),
    append: (bytes) => storing(`write ${name}`, () => file.append(bytes)),
    truncate: (bytes) => storing(`cut off ${name}`, () => file.truncate(bytes)),
    ...(flush ? { flush: () => storing(`write ${name}`, () => flush.call(file)) } : {}),
    close: () => storing(`close ${name}`, () => file.close()),
  };
}
