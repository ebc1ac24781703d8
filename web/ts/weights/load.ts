/** Fetches, verifies and caches a model's files. Contains no engine code, so it also runs in Node tests. */

import { QwenVLError } from "../wire/errors.js";
import { filesOf, sha256, type WeightCache } from "./cache.js";
import { concat } from "./download.js";
import { wrongFile } from "./errors.js";
import { ifCacheIsFree, withModelLock } from "./locks.js";
import type { FileEntry, Manifest } from "./manifest.js";
import { ProgressCounter } from "./progress.js";
import type { Source } from "./source.js";
import { transfer, type Job, type Target } from "./transfer.js";

/** Takes the shards of one model. */
export interface ShardSink {
  target(shard: number): Target;
  /** Takes the vocabulary, which can arrive before the shards are complete. */
  vocabulary?(bytes: Uint8Array<ArrayBuffer>): void;
}

export interface WeightsOptions<S extends ShardSink> {
  source: Source;
  cache: WeightCache | undefined;
  /** Validates the whole manifest and creates the sink. */
  makeSink: (manifest: string) => Promise<S>;
  progress: ProgressCounter;
  concurrency: number;
  /** Behaviour while another tab loads the same model. */
  whenBusy: "wait" | "fail";
  signal: AbortSignal;
  /** Longest time for the licence and the notices, milliseconds: a load does not wait for a server that has none. Unlimited by default. */
  noticesMs?: number;
  /** Runs when all files have arrived, before another tab can change them. */
  onStored?: () => Promise<void>;
}

export interface Weights<S extends ShardSink> {
  manifest: Manifest;
  vocabulary: Uint8Array<ArrayBuffer>;
  sink: S;
}

export async function loadWeights<S extends ShardSink>(options: WeightsOptions<S>): Promise<Weights<S>> {
  const { cache, progress, signal } = options;
  progress.report();
  const text = await readManifest(options.source, cache, signal, () => progress.retry());
  if (!cache) return loadFiles(text, options);
  // The lock comes before all expensive steps: a tab that waits, or fails with BUSY, does not use the GPU.
  const weights = await withModelLock(
    shardsOf(text),
    options.whenBusy,
    signal,
    () => progress.phase("wait"),
    () => loadFiles(text, options),
  );
  await deleteUnused(cache);
  return weights;
}

/** Deletes what interrupted operations have left, unless another tab uses the cache. */
export async function deleteUnused(cache: WeightCache): Promise<void> {
  try {
    if ((await cache.unused()).length === 0) return;
    await ifCacheIsFree(async () => {
      for (const name of await cache.unused()) await cache.store.delete(name);
    });
  } catch (problem) {
    cache.stopWriting(problem);
  }
}

/** Returns the shards of a manifest that is not validated yet; none if it is malformed, which `makeSink` reports. */
function shardsOf(text: string): readonly FileEntry[] {
  try {
    const { shards } = JSON.parse(text) as Partial<Manifest>;
    return Array.isArray(shards) ? shards : [];
  } catch {
    return [];
  }
}

async function loadFiles<S extends ShardSink>(text: string, options: WeightsOptions<S>): Promise<Weights<S>> {
  const { source, cache, progress, signal } = options;
  const sink = await options.makeSink(text);
  signal.throwIfAborted();
  const manifest = JSON.parse(text) as Manifest;
  const entries = filesOf(manifest);
  progress.begin(
    entries.reduce((sum, { bytes }) => sum + bytes, 0),
    entries.length,
  );
  const tokenizer = entries.find((entry) => !manifest.shards.includes(entry));
  if (!tokenizer)
    throw new QwenVLError("MANIFEST_INVALID", "manifest.json: `files` does not have the tokenizer file: convert the checkpoint again");
  const vocabulary = new WholeFile(tokenizer, (bytes) => sink.vocabulary?.(bytes));
  const shards = manifest.shards.map((entry, shard): Job => ({ entry, target: sink.target(shard) }));
  if (cache) await prepareCache(cache, manifest, text, source.url);
  await transfer([{ entry: tokenizer, target: vocabulary }, ...shards], options);
  if (cache?.writable) await storeNotices(manifest, options);
  await options.onStored?.();
  return { manifest, vocabulary: vocabulary.bytes(), sink };
}

/** Returns the newest manifest, or the stored one if the source does not have it. */
export async function readManifest(
  source: Source,
  cache: WeightCache | undefined,
  signal: AbortSignal,
  onRetry: () => void,
): Promise<string> {
  const stored = await cache?.manifest(source.url).catch((problem: unknown) => cache.stopWriting(problem));
  try {
    return await source.manifest({ signal, onRetry }, stored !== undefined);
  } catch (error) {
    signal.throwIfAborted();
    // This covers every error of the source, "not found" too: an imported model is not on a server at all.
    if (stored !== undefined && error instanceof QwenVLError) return stored;
    throw error;
  }
}

/** Checks that the model fits the storage, and stores its manifest. */
async function prepareCache(cache: WeightCache, manifest: Manifest, text: string, url: string): Promise<void> {
  const needed = await cache.missingBytes(manifest).catch((problem: unknown) => cache.stopWriting(problem));
  // Without an estimate the load goes ahead: a store that is full reports it when it is written.
  const { quota, usage } = (await globalThis.navigator?.storage?.estimate().catch(() => undefined)) ?? {};
  if (needed && quota !== undefined && usage !== undefined && needed > quota - usage) {
    const details = { needed, available: Math.max(quota - usage, 0), quota };
    return cache.stopWriting(new QwenVLError("QUOTA_EXCEEDED", quotaMessage(needed, details.available), { details }));
  }
  await cache.remember(url, text);
}

export function quotaMessage(needed: number, available: number): string {
  return `the model needs ${needed} bytes of storage, the browser allows ${available} more`;
}

/** Stores the licence and the notices, which belong to the weights when these are exported. */
async function storeNotices<S extends ShardSink>(manifest: Manifest, options: WeightsOptions<S>): Promise<void> {
  const needed = filesOf(manifest);
  const notices = manifest.files.filter((entry) => !needed.includes(entry));
  const progress = new ProgressCounter(() => undefined);
  const { noticesMs } = options;
  const signal = noticesMs === undefined ? options.signal : AbortSignal.any([options.signal, AbortSignal.timeout(noticesMs)]);
  for (const entry of notices) {
    const job = { entry, target: new WholeFile(entry) };
    // A model works without its notices. An abort by the caller is thrown below.
    await transfer([job], { ...options, progress, concurrency: 1, signal }).catch(() => undefined);
  }
  options.signal.throwIfAborted();
}

/** Collects a small file that is needed whole. */
class WholeFile implements Target {
  readonly #entry: FileEntry;
  readonly #onDone: (bytes: Uint8Array<ArrayBuffer>) => void;
  #pieces: Uint8Array[] = [];

  constructor(entry: FileEntry, onDone: (bytes: Uint8Array<ArrayBuffer>) => void = () => undefined) {
    this.#entry = entry;
    this.#onDone = onDone;
  }

  write(bytes: Uint8Array): void {
    this.#pieces.push(bytes.slice());
  }

  async finish(): Promise<void> {
    const bytes = this.bytes();
    const found = await sha256(bytes);
    if (found !== this.#entry.sha256) throw wrongFile(this.#entry, this.#entry.sha256, found);
    this.#onDone(bytes);
  }

  restart(): void {
    this.#pieces = [];
  }

  bytes(): Uint8Array<ArrayBuffer> {
    return concat(this.#pieces);
  }
}
