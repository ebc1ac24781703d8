/** The model behind the sessions: it is loaded when the first session needs it, and all sessions share it. */

import type { LoadProgress } from "../../weights/progress.js";
import type { CheckReport } from "../check.js";
import type { QwenVLModel } from "../model.js";
import type { SessionModel } from "../session.js";
import { untilAborted } from "../../wire/abort.js";
import { ChatMeter } from "./meter.js";
import type { Availability } from "./types.js";

/** Options of a load by {@link LoadModel}, for `QwenVL.load`. */
export interface LoadModelOptions {
  onProgress: (progress: LoadProgress) => void;
  signal: AbortSignal;
}

/**
 * Loads a model: `(options) => QwenVL.load("/model/", options)`. A model that arrives after the abort of its signal is disposed of, since no session
 * waits for it.
 */
export type LoadModel = (options: LoadModelOptions) => PromiseLike<QwenVLModel>;

/** A model that is loaded when the first session is created. */
export interface LazyModel {
  load: LoadModel;
  /** Returns whether the model runs here and is stored: `() => QwenVL.check("/model/")`. Without it, the model counts as not stored. */
  check?: () => PromiseLike<Pick<CheckReport, "status" | "bytes">>;
}

/** The model of the sessions: one that is loaded, or the way to load one. */
export type LanguageModelSource = QwenVLModel | LoadModel | LazyModel;

/** A loaded model with what its sessions share. */
export interface Loaded {
  model: SessionModel;
  meter: ChatMeter;
}

interface Loading {
  result: Promise<Loaded>;
  /** Takes the fraction of the files that is loaded, 0 to 1. */
  listeners: Set<(fraction: number) => void>;
  controller: AbortController;
  /** Number of callers that wait. */
  waiting: number;
}

export class ModelHost {
  readonly #source: LazyModel | undefined;
  #loaded: Loaded | undefined;
  #loading: Loading | undefined;

  constructor(source: LanguageModelSource) {
    if (typeof source === "function") this.#source = { load: source };
    else if ("load" in source) this.#source = source;
    else this.#loaded = { model: source, meter: new ChatMeter(source) };
  }

  /** The model, if it is loaded. */
  get loaded(): Loaded | undefined {
    return this.#loaded;
  }

  /** Returns whether a session needs a download ("language model non-options availability"); `null` if the check failed. */
  async availability(): Promise<Availability | null> {
    const loaded = this.#loaded;
    if (loaded && (await isDisposed(loaded.model))) {
      if (!this.#source) return "unavailable";
      // The next session loads it again.
      if (this.#loaded === loaded) this.#loaded = undefined;
    }
    if (this.#loaded) return "available";
    if (this.#loading) return "downloading";
    const check = this.#source?.check;
    if (!check) return "downloadable";
    try {
      const { status, bytes } = await check();
      if (status === "unsupported") return "unavailable";
      return bytes?.download === 0 ? "available" : "downloadable";
    } catch {
      return null;
    }
  }

  /**
   * Returns the model, after a load if it is not loaded. Callers share a load; it is aborted if all of them have given up.
   *
   * @param onFraction takes the fraction of the files that is loaded
   */
  async load(onFraction: (fraction: number) => void, signal: AbortSignal | undefined): Promise<Loaded> {
    if (this.#loaded) return this.#loaded;
    const loading = (this.#loading ??= this.#start());
    loading.listeners.add(onFraction);
    loading.waiting += 1;
    try {
      return await untilAborted(signal, loading.result);
    } finally {
      loading.listeners.delete(onFraction);
      loading.waiting -= 1;
      if (loading.waiting === 0 && this.#loading === loading) {
        this.#loading = undefined;
        loading.controller.abort(signal?.reason);
      }
    }
  }

  #start(): Loading {
    const controller = new AbortController();
    const listeners = new Set<(fraction: number) => void>();
    const onProgress = ({ bytes, totalBytes }: LoadProgress) => {
      if (totalBytes > 0) for (const listener of listeners) listener(bytes / totalBytes);
    };
    const load = async (): Promise<Loaded> => {
      // The first caller listens before the first report.
      await Promise.resolve();
      // A model that is given is loaded already.
      const { signal } = controller;
      const model = await (this.#source as LazyModel).load({ onProgress, signal });
      if (signal.aborted) {
        await model.dispose();
        throw signal.reason;
      }
      this.#loaded = { model, meter: new ChatMeter(model) };
      return this.#loaded;
    };
    const loading: Loading = { result: load(), listeners, controller, waiting: 0 };
    const end = () => {
      if (this.#loading === loading) this.#loading = undefined;
    };
    // Every caller gets the failure. This handler keeps it from being reported as unhandled if all have given up.
    loading.result.then(end, end);
    return loading;
  }
}

/** True if a model was disposed of. */
async function isDisposed(model: SessionModel): Promise<boolean> {
  try {
    // A model looks at itself before it looks at the signal, so that the worker is not asked.
    await model.count({ prompt: { kind: "raw", text: "" }, pictures: [] }, { signal: AbortSignal.abort() });
  } catch (error) {
    return (error as { code?: unknown } | undefined)?.code === "DISPOSED";
  }
  return false;
}
