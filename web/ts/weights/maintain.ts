/** What can be done with stored models beside loading them. */

import { QwenVLError } from "../wire/errors.js";
import { filesOf, type CachedModel, type WeightCache } from "./cache.js";
import { loadWeights, withModelLock } from "./load.js";
import type { FileEntry, Manifest } from "./manifest.js";
import type { ProgressCounter } from "./progress.js";
import { makeSource, type SourceSpec } from "./spec.js";
import { wrongFile } from "./errors.js";
import { PieceChecker } from "./pieces.js";
import { PIECE_BYTES, type Target } from "./transfer.js";

export type CacheOperation =
  | { kind: "list" | "clear" }
  | { kind: "verify" | "delete"; url: string }
  | { kind: "fill"; source: SourceSpec }
  | { kind: "export"; url: string; folder: FileSystemDirectoryHandle };

/** What only the engine's wasm can do. */
export interface Checks {
  checkManifest(manifest: string): void;
  newHash(): RunningHash;
}

export interface RunningHash {
  update(bytes: Uint8Array): void;
  finish(): string;
}

const CONCURRENCY = 4;

/** Does it, and returns the models that it was about, as they are then; for `delete`, as they were. */
export async function maintain(
  operation: CacheOperation,
  cache: WeightCache,
  checks: Checks,
  progress: ProgressCounter,
  signal: AbortSignal,
): Promise<CachedModel[]> {
  const model = async (url: string) => (await cache.models()).filter((model) => model.url === url);
  switch (operation.kind) {
    case "list":
      return cache.models();
    case "clear":
      await cache.clear();
      return [];
    case "delete": {
      const { url } = operation;
      const before = await model(url);
      await locked(cache, url, signal, () => cache.delete(url));
      return before;
    }
    case "verify":
      await locked(cache, operation.url, signal, (manifest) => verify(cache, manifest, checks, progress, signal));
      return model(operation.url);
    case "fill":
      await fill(operation.source, cache, checks, progress, signal);
      return model(operation.source.url);
    case "export":
      await locked(cache, operation.url, signal, (manifest, text) => exportTo(operation.folder, cache, manifest, text, progress, signal));
      return model(operation.url);
  }
}

/** Works on a stored model, unless a tab is loading it. */
async function locked(
  cache: WeightCache,
  url: string,
  signal: AbortSignal,
  work: (manifest: Manifest, text: string) => Promise<unknown>,
): Promise<void> {
  const text = await cache.manifest(url);
  if (text === undefined) return;
  const manifest = JSON.parse(text) as Manifest;
  await withModelLock(
    manifest.shards,
    "fail",
    signal,
    () => undefined,
    () => work(manifest, text),
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
    const cached = await cache.open(entry);
    if (!cached) continue;
    const target = hashTarget(entry, checks);
    const pass = entry.pieces && new PieceChecker(entry, entry.pieces, () => Promise.resolve());
    const file = progress.file();
    let bytes = 0;
    let right = true;
    try {
      for await (const piece of cached.read(PIECE_BYTES)) {
        signal.throwIfAborted();
        progress.phase("verify");
        if (pass) await pass.write(piece);
        else target.write(piece, false);
        bytes += piece.byteLength;
        file.add(piece.byteLength, true);
      }
      if (bytes === entry.bytes && !pass) await target.finish?.();
    } catch (error) {
      signal.throwIfAborted();
      right = false;
    }
    // The beginning of a download is left as it is, unless a piece of it is wrong.
    if (!right) await cached.reset();
    await cached.close(right && bytes === entry.bytes);
    progress.fileDone();
  }
}

/** Stores what is missing, and checks all of it on the way. */
async function fill(spec: SourceSpec, cache: WeightCache, checks: Checks, progress: ProgressCounter, signal: AbortSignal): Promise<void> {
  const makeSink = (text: string) => {
    checks.checkManifest(text);
    const { shards } = JSON.parse(text) as Manifest;
    return Promise.resolve({ target: (shard: number) => hashTarget(shards[shard] as FileEntry, checks) });
  };
  const options = { source: makeSource(spec), cache, makeSink, progress, concurrency: CONCURRENCY, whenBusy: "fail", signal } as const;
  await loadWeights(options);
}

function hashTarget(entry: FileEntry, checks: Checks): Target {
  let hash = checks.newHash();
  return {
    write(bytes, checked) {
      if (!checked) hash.update(bytes);
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
      });
    } finally {
      await cached?.close(false);
      progress.fileDone();
    }
  }
  // Last: a folder with a manifest is a whole one.
  await writeFile(folder, "manifest.json", (writer) => writer.write(text));
}

async function writeFile(
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
    await writer.abort().catch(() => undefined);
    throw error;
  }
}

function total(entries: readonly FileEntry[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes, 0);
}
