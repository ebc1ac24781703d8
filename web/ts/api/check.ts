/** Checks whether this machine can run a model, before the model is fetched. */

import { isSoftware } from "../wire/adapter.js";
import { QwenVLError, type ErrorCode } from "../wire/errors.js";
import type { Estimate } from "../wire/generated.js";
import type { Inspection } from "../weights/inspect.js";
import { quotaMessage } from "../weights/load.js";
import { cacheSpec, sourceSpec, type CacheChoice, type HubOptions, type ModelSource, type SourceOptions } from "../weights/spec.js";
import { memoryOptions, MEMORY_CHECKS, type MemoryOptions } from "./memory.js";
import { abortSignal, anyBoolean, checkedElsewhere, checkOptions, HUB_CHECKS, SOURCE_CHECKS, type Checks } from "./options.js";
import { LOCATION_CHECKS, startWorker, wasmLocation, type FileLocations } from "./workers.js";

/** Options of a check. Those of the model's memory are the options of the load. */
export interface CheckOptions extends SourceOptions, HubOptions, FileLocations, MemoryOptions {
  /** The `cache` of the load; the site's private file system by default. */
  cache?: CacheChoice;
  /** Allocates the model's memory on the GPU and frees it again. Only this shows whether it fits. */
  probeMemory?: boolean;
  signal?: AbortSignal;
}

/** A reason why a model does not run, or runs slowly. */
export interface CheckReason {
  code: ErrorCode;
  message: string;
  /** Advice for the user; may be empty. */
  hint: string;
}

export interface CheckReport {
  /** `slow`: the model runs, but on the processor or a software GPU, or is fetched at each load. */
  status: "ok" | "slow" | "unsupported";
  reasons: CheckReason[];
  adapter?: {
    vendor: string;
    architecture: string;
    /** True if the adapter is software. */
    isFallback: boolean;
    f16: boolean;
    subgroups: boolean;
    maxBufferBytes: number;
    maxBindingBytes: number;
  };
  /** Absent without a source, or if its manifest could not be read. */
  bytes?: {
    /** Size of the model's files. */
    total: number;
    /** The part of `total` that is stored. */
    cached: number;
    /** The part of `total` that a load fetches. */
    download: number;
    /** GPU memory that a load allocates. */
    gpu: number;
  };
  storage?: { quota: number; free: number; persisted: boolean };
}

/** Attempts to read the manifest. Few, so that the check ends soon. */
const RETRIES = 1;
const PROBE_BUFFER_BYTES = 64 << 20;
/** `GPUBufferUsage.STORAGE`. The type is known in TypeScript, the value is not. */
const STORAGE_USAGE = 0x80;

/** `cache` is checked by `cacheSpec`. */
const CHECKS: Checks<CheckOptions> = {
  ...MEMORY_CHECKS,
  cache: checkedElsewhere,
  probeMemory: anyBoolean,
  signal: abortSignal,
  ...SOURCE_CHECKS,
  ...HUB_CHECKS,
  ...LOCATION_CHECKS,
};

type Add = (status: "slow" | "unsupported", code: ErrorCode, message: string) => void;

/**
 * Checks the browser, the GPU, the storage and, given a model, its manifest. Fetches nothing else of the model. Rejects only if it is
 * aborted, with the signal's reason.
 */
export async function check(source: ModelSource | undefined, options: CheckOptions = {}): Promise<CheckReport> {
  const report: CheckReport = { status: "ok", reasons: [] };
  const add: Add = (status, code, message) => {
    if (report.status !== "unsupported") report.status = status;
    report.reasons.push({ code, message, hint: new QwenVLError(code, message).hint });
  };
  try {
    checkOptions(options, CHECKS);
    options.signal?.throwIfAborted();
    await checkAll(source, options, report, add);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof QwenVLError) add("unsupported", error.code, error.message);
    else add("unsupported", "INTERNAL", String(error));
  }
  return report;
}

