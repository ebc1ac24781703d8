/** A model's files, from wherever they are, checked: the part of loading that the browser's engine has no share in. */

import { errorData, QwenVLError } from "../wire/errors.js";
import { filesOf, sha256, type WeightCache } from "./cache.js";
import { concat } from "./download.js";
import type { FileEntry, Manifest } from "./manifest.js";
import { ProgressCounter } from "./progress.js";
import type { Source } from "./source.js";
import { wrongFile } from "./errors.js";
import { transfer, type Job, type Target } from "./transfer.js";

/** Takes the shards; made once the manifest is known. */
export interface ShardSink {
  target(shard: number): Target;
  /** Takes the vocabulary, which comes before the shards are complete. */
  vocabulary?(bytes: Uint8Array<ArrayBuffer>): void;
}

export interface WeightsOptions<S extends ShardSink> {
  source: Source;
  cache: WeightCache | undefined;
  /** Checks the manifest fully and makes what takes the shards. */
  makeSink: (manifest: string) => Promise<S>;
  progress: ProgressCounter;
  concurrency: number;
  /** What to do while another tab loads the same model. */
  whenBusy: "wait" | "fail";
  signal: AbortSignal;
}

export interface Weights<S extends ShardSink> {
  manifest: Manifest;
  vocabulary: Uint8Array<ArrayBuffer>;
  sink: S;
}

export async function loadWeights<S extends ShardSink>(options: WeightsOptions<S>): Promise<Weights<S>> {
  const { cache, progress, signal } = options;
  progress.tell();
  const text = await readManifest(options);
  if (!cache) return loadFiles(text, options);
  // The lock comes before everything that costs something: a tab that waits, or is told that another is busy, leaves the GPU alone.
  return withModelLock(
    shardsOf(text),
    options.whenBusy,
    signal,
    () => progress.phase("wait"),
    () => loadFiles(text, options),
  );
}

/** The shards of a manifest that was not checked yet; none if it is none. */
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
  if (!tokenizer) throw new QwenVLError("MANIFEST_INVALID", "the manifest lists no tokenizer file");
  const vocabulary = new WholeFile(tokenizer, (bytes) => sink.vocabulary?.(bytes));
  const shards = manifest.shards.map((entry, shard): Job => ({ entry, target: sink.target(shard) }));
  if (cache) await prepareCache(cache, manifest, text, source.url);
  await transfer([{ entry: tokenizer, target: vocabulary }, ...shards], options);
  if (cache?.writable) await keepNotices(manifest, options);
  return { manifest, vocabulary: vocabulary.bytes(), sink };
}

/** The newest manifest, or without a connection the one that was kept. */
async function readManifest<S extends ShardSink>({ source, cache, progress, signal }: WeightsOptions<S>): Promise<string> {
  const kept = await cache?.manifest(source.url).catch(() => undefined);
  try {
    return await source.manifest({ signal, onRetry: () => progress.retry() }, kept !== undefined);
  } catch (error) {
    signal.throwIfAborted();
    // Also where there is no such file any more: a model that was imported need not be on a server at all.
    if (kept !== undefined && error instanceof QwenVLError) return kept;
    throw error;
  }
}

/** Before the first byte: whether the model will fit, and a note that it is here. */
async function prepareCache(cache: WeightCache, manifest: Manifest, text: string, url: string): Promise<void> {
  const needed = await cache.missingBytes(manifest).catch((problem: unknown) => cache.stopWriting(problem));
  const { quota, usage } = (await globalThis.navigator?.storage?.estimate()) ?? {};
  if (needed && quota !== undefined && usage !== undefined && needed > quota - usage) {
    const details = { needed, available: Math.max(quota - usage, 0), quota };
    const message = `the model needs ${needed} bytes of storage, the browser allows ${details.available} more`;
    return cache.stopWriting(new QwenVLError("QUOTA_EXCEEDED", message, { details }));
  }
  await cache.remember(url, text);
}

/** A server that has lost the notices must not keep the model waiting. */
const NOTICE_MS = 3000;

/** Licence and notices belong to the weights where these are copied on; a model without them runs all the same. */
async function keepNotices<S extends ShardSink>(manifest: Manifest, options: WeightsOptions<S>): Promise<void> {
  const needed = filesOf(manifest);
  const notices = manifest.files.filter((entry) => !needed.includes(entry));
  const progress = new ProgressCounter(() => undefined);
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(NOTICE_MS)]);
  for (const entry of notices) {
    const job = { entry, target: new WholeFile(entry) };
    await transfer([job], { ...options, progress, concurrency: 1, signal }).catch(() => undefined);
  }
  options.signal.throwIfAborted();
}

/** What a cache's failure is called. */
export function cacheProblem(problem: unknown): ReturnType<typeof errorData> {
  if (!(problem instanceof DOMException)) return errorData(problem);
  const code = problem.name === "QuotaExceededError" ? "QUOTA_EXCEEDED" : "INTERNAL";
  return { code, message: `the cache can not be written: ${problem.message || problem.name}` };
}

/** Runs `work` while no other tab loads or changes the same model. */
export async function withModelLock<T>(
  shards: readonly FileEntry[],
  whenBusy: "wait" | "fail",
  signal: AbortSignal,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  const locks = globalThis.navigator?.locks;
  if (!locks) return work();
  // By content: the same model under two addresses has the same files here.
  const name = `qwen-vl-web ${shards[0]?.sha256 ?? ""}`;
  const first = await locks.request(name, { ifAvailable: true }, async (lock) => lock && { result: await work() });
  if (first) return first.result;
  if (whenBusy === "fail") throw new QwenVLError("BUSY", "another tab is loading this model");
  onWait();
  return locks.request(name, { signal }, work);
}

/** A small file that is needed whole. */
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
