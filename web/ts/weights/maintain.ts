/** Operations on stored models other than loading. */

import { QwenVLError } from "../wire/errors.js";
import { filesOf, WeightCache, type CachedModel, type UnfinishedConversion } from "./cache.js";
import { unlessMissing } from "./directory.js";
import { wrongFile } from "./errors.js";
import { deleteUnused, loadWeights } from "./load.js";
import { withCacheLock, withConversionLock, withModelLock } from "./locks.js";
import type { FileEntry, Manifest } from "./manifest.js";
import { PieceChecker } from "./pieces.js";
import type { ProgressCounter } from "./progress.js";
import { makeSource, type SourceSpec } from "./spec.js";
import type { CacheStore } from "./store.js";
import { storing } from "./store-errors.js";
import { PIECE_BYTES, type Target } from "./transfer.js";

export type CacheOperation =
  | { kind: "list" | "clear" }
  | { kind: "verify" | "delete"; url: string }
  | { kind: "deleteConversion"; id: string }
  | { kind: "fill"; source: SourceSpec }
  | { kind: "export"; url: string; folder: FileSystemDirectoryHandle };

/** Models and conversions in the cache. */
export interface CacheContents {
  models: CachedModel[];
  conversions: UnfinishedConversion[];
}

/** Checks that need the engine's wasm. */
export interface Checks {
  checkManifest(manifest: string): void;
  newHash(): RunningHash;
}

export interface RunningHash {
  update(bytes: Uint8Array): void;
  finish(): string;
}

const CONCURRENCY = 4;