async function checkAll(source: ModelSource | undefined, options: CheckOptions, report: CheckReport, add: Add): Promise<void> {
  const storage = await storageEstimate();
  if (storage) report.storage = storage;
  let estimate: Estimate | undefined;
  if (source !== undefined) {
    try {
      const model = await inspect(source, options);
      estimate = model.estimate;
      const [total, download] = [model.totalBytes, model.missingBytes];
      report.bytes = { total, cached: total - download, download, gpu: estimate.gpu.total };
      if (storage && download > storage.free) add("slow", "QUOTA_EXCEEDED", quotaMessage(download, storage.free));
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!(error instanceof QwenVLError)) throw error;
      // The machine is checked without the model.
      add("unsupported", error.code, error.message);
    }
  }
  // Without WebGPU, small models run on the processor.
  const withoutGpu = estimate?.cpu.fits ? "slow" : "unsupported";
  if (!globalThis.isSecureContext) return add("unsupported", "INSECURE_CONTEXT", "the page is not in a secure context");
  if (!("gpu" in navigator)) return add(withoutGpu, "WEBGPU_UNAVAILABLE", "this browser has no WebGPU");
  let problem = "";
  const adapter = await navigator.gpu.requestAdapter().catch((error: unknown) => {
    problem = `: ${String(error)}`;
    return null;
  });
  options.signal?.throwIfAborted();
  if (!adapter) return add(withoutGpu, "NO_ADAPTER", `the browser offers no GPU${problem}`);
  report.adapter = describeAdapter(adapter);
  if (report.adapter.isFallback) add("slow", "NO_ADAPTER", "the browser's GPU adapter is software");
  if (estimate) await checkMemory(adapter, estimate, options, add);
}

/** Returns `undefined` if the browser does not give the page any storage. */
async function storageEstimate(): Promise<CheckReport["storage"]> {
  try {
    const { quota = 0, usage = 0 } = await navigator.storage.estimate();
    return { quota, free: Math.max(quota - usage, 0), persisted: await navigator.storage.persisted() };
  } catch {
    // A page without storage runs models too: they are fetched each time.
    return undefined;
  }
}

/** Reads the model's manifest in a worker, which has the engine and can read the cache. */
async function inspect(source: ModelSource, options: CheckOptions): Promise<Inspection<Estimate>> {
  const { signal } = options;
  const from = sourceSpec(source, { ...options, retries: options.retries ?? RETRIES });
  const cache = cacheSpec(options.cache ?? (from.spec.kind === "folder" ? "none" : "opfs"));
  const client = startWorker(options);
  try {
    const params = {
      source: from.spec,
      cache: cache.spec,
      options: memoryOptions(options),
      ...wasmLocation(options),
    };
    const transfer = [...from.transfer, ...cache.transfer];
    return await client.call("inspect", params, { transfer, ...(signal ? { signal } : {}) }).result;
  } finally {
    client.end(new QwenVLError("DISPOSED", "the check is over"));
  }
}

function describeAdapter(adapter: GPUAdapter): NonNullable<CheckReport["adapter"]> {
  const { info, features, limits } = adapter;
  return {
    // Browsers may hide all facts about the adapter.
    vendor: info?.vendor ?? "",
    architecture: info?.architecture ?? "",
    isFallback: isSoftware(adapter) ?? false,
    f16: features.has("shader-f16"),
    subgroups: features.has("subgroups"),
    maxBufferBytes: limits.maxBufferSize,
    maxBindingBytes: limits.maxStorageBufferBindingSize,
  };
}

async function checkMemory(adapter: GPUAdapter, estimate: Estimate, { probeMemory }: CheckOptions, add: Add): Promise<void> {
  const { limits } = adapter;
  const limit = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  const { largestBinding: largest, total: bytes } = estimate.gpu;
  if (largest > limit)
    return add("unsupported", "INSUFFICIENT_LIMITS", `the model needs ${largest} bytes in one buffer, the GPU allows ${limit}`);
  if (!probeMemory) return;
  const problem = await probe(adapter, bytes);
  if (problem) add("unsupported", "GPU_OUT_OF_MEMORY", `the GPU cannot hold the ${bytes} bytes of the model: ${problem}`);
}

/** Allocates `bytes` in buffers and frees them. Returns what went wrong, if anything. */
async function probe(adapter: GPUAdapter, bytes: number): Promise<string | undefined> {
  let device: GPUDevice | undefined;
  try {
    device = await adapter.requestDevice();
    device.pushErrorScope("out-of-memory");
    for (let left = bytes; left > 0; left -= PROBE_BUFFER_BYTES) {
      device.createBuffer({ size: Math.ceil(Math.min(left, PROBE_BUFFER_BYTES) / 4) * 4, usage: STORAGE_USAGE });
    }
    const failure = await device.popErrorScope();
    return failure ? failure.message || "out of memory" : undefined;
  } catch (error) {
    return String(error);
  } finally {
    // Frees the buffers too.
    device?.destroy();
  }
}
