/** Moves a model's files from the cache and the source to their targets, several in parallel. */

import type { CachedFile, WeightCache } from "./cache.js";
import type { FileEntry } from "./manifest.js";
import { PieceChecker } from "./pieces.js";
import type { ProgressCounter } from "./progress.js";
import type { Source } from "./source.js";

/** Takes the bytes of a file in order. */
export interface Target {
  /** Takes the next bytes. Computes their hash unless they are `verified`. May throw `INTEGRITY` at the last byte. */
  write(bytes: Uint8Array, verified: boolean): void;
  /** Called after the last byte. May reject with `INTEGRITY`. */
  finish?(): Promise<void>;
  /** Discards what was written. The file starts over. */
  restart(): void;
  /** Waits until the written bytes have left the queue, so that they do not pile up. */
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

/** Bytes to read from the cache at a time, and to write between two drains. */
export const PIECE_BYTES = 2 << 20;

/** Downloads of a file with a wrong hash. If the second one is wrong too, so is the file on the server. */
const DOWNLOADS = 2;

export async function transfer(jobs: readonly Job[], options: TransferOptions): Promise<void> {
  // A file that fails ends the others.
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
  const gate = gateTo(entry, target, options.source.trusted ?? false);
  let verified = false;
  try {
    for (let downloads = 0; !verified;) {
      signal.throwIfAborted();
      try {
        const restored = await restore(cached, gate, options, (bytes) => progress.add(bytes, true));
        if (restored === 0) downloads += 1;
        if (restored < entry.bytes) await fetchRest(entry, restored, cached, gate, options, (bytes) => progress.add(bytes, false));
        await target.finish?.();
        verified = true;
      } catch (error) {
        // Only this file is wrong, in the cache or as received: start it over.
        if (!(isIntegrityError(error) && downloads < DOWNLOADS)) throw error;
        await cached?.reset();
        gate.restart();
        target.restart();
        progress.restart();
        options.progress.retry();
      }
    }
  } finally {
    await cached?.close(verified);
  }
  options.progress.fileDone();
}

/** Passes bytes on to a target, verified where the file has piece hashes, and waits so that they do not pile up. */
interface Gate {
  write(bytes: Uint8Array): Promise<void>;
  restart(): void;
}

/** @param trusted true if the bytes need no hash */
function gateTo(entry: FileEntry, target: Target, trusted: boolean): Gate {
  let undrained = 0;
  let drained: Promise<void> | undefined;
  const take = async (bytes: Uint8Array, verified: boolean) => {
    target.write(bytes, verified);
    undrained += bytes.byteLength;
    if (undrained < PIECE_BYTES) return;
    undrained = 0;
    // Wait for the previous drain, so that the target stays one batch behind and does not idle. Reading from the cache is synchronous:
    // without a task in between, no message and no abort would arrive.
    await drained;
    drained = target.drain?.() ?? nextTask();
  };
  if (entry.pieces) return new PieceChecker(entry, entry.pieces, (piece) => take(piece, true));
  return { write: (bytes) => take(bytes, trusted), restart: () => undefined };
}

/** Passes on the stored bytes of a file. Returns their number. */
async function restore(
  cached: CachedFile | undefined,
  gate: Gate,
  { progress, signal }: TransferOptions,
  onBytes: (bytes: number) => void,
): Promise<number> {
  let restored = 0;
  for await (const piece of cached?.read(PIECE_BYTES) ?? []) {
    progress.phase("restore");
    restored += piece.byteLength;
    onBytes(piece.byteLength);
    await gate.write(piece);
    signal.throwIfAborted();
  }
  return restored;
}

async function fetchRest(
  entry: FileEntry,
  from: number,
  cached: CachedFile | undefined,
  gate: Gate,
  { source, progress, signal }: TransferOptions,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const hooks = { signal, onRetry: () => progress.retry(), onRefetched: (bytes: number) => progress.refetched(bytes) };
  for await (const piece of source.read(entry, from, hooks)) {
    signal.throwIfAborted();
    progress.phase("download");
    await cached?.append(piece);
    onBytes(piece.byteLength);
    await gate.write(piece);
  }
}

function isIntegrityError(error: unknown): boolean {
  return error instanceof Error && (error as Error & { code?: unknown }).code === "INTEGRITY";
}

/** Lets the tasks run that wait: messages, and bytes that have arrived. */
export function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
