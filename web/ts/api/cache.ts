/** What users can do with the models that their site keeps. */

import { QwenVLError } from "../wire/errors.js";
import type { CachedModel } from "../weights/cache.js";
import type { CacheOperation } from "../weights/maintain.js";
import type { LoadProgress } from "../weights/progress.js";
import { cacheSpec, manifestUrl, sourceSpec, type CacheChoice, type SourceOptions } from "../weights/spec.js";
import { startWorker, wasmLocation, type FileLocations } from "./workers.js";

export interface CacheOptions extends FileLocations {
  /** The cache in question; the site's private file system by default. */
  cache?: Exclude<CacheChoice, "none">;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

/** What the browser says of this site's storage. */
export interface StorageEstimate {
  /** Bytes of all kinds that the site uses. */
  usage: number;
  /** Bytes that it may use. */
  quota: number;
  /** Whether the browser has promised not to evict them. */
  persisted: boolean;
}

export const weightsCache = {
  /** The models that are stored, whole or in part. */
  list: (options: CacheOptions = {}): Promise<CachedModel[]> => operate({ kind: "list" }, options),

  async estimate(): Promise<StorageEstimate> {
    const { usage = 0, quota = 0 } = await navigator.storage.estimate();
    return { usage, quota, persisted: await navigator.storage.persisted() };
  },

  /** Asks the browser not to evict what the site stores; some browsers ask the user then. Returns whether it is granted. */
  persist: (): Promise<boolean> => navigator.storage.persist(),

  /** Reads all of a model and checks it. What is wrong is forgotten, so that the next load fetches it. Returns the model as it is then. */
  async verify(url: string | URL, options: CacheOptions = {}): Promise<CachedModel> {
    return one(await operate({ kind: "verify", url: manifestUrl(url) }, options), url);
  },

  /** Checks all of a model and fetches what is missing or wrong; also fetches a model ahead of its first load. */
  async repair(url: string | URL, options: CacheOptions & SourceOptions = {}): Promise<CachedModel> {
    const { spec, transfer } = sourceSpec(url, options);
    return one(await operate({ kind: "fill", source: spec }, options, transfer), url);
  },

  /** Deletes a model. Returns whether there was one. `BUSY` while a tab is loading it. */
  async delete(url: string | URL, options: CacheOptions = {}): Promise<boolean> {
    const deleted = await operate({ kind: "delete", url: manifestUrl(url) }, options);
    return deleted.length > 0;
  },

  /** Deletes all models. */
  async clear(options: CacheOptions = {}): Promise<void> {
    await operate({ kind: "clear" }, options);
  },

  /**
   * Stores a model from a folder of this machine, as `quantize` or `exportTo` wrote it, checking all of it.
   *
   * @param url the address under which `load` will find it, with or without a connection
   */
  async importFrom(
    folder: readonly File[] | FileSystemDirectoryHandle,
    url: string | URL,
    options: CacheOptions = {},
  ): Promise<CachedModel> {
    const { spec, transfer } = sourceSpec(folder, {}, manifestUrl(url));
    return one(await operate({ kind: "fill", source: spec }, options, transfer), url);
  },

  /** Writes a complete model into a folder of this machine, where any static server or `load` can read it. */
  async exportTo(folder: FileSystemDirectoryHandle, url: string | URL, options: CacheOptions = {}): Promise<void> {
    await operate({ kind: "export", url: manifestUrl(url), folder }, options);
  },
};

/** Runs an operation in a worker of its own: only workers can read and write files piece by piece. */
async function operate(operation: CacheOperation, options: CacheOptions, transfer: Transferable[] = []): Promise<CachedModel[]> {
  const { signal, onProgress } = options;
  const cache = cacheSpec(options.cache ?? "opfs");
  const client = startWorker(options);
  try {
    const callOptions = {
      transfer: [...transfer, ...cache.transfer],
      ...(signal ? { signal } : {}),
      ...(onProgress ? { onEvent: onProgress } : {}),
    };
    return await client.call("cache", { operation, cache: cache.spec, ...wasmLocation(options) }, callOptions).result;
  } finally {
    client.end(new QwenVLError("DISPOSED", "the operation is over"));
  }
}

function one([model]: CachedModel[], url: string | URL): CachedModel {
  if (!model) throw new QwenVLError("INVALID_ARGUMENT", `no such model is stored: ${String(url)}`);
  return model;
}
