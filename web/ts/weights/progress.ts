import type { ErrorData } from "../wire/errors.js";

/**
 * Phases of a load in order. A phase without work is left out. In `wait`, another tab is loading the same model. In `convert`, the weights
 * arrive from a conversion.
 */
export const PHASES = ["manifest", "wait", "restore", "download", "convert", "verify", "upload", "compile", "warmup", "ready"] as const;
export type LoadPhase = (typeof PHASES)[number];

/** Progress of a load. Only `bytesPerSecond` and `etaSeconds` can decrease. */
export interface LoadProgress {
  phase: LoadPhase;
  /** Bytes of the model's files that were read from the cache or the source. */
  bytes: number;
  totalBytes: number;
  /** The part of `bytes` that was read from the cache. */
  restoredBytes: number;
  /** Bytes that were downloaded more than once. */
  refetchedBytes: number;
  /** Rate over the last seconds; 0 while no data arrives. */
  bytesPerSecond: number;
  /** Time until all files are read; `undefined` while the rate is unknown. */
  etaSeconds: number | undefined;
  /** Complete files: the vocabulary and the shards. */
  shard: number;
  shards: number;
  /** Requests that failed and were repeated. */
  retries: number;
  /** Pictures that were encoded during the download. */
  pictures: number;
  /** Reason why the model is not being stored, if a cache was requested. */
  cacheProblem?: ErrorData;
}

/** Shortest time between two reports, so that the page is not flooded. */
export const INTERVAL_MS = 100;
const RATE_WINDOW_MS = 5000;

/** The rate of something that counts up, over the last seconds. */
export class Rate {
  #samples: { at: number; count: number }[] = [];

  /** Returns the rate in units a second, given the count so far. */
  update(count: number): number {
    const at = performance.now();
    this.#samples = this.#samples.filter((sample) => at - sample.at <= RATE_WINDOW_MS);
    const oldest = this.#samples[0];
    this.#samples.push({ at, count });
    return oldest && at > oldest.at ? ((count - oldest.count) * 1000) / (at - oldest.at) : 0;
  }
}

/** Sums up the progress of files that are loaded in parallel. */
export class ProgressCounter {
  readonly #onReport: (progress: LoadProgress) => void;
  readonly #state: LoadProgress = {
    phase: "manifest",
    bytes: 0,
    totalBytes: 0,
    restoredBytes: 0,
    refetchedBytes: 0,
    bytesPerSecond: 0,
    etaSeconds: undefined,
    shard: 0,
    shards: 0,
    retries: 0,
    pictures: 0,
  };
  readonly #rate = new Rate();
  #reportedAt = -Infinity;

  constructor(onReport: (progress: LoadProgress) => void) {
    this.#onReport = onReport;
  }

  begin(totalBytes: number, shards: number): void {
    Object.assign(this.#state, { totalBytes, shards });
    this.report();
  }

  /** Enters a phase, unless the load is past it. */
  phase(phase: LoadPhase): void {
    if (PHASES.indexOf(phase) <= PHASES.indexOf(this.#state.phase)) return;
    this.#state.phase = phase;
    this.report();
  }

  file(): FileProgress {
    return new FileProgress(this);
  }

  add(bytes: number, restored: boolean): void {
    this.#state.bytes += bytes;
    if (restored) this.#state.restoredBytes += bytes;
    // The last hashes are computed after the last byte has arrived.
    if (this.#state.bytes === this.#state.totalBytes) this.phase("verify");
    if (performance.now() - this.#reportedAt > INTERVAL_MS) this.report();
  }

  fileDone(): void {
    this.#state.shard += 1;
    this.report();
  }

  retry(): void {
    this.#state.retries += 1;
    this.report();
  }

  pictureEncoded(): void {
    this.#state.pictures += 1;
    this.report();
  }

  refetched(bytes: number): void {
    this.#state.refetchedBytes += bytes;
  }

  cacheProblem(problem: ErrorData): void {
    this.#state.cacheProblem = problem;
    this.report();
  }

  report(): void {
    this.#reportedAt = performance.now();
    const state = this.#state;
    state.bytesPerSecond = this.#rate.update(state.bytes);
    state.etaSeconds = state.bytesPerSecond > 0 ? (state.totalBytes - state.bytes) / state.bytesPerSecond : undefined;
    this.#onReport({ ...state });
  }
}

/** Progress of one file. A file that starts over counts nothing until it has passed its highest offset. */
export class FileProgress {
  readonly #all: ProgressCounter;
  #at = 0;
  #highest = 0;

  constructor(all: ProgressCounter) {
    this.#all = all;
  }

  add(bytes: number, restored: boolean): void {
    this.#at += bytes;
    const more = Math.max(this.#at - this.#highest, 0);
    this.#highest += more;
    if (!restored) this.#all.refetched(bytes - more);
    this.#all.add(more, restored);
  }

  restart(): void {
    this.#at = 0;
  }
}
