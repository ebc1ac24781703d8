/** A conversion by several workers. */

import { untilAborted } from "../wire/abort.js";
import { BACKGROUND_MS, type WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { ConversionPlan } from "../wire/generated.js";
import type { ConvertOpened, ConvertStep, FinishedShard } from "../wire/protocol.js";
import { withConversionLock } from "../weights/locks.js";
import type { Manifest } from "../weights/manifest.js";
import { INTERVAL_MS, Rate } from "../weights/progress.js";

/** Progress of a conversion. */
export interface ConvertProgress {
  /** `plan`: everything but the weights is read. `convert`: shards are made. `finish`: the last files are written. */
  phase: "plan" | "convert" | "finish";
  /** Bytes of shards that are written, by earlier runs too. */
  bytes: number;
  /** Bytes of all shards. */
  totalBytes: number;
  /** Bytes of the source that were read in this run. */
  readBytes: number;
  /** Bytes of the source that a whole conversion reads. */
  sourceBytes: number;
  /** Complete shards. */
  shard: number;
  shards: number;
  /** Bytes of the source a second, over the last seconds. */
  bytesPerSecond: number;
  /** Time until the shards are made; `undefined` while the rate is unknown. */
  etaSeconds: number | undefined;
  /** Requests that failed and were repeated. */
  retries: number;
}

/** A worker that has opened a checkpoint. */
export interface OpenWorker {
  client: WorkerClient;
  opened: ConvertOpened;
}

export interface ConversionRun {
  /** Most workers. */
  workers: number;
  signal?: AbortSignal;
  onProgress?: (progress: ConvertProgress) => void;
  /** Begins a load that takes the shards as they are made. Returns a port of it for each worker, once it takes bytes. */
  load?: (plan: ConversionPlan, workers: number) => Promise<MessagePort[]>;
}

/**
 * Makes the shards of a checkpoint that are not complete yet, and then the other files.
 *
 * @param start starts a worker; `like` is what another one has opened
 */
export async function runConversion(
  start: (signal: AbortSignal, like?: ConvertOpened) => Promise<OpenWorker>,
  { workers, signal, onProgress, load }: ConversionRun,
): Promise<{ manifest: string; plan: ConversionPlan }> {
  const failure = new AbortController();
  const ended = signal ? AbortSignal.any([signal, failure.signal]) : failure.signal;
  const clients: WorkerClient[] = [];
  try {
    const { client: first, opened } = await start(ended);
    clients.push(first);
    const { plan } = opened;
    const progress = new Progress(plan, onProgress);
    const make = async () => {
      const done = await first.call("convertFinished", {}, { signal: ended }).result;
      const entries: (FinishedShard | undefined)[] = plan.shards.map((_, index) => done.get(index));
      // A load reads finished shards too, from where they are stored.
      const indices = entries.flatMap((entry, index) => (entry && !load ? [] : [index]));
      const count = Math.max(Math.min(workers, indices.length), 1);
      const ports = load ? await untilAborted(ended, load(plan, count)) : [];
      progress.begin(load ? [] : entries);
      const waiting = indices[Symbol.iterator]();
      const work = async (client: WorkerClient, port: MessagePort | undefined, files: string[]) => {
        if (port) await client.call("convertPipe", { port, files }, { signal: ended, transfer: [port] }).result;
        for (const index of waiting) {
          const onEvent = (step: ConvertStep) => progress.add(step);
          const finished = entries[index];
          const params = finished ? { index, finished } : { index };
          entries[index] = await client.call("convertShard", params, { signal: ended, onEvent }).result;
          progress.shardDone();
        }
      };
      const startAnother = async (port: MessagePort | undefined) => {
        const { client } = await start(ended, opened);
        clients.push(client);
        await work(client, port, []);
      };
      const others = Array.from({ length: count - 1 }, (_, at) => startAnother(ports[at + 1]));
      const { tokenizer_file } = (JSON.parse(plan.manifest) as Manifest).processor;
      const all = [work(first, ports[0], [tokenizer_file]), ...others];
      await Promise.all(all.map((each) => each.catch((error: unknown) => failure.abort(error))));
      ended.throwIfAborted();
      progress.finish();
      return first.call("convertFinish", { shards: entries as FinishedShard[] }, { signal: ended }).result;
    };
    const manifest = await withConversionLock(plan.fingerprint, async () => {
      try {
        return await make();
      } finally {
        // The lock is held until no worker writes any more: they may be in the middle of a shard.
        await shutDown(clients);
      }
    });
    return { manifest, plan };
  } finally {
    void shutDown(clients);
  }
}

async function shutDown(clients: readonly WorkerClient[]): Promise<void> {
  const reason = new QwenVLError("DISPOSED", "the conversion is over");
  await Promise.all(clients.map((client) => client.shutDown(reason, BACKGROUND_MS)));
}

/** Sums up the progress of all workers. */
class Progress {
  readonly #state: ConvertProgress;
  readonly #onProgress: ((progress: ConvertProgress) => void) | undefined;
  readonly #read = new Rate();
  readonly #written = new Rate();
  #reportedAt = -Infinity;

  constructor({ sourceBytes, shards }: ConversionPlan, onProgress: ((progress: ConvertProgress) => void) | undefined) {
    this.#onProgress = onProgress;
    this.#state = {
      phase: "plan",
      bytes: 0,
      totalBytes: shards.reduce((sum, { bytes }) => sum + bytes, 0),
      readBytes: 0,
      sourceBytes,
      shard: 0,
      shards: shards.length,
      bytesPerSecond: 0,
      etaSeconds: undefined,
      retries: 0,
    };
    this.#report();
  }

  /** @param entries shards that earlier runs have made */
  begin(entries: readonly (FinishedShard | undefined)[]): void {
    this.#state.phase = "convert";
    for (const entry of entries) {
      this.#state.bytes += entry?.bytes ?? 0;
      this.#state.shard += entry ? 1 : 0;
    }
    this.#report();
  }

  add({ read, written, retries }: ConvertStep): void {
    this.#state.readBytes += read;
    this.#state.bytes += written;
    this.#state.retries += retries;
    if (performance.now() - this.#reportedAt > INTERVAL_MS) this.#report();
  }

  shardDone(): void {
    this.#state.shard += 1;
    this.#report();
  }

  finish(): void {
    this.#state.phase = "finish";
    this.#report();
  }

  #report(): void {
    this.#reportedAt = performance.now();
    const state = this.#state;
    state.bytesPerSecond = this.#read.update(state.readBytes);
    const written = this.#written.update(state.bytes);
    state.etaSeconds = written > 0 ? (state.totalBytes - state.bytes) / written : undefined;
    this.#onProgress?.({ ...state });
  }
}
