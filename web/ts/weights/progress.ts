import type { ErrorData } from "../wire/errors.js";

/** Steps of a load, in this order; those without work are left out. `wait`: another tab is loading the same model. */
export const PHASES = ["manifest", "wait", "restore", "download", "verify", "upload", "compile", "warmup", "ready"] as const;
export type LoadPhase = (typeof PHASES)[number];

/** How far a load is. No number but the rate and the time left ever goes back. */
export interface LoadProgress {
  phase: LoadPhase;
  /** Bytes of the model's files that came, from the cache or its source. */
  bytes: number;
  totalBytes: number;
  /** Those of `bytes` that came from the cache. */
  restoredBytes: number;
  /** Bytes that had to be fetched again. */
  refetchedBytes: number;
  /** Over the last seconds; 0 while nothing comes. */
  bytesPerSecond: number;
  /** Of the files; `undefined` while the rate is not known. */
  etaSeconds: number | undefined;
  /** Files that are complete: the vocabulary and the shards. */
  shard: number;
  shards: number;
  /** Requests that failed and were repeated. */
  retries: number;
  /** Pictures that were encoded while weights still came. */
  pictures: number;
  /** Why the model is not being kept in the cache, if it was asked for. */
  cacheProblem?: ErrorData;
}

/** Progress is told this often at most, so that the page is not flooded. */
const INTERVAL_MS = 100;
const RATE_WINDOW_MS = 5000;

/** Counts what happens to files that are loaded side by side. */
export class ProgressCounter {
  readonly #tell: (progress: LoadProgress) => void;
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
  /** When how many bytes had come. */
  #samples: { at: number; bytes: number }[] = [];
  #told = -Infinity;

  constructor(tell: (progress: LoadProgress) => void) {
    this.#tell = tell;
  }

  begin(totalBytes: number, shards: number): void {
    Object.assign(this.#state, { totalBytes, shards });
    this.tell();
  }

  /** Moves on to a phase; never back. */
  phase(phase: LoadPhase): void {
    if (PHASES.indexOf(phase) <= PHASES.indexOf(this.#state.phase)) return;
    this.#state.phase = phase;
    this.tell();
  }

  file(): FileProgress {
    return new FileProgress(this);
  }

  add(bytes: number, restored: boolean): void {
    this.#state.bytes += bytes;
    if (restored) this.#state.restoredBytes += bytes;
    // All is here; the hashes of the last pieces are still to come.
    if (this.#state.bytes === this.#state.totalBytes) this.phase("verify");
    if (performance.now() - this.#told > INTERVAL_MS) this.tell();
  }

  fileDone(): void {
    this.#state.shard += 1;
    this.tell();
  }

  retry(): void {
    this.#state.retries += 1;
    this.tell();
  }

  pictureEncoded(): void {
    this.#state.pictures += 1;
    this.tell();
  }

  refetched(bytes: number): void {
    this.#state.refetchedBytes += bytes;
  }

  cacheProblem(problem: ErrorData): void {
    this.#state.cacheProblem = problem;
    this.tell();
  }

  tell(): void {
    const at = (this.#told = performance.now());
    const state = this.#state;
    this.#samples = this.#samples.filter((sample) => at - sample.at <= RATE_WINDOW_MS);
    const oldest = this.#samples[0];
    this.#samples.push({ at, bytes: state.bytes });
    state.bytesPerSecond = oldest && at > oldest.at ? ((state.bytes - oldest.bytes) * 1000) / (at - oldest.at) : 0;
    state.etaSeconds = state.bytesPerSecond > 0 ? (state.totalBytes - state.bytes) / state.bytesPerSecond : undefined;
    this.#tell({ ...state });
  }
}

/** The part of one file. A file that starts over counts nothing until it has passed where it was. */
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
