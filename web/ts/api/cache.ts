/** Operations on the models that a site stores. */

import { BACKGROUND_MS } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import { excerptUrl } from "../wire/quote.js";
import type { CachedModel, UnfinishedConversion } from "../weights/cache.js";
import type { CacheContents, CacheOperation } from "../weights/maintain.js";
import type { LoadProgress } from "../weights/progress.js";
import { cacheSpec, manifestUrl, sourceSpec, type CacheChoice, type SourceOptions } from "../weights/spec.js";
import {
  abortSignal,
  anyFunction,
  anyString,
  checkArgument,
  checkedElsewhere,
  checkOptions,
  SOURCE_CHECKS,
  type Checks,
} from "./options.js";
import { LOCATION_CHECKS, startWorker, wasmLocation, type FileLocations } from "./workers.js";

export interface CacheOptions extends FileLocations {
  /** Cache store to use; the site's private file system by default. */
  cache?: Exclude<CacheChoice, "none">;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

/** The browser's estimate of the site's storage. */
export interface StorageEstimate {
  /** Bytes that the site uses, including other data than weights. */
  usage: number;
  /** Bytes that the site may use. */
  quota: number;
  /** True if the browser has promised not to evict the data. */
  persisted: boolean;
}

/** `cache` is checked by `cacheSpec`. */
const CHECKS: Checks<CacheOptions> = { cache: checkedElsewhere, signal: abortSignal, onProgress: anyFunction, ...LOCATION_CHECKS };

export const weightsCache = {
  /** Returns the stored models, complete or not. */
  list: async (options: CacheOptions = {}): Promise<CachedModel[]> => (await operate({ kind: "list" }, options)).models,

  /** Returns the conversions that are not complete, also those that a tab is running now. */
  listConversions: async (options: CacheOptions = {}): Promise<UnfinishedConversion[]> =>
    (await operate({ kind: "list" }, options)).conversions,

  async estimate(): Promise<StorageEstimate> {
    const { usage = 0, quota = 0 } = await navigator.storage.estimate();
    return { usage, quota, persisted: await navigator.storage.persisted() };
  },

  /** Asks the browser never to evict the site's data. Some browsers then ask the user. Returns true if the request is granted. */
  persist: (): Promise<boolean> => navigator.storage.persist(),

  /**
   * Reads and verifies all stored files of a model. Discards those that are wrong or unreadable, so that the next load fetches them.
   * Returns the model as it is after that.
   */
  async verify(url: string | URL, options: CacheOptions = {}): Promise<CachedModel> {
    return one(await operate({ kind: "verify", url: manifestUrl(url) }, options), url);
  },

  /** Verifies all files of a model and fetches those that are missing or wrong. Also fetches a model before its first load. */
  async repair(url: string | URL, options: CacheOptions & SourceOptions = {}): Promise<CachedModel> {
    checkOptions<SourceOptions>(options, SOURCE_CHECKS);
    const { spec, transfer } = sourceSpec(url, options);
    return one(await operate({ kind: "fill", source: spec }, options, transfer), url);
  },

  /** Deletes a model. Returns true if it was stored. Fails with `BUSY` while a tab is loading it. */
  async delete(url: string | URL, options: CacheOptions = {}): Promise<boolean> {
    const { models } = await operate({ kind: "delete", url: manifestUrl(url) }, options);
    return models.length > 0;
  },

  /** Deletes what a conversion has written, without asking its source. Fails with `BUSY` while a tab is running it. */
  async deleteConversion(id: string, options: CacheOptions = {}): Promise<void> {
    checkArgument("id", id, anyString);
    await operate({ kind: "deleteConversion", id }, options);
  },

  /** Deletes all models and conversions. Fails with `BUSY`, and deletes nothing, while a tab is loading one. */
  async clear(options: CacheOptions = {}): Promise<void> {
    await operate({ kind: "clear" }, options);
  },

  /**
   * Verifies and stores a model from a local folder, which `quantize` or `exportTo` wrote.
   *
   * @param url address for `load`, which then works with and without a connection
   */
  async importFrom(
    folder: readonly File[] | FileSystemDirectoryHandle,
    url: string | URL,
    options: CacheOptions = {},
  ): Promise<CachedModel> {
    const { spec, transfer } = sourceSpec(folder, {}, manifestUrl(url));
    return one(await operate({ kind: "fill", source: spec }, options, transfer), url);
  },

  /** Writes a complete model into a local folder, for any static server or for `load`. */
  async exportTo(folder: FileSystemDirectoryHandle, url: string | URL, options: CacheOptions = {}): Promise<void> {
    one(await operate({ kind: "export", url: manifestUrl(url), folder }, options), url);
  },
};

/** Runs an operation in a separate worker, because only workers can read and write files piece by piece. */
async function operate(operation: CacheOperation, options: CacheOptions, transfer: Transferable[] = []): Promise<CacheContents> {
  checkOptions<CacheOptions>(options, CHECKS);
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
    void client.shutDown(new QwenVLError("DISPOSED", "the operation is over"), BACKGROUND_MS);
  }
}

function one({ models: [model] }: CacheContents, url: string | URL): CachedModel {
  if (!model) throw new QwenVLError("INVALID_ARGUMENT", `no model is stored for ${excerptUrl(url)}: load or repair it first`);
  return model;
}
