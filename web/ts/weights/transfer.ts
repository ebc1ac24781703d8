/** Moves a model's files from the cache and its source to where they are used, several side by side. */

import type { CachedFile, WeightCache } from "./cache.js";
import type { FileEntry } from "./manifest.js";
import { PieceChecker } from "./pieces.js";
import type { ProgressCounter } from "./progress.js";
import type { Source } from "./source.js";

/** Takes a file's bytes, from the first to the last, and checks their hash unless that was done piece by piece before. */
export interface Target {
  /** May throw `INTEGRITY` at the last byte. */
  write(bytes: Uint8Array, checked: boolean): void;
  /** After the last byte; may throw `INTEGRITY` too. */
  finish?(): Promise<void>;
  /** Forgets what was written; the file comes again. */
  restart(): void;
  /** Waits until what was written is where it belongs, so that it does not pile up. */
  drain?(): Promise<void>;
}

export interface Job {
  entry: FileEntry;
  target: Target;
}

export interface TransferOptions {
  source: Source;
  cache: WeightCache | undefined;
  progress: ProgressCounter;
  concurrency: number;
  signal: AbortSignal;
}

/** Bytes that are read from the cache at once. */
export const PIECE_BYTES = 2 << 20;

/** A file with the wrong hash is fetched again; the second time the server's file itself must be wrong. */
const FETCHES = 2;

export async function transfer(jobs: readonly Job[], options: TransferOptions): Promise<void> {
  // One file that fails ends the others.
  const failure = new AbortController();
  const signal = AbortSignal.any([options.signal, failure.signal]);
  const waiting = jobs[Symbol.iterator]();
  const worker = async () => {
    try {
      for (const job of waiting) await moveFile(job, { ...options, signal });
    } catch (error) {
      failure.abort(error);
    }
  };
  await Promise.all(Array.from({ length: Math.max(options.concurrency, 1) }, worker));
  signal.throwIfAborted();
}

async function moveFile({ entry, target }: Job, options: TransferOptions): Promise<void> {
  const { cache, signal } = options;
  const progress = options.progress.file();
  const cached = await cache?.open(entry);
  const pass = gate(entry, target);
  let right = false;
  try {
    for (let fetches = 0; !right;) {
      signal.throwIfAborted();
      try {
        const restored = await restore(cached, pass, options, (bytes) => progress.add(bytes, true));
        if (restored === 0) fetches += 1;
        if (restored < entry.bytes) await fetchRest(entry, restored, cached, pass, options, (bytes) => progress.add(bytes, false));
        await target.finish?.();
        right = true;
      } catch (error) {
        // Only this file is wrong, in the cache or as it came: once more from its first byte.
        if (!(isIntegrityError(error) && fetches < FETCHES)) throw error;
        await cached?.reset();
        pass.restart();
        target.restart();
        progress.restart();
        options.progress.retry();
      }
    }
  } finally {
    await cached?.close(right);
  }
  options.progress.fileDone();
}

/** What stands before a target: lets bytes pass, and waits so that they do not pile up. */
interface Gate {
  write(bytes: Uint8Array): Promise<void>;
  restart(): void;
}

function gate(entry: FileEntry, target: Target): Gate {
  let undrained = 0;
  let drained: Promise<void> | undefined;
  const take = async (bytes: Uint8Array, checked: boolean) => {
    target.write(bytes, checked);
    undrained += bytes.byteLength;
    if (undrained < PIECE_BYTES) return;
    undrained = 0;
    // The one before: so there is work for the target while this waits for bytes and hashes. Reading from the cache is synchronous:
    // without waiting for a task, no message and no abort would ever come through.
    await drained;
    drained = target.drain?.() ?? nextTask();
  };
  if (entry.pieces) return new PieceChecker(entry, entry.pieces, (piece) => take(piece, true));
  return { write: (bytes) => take(bytes, false), restart: () => undefined };
}

/** Hands over what is stored of a file; returns how many bytes that is. */
async function restore(
  cached: CachedFile | undefined,
  pass: Gate,
  { progress, signal }: TransferOptions,
  onBytes: (bytes: number) => void,
): Promise<number> {
  let restored = 0;
  for await (const piece of cached?.read(PIECE_BYTES) ?? []) {
    progress.phase("restore");
    restored += piece.byteLength;
    onBytes(piece.byteLength);
    await pass.write(piece);
    signal.throwIfAborted();
  }
  return restored;
}

async function fetchRest(
  entry: FileEntry,
  from: number,
  cached: CachedFile | undefined,
  pass: Gate,
  { source, progress, signal }: TransferOptions,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const hooks = { signal, onRetry: () => progress.retry(), onRefetched: (bytes: number) => progress.refetched(bytes) };
  for await (const piece of source.read(entry, from, hooks)) {
    signal.throwIfAborted();
    progress.phase("download");
    await cached?.append(piece);
    onBytes(piece.byteLength);
    await pass.write(piece);
  }
}

function isIntegrityError(error: unknown): boolean {
  return error instanceof Error && (error as Error & { code?: unknown }).code === "INTEGRITY";
}

function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
