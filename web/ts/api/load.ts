/** Loads a model into a worker. */

import { BACKGROUND_MS, type WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { Backend, EngineOptions, KernelSet, LoadParams, ModelInfo } from "../wire/protocol.js";
import { PHASES, type LoadProgress } from "../weights/progress.js";
import {
  cacheSpec,
  sourceSpec,
  type CacheChoice,
  type ConvertSource,
  type HubOptions,
  type ModelSource,
  type SourceOptions,
} from "../weights/spec.js";
import { convert, type ConvertOptions, type ConvertSettings } from "./convert.js";
import { ConvertingModel } from "./converting.js";
import type { ImageOptions } from "./image.js";
import { memoryOptions, MEMORY_CHECKS, type MemoryOptions } from "./memory.js";
import {
  abortSignal,
  anyBoolean,
  anyFunction,
  anyString,
  checkedElsewhere,
  checkOptions,
  HUB_CHECKS,
  IMAGE_CHECKS,
  oneOf,
  SOURCE_CHECKS,
  whole,
  type Checks,
} from "./options.js";
import { adoptWorker, LOCATION_CHECKS, startOnPageThread, startWorker, wasmLocation, type FileLocations } from "./workers.js";

export interface LoadOptions extends SourceOptions, HubOptions, FileLocations, ImageOptions, MemoryOptions {
  /** Aborts the load. Its promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
  /** @internal Kernel set to use in place of the fastest: for tests. */
  kernels?: KernelSet;
  /**
   * True (default) if the load may tune the kernels that generate tokens to the GPU. It measures some variants of them, for about two seconds at
   * most, and keeps the result in the cache store: later loads on the same GPU, driver and browser, with the same version of the package, take
   * it from there. With `cache: "none"` nothing is kept. `false` compares only the features of the GPU, and keeps nothing. Software adapters are not
   * tuned. `info.adapter.kernelChoice` has the measurements.
   */
  tuning?: boolean;
  /** Seed of answers that have no seed option. The same question then has the same answer. */
  seed?: number;
  /**
   * Backend: `"auto"` (default) is WebGPU, or the processor where WebGPU is missing. The processor runs small models only; others fail with
   * `WEBGPU_UNAVAILABLE` or `NO_ADAPTER`.
   */
  backend?: "auto" | Backend;
  /**
   * Thread of the model: `true` (default) is a worker of the package; `false` is the page's own thread, which the model then blocks; or a
   * worker whose script imports `qwen-vl-web/worker`. Such a worker belongs to the model and ends with it.
   */
  worker?: boolean | Worker;
  powerPreference?: "high-performance" | "low-power";
  /** Use the browser's software adapter: for tests. */
  forceFallbackAdapter?: boolean;
  /**
   * True (default) if the kernels are checked on this GPU before the load completes, which also compiles them. If a check fails, the model
   * is loaded again with the plain kernels. If these fail too, the load fails with `GPU_INCORRECT`.
   */
  selfCheck?: boolean;
  /** Encoded pictures to keep, in addition to those of {@link QwenVLModel.encodeImage}; 16 by default, up to 4 MiB each. */
  keptImages?: number;
  /** Cache store of the weights: by default the site's private file system, and none for a folder. */
  cache?: CacheChoice;
  /** Asks the browser never to evict the weights. Some browsers then ask the user. */
  persist?: boolean;
  /** Files to load in parallel; 4 by default. */
  concurrency?: number;
  /** Behaviour while another tab loads the same model: `"wait"` (default), or `"fail"` with `BUSY`. */
  whenBusy?: "wait" | "fail";
  /**
   * Converts a checkpoint in the published layout into the cache, instead of failing with `NOT_CONVERTED`, and loads its weights as they are
   * made. An object has the settings of the conversion.
   */
  convert?: boolean | (ConvertSettings & Pick<ConvertOptions, "url" | "workers" | "onProgress">);
}

/** `source` and `cache` are checked by `sourceSpec` and `cacheSpec`, `kernels` by the runtime. */
const CHECKS: Checks<LoadOptions> = {
  signal: abortSignal,
  onProgress: anyFunction,
  ...MEMORY_CHECKS,
  kernels: anyString,
  tuning: anyBoolean,
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  backend: oneOf("auto", "webgpu", "cpu"),
  worker: {
    expected: "true, false or a Worker",
    accepts: (value) => typeof value === "boolean" || (typeof value === "object" && value !== null && "postMessage" in value),
  },
  powerPreference: oneOf("high-performance", "low-power"),
  forceFallbackAdapter: anyBoolean,
  ...IMAGE_CHECKS,
  selfCheck: anyBoolean,
  keptImages: whole(0),
  cache: checkedElsewhere,
  persist: anyBoolean,
  concurrency: whole(1),
  whenBusy: oneOf("wait", "fail"),
  convert: {
    expected: "true, false or settings",
    accepts: (value) => typeof value === "boolean" || (typeof value === "object" && value !== null),
  },
  ...SOURCE_CHECKS,
  ...HUB_CHECKS,
  ...LOCATION_CHECKS,
};

/** HTTP/1.1 servers allow six connections. */
const CONCURRENCY = 4;

/** A worker with a loaded model. */
export interface LoadedWorker {
  client: WorkerClient;
  info: ModelInfo;
  /** Duration of the load, in milliseconds. */
  loadMs: number;
  /** Bytes that came from the cache. */
  restoredBytes: number;
}

/**
 * Called with each worker that is started, before its load completes.
 *
 * @param store cache store that it uses by default
 */
export type OnStart = (client: WorkerClient, store: "opfs" | "cache-api") => void;

/** Attempts of one load. */
interface Attempts {
  onStart: OnStart;
  /** Resolves when the memory of the previous attempt is free. */
  freed: Promise<unknown>;
}

/** One way to run a model on this machine. */
interface Way {
  backend: Backend;
  worker: boolean | Worker;
  /** Errors of the previous attempt that lead to this way. */
  after: readonly string[];
}

/** Returns the ways to run a model, in the order of preference. */
function waysToRun({ backend = "auto", worker = true }: LoadOptions): Way[] {
  const pageHasGpu = "gpu" in (globalThis.navigator ?? {});
  const first = backend === "auto" ? (pageHasGpu ? "webgpu" : "cpu") : backend;
  const ways: Way[] = [{ backend: first, worker, after: [] }];
  // A worker of the page ends with its first attempt.
  if (first === "cpu" || typeof worker === "object") return ways;
  // Some browsers have WebGPU on the page and not in workers.
  if (worker && pageHasGpu) ways.push({ backend: "webgpu", worker: false, after: ["WEBGPU_UNAVAILABLE"] });
  if (backend === "auto") ways.push({ backend: "cpu", worker, after: ["WEBGPU_UNAVAILABLE", "NO_ADAPTER"] });
  return ways;
}

/** Loads a model in the first way that this machine offers. */
export async function loadIntoWorker(
  source: ModelSource | ConvertingModel,
  options: LoadOptions,
  onStart: OnStart = () => undefined,
): Promise<LoadedWorker> {
  checkOptions(options, CHECKS);
  options.signal?.throwIfAborted();
  const onProgress = forwardOnly(options.onProgress);
  const attempts: Attempts = { onStart, freed: Promise.resolve() };
  let failure: unknown;
  for (const way of waysToRun(options)) {
    if (failure !== undefined && !way.after.includes(codeOf(failure) ?? "")) continue;
    try {
      return await loadWithCheckedKernels(source, { ...options, ...onProgress }, way, attempts);
    } catch (error) {
      // If the model is too large for the processor, the user needs to know why the GPU could not be used.
      const tooLarge = way.backend === "cpu" && failure !== undefined && codeOf(error) === "WEBGPU_UNAVAILABLE";
      if (!tooLarge) failure = error;
    }
  }
  throw failure;
}

/** Loads a model. If its kernels compute incorrectly on this GPU, loads it again with the plain kernels. */
async function loadWithCheckedKernels(
  source: ModelSource | ConvertingModel,
  options: LoadOptions,
  way: Way,
  attempts: Attempts,
): Promise<LoadedWorker> {
  try {
    return await loadOnce(source, options, way, attempts);
  } catch (error) {
    const canRetry = codeOf(error) === "GPU_INCORRECT" && options.kernels !== "plain" && typeof way.worker !== "object";
    if (!canRetry) throw error;
    return loadOnce(source, { ...options, kernels: "plain" }, way, attempts);
  }
}

async function loadOnce(
  source: ModelSource | ConvertingModel,
  options: LoadOptions,
  { backend, worker }: Way,
  attempts: Attempts,
): Promise<LoadedWorker> {
  const { signal, onProgress } = options;
  await attempts.freed;
  signal?.throwIfAborted();
  const converting = source instanceof ConvertingModel ? await source.attempt(options) : undefined;
  const from = converting?.from ?? sourceSpec(source as ModelSource, options);
  // Only workers can read files of the private file system piece by piece.
  const store = worker === false ? "cache-api" : "opfs";
  // A conversion writes to the cache itself.
  const cache = cacheSpec(from.spec.kind === "conversion" ? "none" : (options.cache ?? (from.spec.kind === "folder" ? "none" : store)));
  const client =
    worker === true ? startWorker(options, backend) : worker === false ? await startOnPageThread(backend) : adoptWorker(worker);
  attempts.onStart(client, store);
  try {
    if (options.persist) await navigator.storage?.persist();
    const params: LoadParams = {
      source: from.spec,
      cache: cache.spec,
      concurrency: options.concurrency ?? CONCURRENCY,
      whenBusy: options.whenBusy ?? "wait",
      ...wasmLocation(options, backend),
      selfCheck: options.selfCheck ?? true,
      ...(options.keptImages === undefined ? {} : { keptImages: options.keptImages }),
      options: engineOptions(options),
    };
    const began = performance.now();
    let restoredBytes = 0;
    const onEvent = (progress: LoadProgress) => {
      restoredBytes = progress.restoredBytes;
      if (progress.phase === "convert") converting?.onTaking();
      onProgress?.(progress);
    };
    const call = { transfer: [...from.transfer, ...cache.transfer], onEvent, ...(signal ? { signal } : {}) };
    const info = await client.call("load", params, call).result;
    return { client, info, loadMs: performance.now() - began, restoredBytes };
  } catch (error) {
    // The caller gets the error now. Only another attempt waits for the memory.
    attempts.freed = client.shutDown(new QwenVLError("DISPOSED", "the load failed"), BACKGROUND_MS);
    throw error;
  }
}

function engineOptions({ forceFallbackAdapter, powerPreference, kernels, tuning, ...options }: LoadOptions): EngineOptions {
  return {
    ...memoryOptions(options),
    forceFallbackAdapter: forceFallbackAdapter ?? false,
    lowPower: powerPreference === "low-power",
    ...(kernels === undefined ? {} : { kernels }),
    ...(tuning === undefined ? {} : { tuning }),
  };
}

/**
 * Converts a checkpoint, and loads its shards as they are made.
 *
 * @param store cache store to use if the options name none
 * @returns the loaded model, and its address in the cache
 */
export async function convertIntoWorker(
  source: ConvertSource,
  options: LoadOptions,
  store: "opfs" | "cache-api",
  onStart: OnStart,
): Promise<{ loaded: LoadedWorker; url: string }> {
  const failure = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, failure.signal]) : failure.signal;
  let loading: Promise<LoadedWorker> | undefined;
  const converting = convert(source, conversionOf({ ...options, cache: options.cache ?? store, signal }), (url, manifest, workers) => {
    return new Promise((resolve) => {
      loading = loadIntoWorker(new ConvertingModel(url, manifest, workers, converting, resolve), { ...options, signal }, onStart);
      // A load that fails ends the conversion, and the other way round.
      loading.catch((error: unknown) => failure.abort(error));
    });
  });
  try {
    const { url } = await converting;
    return { loaded: await (loading as Promise<LoadedWorker>), url };
  } catch (error) {
    failure.abort(error);
    loading?.then(
      ({ client }) => client.shutDown(new QwenVLError("DISPOSED", "the conversion failed"), BACKGROUND_MS),
      () => undefined,
    );
    throw error;
  }
}

/** Returns the options of a conversion that belongs to a load. */
function conversionOf({ convert: settings, cache, ...options }: LoadOptions): ConvertOptions {
  const { signal, fetch, requestInit, retries, accessToken, hubUrl, convertWasmUrl, convertWorkerUrl } = options;
  const shared = { signal, fetch, requestInit, retries, accessToken, hubUrl, convertWasmUrl, convertWorkerUrl };
  const given = Object.entries(shared).filter(([, value]) => value !== undefined);
  return {
    ...(Object.fromEntries(given) as ConvertOptions),
    ...(cache === undefined || cache === "none" ? {} : { cache }),
    ...(typeof settings === "object" ? settings : {}),
  };
}

/** Suppresses the progress of phases that an earlier attempt has passed. */
function forwardOnly(onProgress: LoadOptions["onProgress"]): Pick<LoadOptions, "onProgress"> {
  if (!onProgress) return {};
  let reached = 0;
  return {
    onProgress(progress) {
      const phase = PHASES.indexOf(progress.phase);
      if (phase < reached) return;
      reached = phase;
      onProgress(progress);
    },
  };
}

function codeOf(error: unknown): string | undefined {
  return error instanceof QwenVLError ? error.code : undefined;
}