/** Runs an operation. Returns what it concerns as it is after the operation; for `delete`, as it was before. Unlike a load, fails if the store does. */
export async function maintain(
  operation: CacheOperation,
  store: CacheStore,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<CacheContents> {
  let problem: unknown;
  const cache = new WeightCache(store, (found) => (problem = found));
  const contents = await operate(operation, cache, checks, progress, signal).catch((error: unknown) => {
    signal.throwIfAborted();
    // A file that cannot be opened looks as if it were missing.
    throw problem ?? error;
  });
  if (problem) throw problem;
  return contents;
}

async function operate(
  operation: CacheOperation,
  cache: WeightCache,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<CacheContents> {
  const contents = (models: CachedModel[], conversions: UnfinishedConversion[] = []) => ({ models, conversions });
  const model = async (url: string) => contents((await cache.models()).filter((model) => model.url === url));
  switch (operation.kind) {
    case "list":
      return contents(await cache.models(), await cache.conversions());
    case "clear":
      await withCacheLock(() => cache.clear());
      return contents([]);
    case "deleteConversion":
      await withConversionLock(operation.id, () => cache.deleteConversion(operation.id));
      return contents([]);
    case "delete": {
      const { url } = operation;
      const before = await locked(cache, url, signal, async () => {
        const before = await model(url);
        await cache.delete(url);
        return before;
      });
      await deleteUnused(cache);
      return before;
    }
    case "verify":
      return locked(cache, operation.url, signal, async (manifest) => {
        await verify(cache, manifest, checks, progress, signal);
        return model(operation.url);
      });
    case "fill": {
      let stored = contents([]);
      await fill(operation.source, cache, checks, progress, signal, async () => void (stored = await model(operation.source.url)));
      return stored;
    }
    case "export":
      return locked(cache, operation.url, signal, async (manifest, text) => {
        await exportTo(operation.folder, cache, manifest, text, progress, signal);
        return model(operation.url);
      });
  }
}

/** Runs `work` on a stored model. Fails with `BUSY` if a tab is loading it; returns no model if none is stored. */
async function locked(
  cache: WeightCache,
  url: string,
  signal: AbortSignal,
  work: (manifest: Manifest, text: string) => Promise<CacheContents>,
): Promise<CacheContents> {
  const none = { models: [], conversions: [] };
  const text = await cache.manifest(url);
  if (text === undefined) return none;
  const manifest = JSON.parse(text) as Manifest;
  return withModelLock(
    manifest.shards,
    "fail",
    signal,
    () => undefined,
    async () => {
      // Another tab may have deleted the model, or stored its next version, before this one got the lock.
      const now = await cache.manifest(url);
      if (now === undefined) return none;
      if (now !== text) throw new QwenVLError("BUSY", "another tab is changing this model");
      return work(manifest, text);
    },
  );
}

async function verify(
  cache: WeightCache,
  manifest: Manifest,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<void> {
  const entries = filesOf(manifest);
  progress.begin(total(entries), entries.length);
  for (const entry of entries) {
    await verifyFile(cache, entry, checks, progress, signal);
    progress.fileDone();
  }
}

/** Verifies what is stored of a file. Discards it if it is wrong or unreadable; keeps the valid beginning of a download. */
async function verifyFile(
  cache: WeightCache,
  entry: FileEntry,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<void> {
  const cached = await cache.open(entry);
  // The cache has reported why the file cannot be opened.
  if (!cached) return cache.unmark(entry);
  const target = hashTarget(entry, checks);
  const pieces = entry.pieces && new PieceChecker(entry, entry.pieces, () => Promise.resolve());
  const file = progress.file();
  let bytes = 0;
  let valid = true;
  try {
    for await (const piece of cached.read(PIECE_BYTES)) {
      signal.throwIfAborted();
      progress.phase("verify");
      if (pieces) await pieces.write(piece);
      else target.write(piece, false);
      bytes += piece.byteLength;
      file.add(piece.byteLength, true);
    }
    if (bytes === entry.bytes && !pieces) await target.finish?.();
  } catch (error) {
    if (!(error instanceof QwenVLError && error.code === "INTEGRITY")) {
      await cached.close(false);
      throw error;
    }
    valid = false;
  }
  if (!valid || !cached.intact) await cached.reset();
  await cached.close(valid && bytes === entry.bytes);
}

/** Stores the missing files and verifies all. */
async function fill(
  spec: SourceSpec,
  cache: WeightCache,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
  onStored: () => Promise<void>,
): Promise<void> {
  const makeSink = (text: string) => {
    checks.checkManifest(text);
    const { shards } = JSON.parse(text) as Manifest;
    return Promise.resolve({ target: (shard: number) => hashTarget(shards[shard] as FileEntry, checks) });
  };
  const options = {
    source: makeSource(spec),
    cache,
    makeSink,
    progress,
    concurrency: CONCURRENCY,
    whenBusy: "fail",
    signal,
    onStored,
  } as const;
  await loadWeights(options);
}

/** Returns a target that verifies the hash of a file and discards its bytes. */
function hashTarget(entry: FileEntry, checks: Checks): Target {
  let hash = checks.newHash();
  return {
    write(bytes, verified) {
      if (!verified) hash.update(bytes);
    },
    finish() {
      if (entry.pieces) return Promise.resolve();
      const found = hash.finish();
      hash = checks.newHash();
      return found === entry.sha256 ? Promise.resolve() : Promise.reject(wrongFile(entry, entry.sha256, found));
    },
    restart() {
      hash.finish();
      hash = checks.newHash();
    },
  };
}

async function exportTo(
  folder: FileSystemDirectoryHandle,
  cache: WeightCache,
  manifest: Manifest,
  text: string,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<void> {
  // A folder with a manifest is complete, so that of an older export goes first.
  await storing("delete `manifest.json` in the folder", () => folder.removeEntry("manifest.json").catch(unlessMissing));
  const needed = filesOf(manifest);
  const entries = [...needed, ...manifest.files.filter((entry) => !needed.includes(entry))];
  progress.begin(total(entries), entries.length);
  for (const entry of entries) {
    const cached = await cache.open(entry);
    const file = progress.file();
    try {
      if (!cached?.complete && !needed.includes(entry)) continue;
      if (!cached?.complete) throw new QwenVLError("OFFLINE_MISSING", `\`${entry.file}\` is not stored: load or repair the model first`);
      await writeFile(folder, entry.file, async (writer) => {
        for await (const piece of cached.read(PIECE_BYTES)) {
          signal.throwIfAborted();
          progress.phase("restore");
          await writer.write(piece.slice());
          file.add(piece.byteLength, true);
        }
        if (cached.intact) return;
        const { readError: cause } = cached;
        const problem = `could not read \`${entry.file}\` from the cache: repair the model first`;
        throw new QwenVLError(cause ? "STORAGE" : "INTEGRITY", problem, { cause });
      });
    } finally {
      await cached?.close(false);
      progress.fileDone();
    }
  }
  await writeFile(folder, "manifest.json", (writer) => writer.write(text));
}

function writeFile(
  folder: FileSystemDirectoryHandle,
  name: string,
  fill: (writer: FileSystemWritableFileStream) => Promise<void>,
): Promise<void> {
  return storing(`write \`${name}\` to the folder`, () => fillFile(folder, name, fill));
}

async function fillFile(
  folder: FileSystemDirectoryHandle,
  name: string,
  fill: (writer: FileSystemWritableFileStream) => Promise<void>,
): Promise<void> {
  const handle = await folder.getFileHandle(name, { create: true });
  const writer = await handle.createWritable();
  try {
    await fill(writer);
    await writer.close();
  } catch (error) {
    // Rejects if the writer has failed already, with the error that is thrown here.
    await writer.abort().catch(() => undefined);
    throw error;
  }
}

function total(entries: readonly FileEntry[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes, 0);
}
