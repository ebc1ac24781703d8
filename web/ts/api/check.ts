/** Whether this machine can run a model, before it is fetched. */

import { QwenVLError, type ErrorCode } from "../wire/errors.js";
import { filesOf, WeightCache } from "../weights/cache.js";
import type { FileEntry, Manifest } from "../weights/manifest.js";
import { OpfsStore } from "../weights/opfs.js";
import { manifestUrl, type SourceOptions } from "../weights/spec.js";

export interface CheckOptions extends Pick<SourceOptions, "fetch" | "requestInit"> {
  /** As it will be given to `load`; 2048 by default. */
  contextLength?: number;
  /** Allocates on the GPU what the model will take and frees it again: the only way to know whether it fits. */
  probeMemory?: boolean;
  signal?: AbortSignal;
}

/** Why a model can not run, or not well. */
export interface CheckReason {
  code: ErrorCode;
  message: string;
  /** What can be done about it. */
  hint: string;
}

export interface CheckReport {
  /** `slow`: it runs, but on the processor or on one that imitates a GPU, or from the network each time. */
  status: "ok" | "slow" | "unsupported";
  reasons: CheckReason[];
  adapter?: {
    vendor: string;
    architecture: string;
    /** Whether it is a program on the processor. */
    isFallback: boolean;
    f16: boolean;
    subgroups: boolean;
    maxBufferBytes: number;
    maxBindingBytes: number;
  };
  /** Absent where the manifest could not be read or none was given. */
  bytes?: {
    /** Of all files. */
    total: number;
    /** Those that are stored already. */
    cached: number;
    /** Those that a load will fetch. */
    download: number;
    /** Weights and KV cache on the GPU; what is computed with them takes some more. */
    gpu: number;
  };
  storage?: { quota: number; free: number; persisted: boolean };
}

/** What the estimate of GPU memory reads of a manifest. */
interface SizedManifest extends Manifest {
  config: Manifest["config"] & { num_hidden_layers: number; hidden_size: number };
  tensors: { shape: number[]; parts: { data: [number, number]; scales?: [number, number] }[] }[];
}

const CONTEXT_LENGTH = 2048;
/** Most weights, as f32, that run without a GPU: `MAX_WEIGHT_BYTES` of `crates/cpu`. */
const MAX_CPU_BYTES = 256 << 20;
const PROBE_BUFFER_BYTES = 64 << 20;
/** `GPUBufferUsage.STORAGE`, which TypeScript does not know as a value. */
const STORAGE_USAGE = 0x80;

/**
 * Looks at the browser, the GPU, the storage and, given a model's address, at its manifest. Nothing else is fetched. Never throws but for an
 * abort.
 */
export async function check(source: string | URL | undefined, options: CheckOptions = {}): Promise<CheckReport> {
  const reasons: CheckReason[] = [];
  const report: CheckReport = { status: "ok", reasons };
  const tell = (status: "slow" | "unsupported", code: ErrorCode, message: string) => {
    if (report.status !== "unsupported") report.status = status;
    reasons.push({ code, message, hint: new QwenVLError(code, message).hint });
  };

  const storage = await navigator.storage?.estimate().catch(() => undefined);
  if (storage) {
    const { quota = 0, usage = 0 } = storage;
    report.storage = { quota, free: Math.max(quota - usage, 0), persisted: await navigator.storage.persisted() };
  }
  let manifest: SizedManifest | undefined;
  if (source !== undefined) {
    try {
      manifest = await readManifest(manifestUrl(source), options);
      report.bytes = await sizes(manifest, options.contextLength ?? CONTEXT_LENGTH);
    } catch (error) {
      options.signal?.throwIfAborted();
      if (error instanceof QwenVLError) tell("unsupported", error.code, error.message);
      else tell("unsupported", "MANIFEST_INVALID", `the manifest can not be read: ${String(error)}`);
    }
  }
  const { bytes } = report;
  if (bytes && report.storage && bytes.download > report.storage.free) {
    tell("slow", "QUOTA_EXCEEDED", `the model needs ${bytes.download} bytes of storage, the browser allows ${report.storage.free} more`);
  }

  if (!globalThis.isSecureContext) tell("unsupported", "INSECURE_CONTEXT", "the page is not in a secure context");
  else if (!("gpu" in navigator)) tell(withoutGpu(manifest), "WEBGPU_UNAVAILABLE", "this browser has no WebGPU");
  else {
    const adapter = await navigator.gpu.requestAdapter().catch(() => null);
    options.signal?.throwIfAborted();
    if (!adapter) tell(withoutGpu(manifest), "NO_ADAPTER", "the browser offers no GPU");
    else await checkAdapter(adapter, report, manifest, options, tell);
  }
  return report;
}

/** Small models run on the processor. */
function withoutGpu(manifest: SizedManifest | undefined): "slow" | "unsupported" {
  const weights = manifest?.tensors.reduce((sum, { shape }) => sum + shape.reduce((product, side) => product * side, 1), 0);
  return weights !== undefined && 4 * weights <= MAX_CPU_BYTES ? "slow" : "unsupported";
}

async function readManifest(url: string, options: CheckOptions): Promise<SizedManifest> {
  const { requestInit, signal } = options;
  const init: RequestInit = { cache: "no-cache", ...requestInit, ...(signal ? { signal } : {}) };
  const response = await (options.fetch?.(url, init) ?? fetch(url, init)).catch((cause: unknown) => {
    throw new QwenVLError("DOWNLOAD", `no answer from the server: ${url}`, { details: { url }, cause });
  });
  const { status } = response;
  if (!response.ok) throw new QwenVLError("DOWNLOAD", `the server answered with status ${status}: ${url}`, { details: { url, status } });
  return (await response.json()) as SizedManifest;
}

async function sizes(manifest: SizedManifest, contextLength: number): Promise<NonNullable<CheckReport["bytes"]>> {
  const total = filesOf(manifest).reduce((sum, { bytes }: FileEntry) => sum + bytes, 0);
  // A page without storage has nothing stored.
  const missing = await OpfsStore.create()
    .then((store) => new WeightCache(store).missingBytes(manifest))
    .catch(() => total);
  const ranges = manifest.tensors.flatMap(({ parts }) => parts).flatMap(({ data, scales }) => (scales ? [data, scales] : [data]));
  const weights = ranges.reduce((sum, [begin, end]) => sum + end - begin, 0);
  const { num_hidden_layers: layers, hidden_size: hidden } = manifest.config;
  return { total, cached: total - missing, download: missing, gpu: weights + 2 * layers * hidden * 4 * contextLength };
}

async function checkAdapter(
  adapter: GPUAdapter,
  report: CheckReport,
  manifest: SizedManifest | undefined,
  { probeMemory = false }: CheckOptions,
  tell: (status: "slow" | "unsupported", code: ErrorCode, message: string) => void,
): Promise<void> {
  const { info, features, limits } = adapter;
  // Browsers are free to tell nothing of the adapter.
  const isFallback = info?.isFallbackAdapter ?? false;
  report.adapter = {
    vendor: info?.vendor ?? "",
    architecture: info?.architecture ?? "",
    isFallback,
    f16: features.has("shader-f16"),
    subgroups: features.has("subgroups"),
    maxBufferBytes: limits.maxBufferSize,
    maxBindingBytes: limits.maxStorageBufferBindingSize,
  };
  if (isFallback) tell("slow", "NO_ADAPTER", "the browser's adapter is a program on the processor");
  const parts = manifest?.tensors.flatMap(({ parts }) => parts.map(({ data: [begin, end] }) => end - begin)) ?? [];
  const largest = parts.reduce((largest, bytes) => Math.max(largest, bytes), 0);
  const limit = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  if (largest > limit)
    tell("unsupported", "INSUFFICIENT_LIMITS", `the GPU allows ${limit} bytes in one buffer, the model needs ${largest}`);
  else if (probeMemory && report.bytes && !(await fits(adapter, report.bytes.gpu))) {
    tell("unsupported", "GPU_OUT_OF_MEMORY", `the GPU can not hold the ${report.bytes.gpu} bytes of the model`);
  }
}

/** Allocates as much as the model will take, in buffers of its size. */
async function fits(adapter: GPUAdapter, bytes: number): Promise<boolean> {
  const device = await adapter.requestDevice().catch(() => undefined);
  if (!device) return false;
  try {
    device.pushErrorScope("out-of-memory");
    const buffers: GPUBuffer[] = [];
    for (let left = bytes; left > 0; left -= PROBE_BUFFER_BYTES) {
      buffers.push(device.createBuffer({ size: Math.ceil(Math.min(left, PROBE_BUFFER_BYTES) / 4) * 4, usage: STORAGE_USAGE }));
    }
    const failed = await device.popErrorScope();
    for (const buffer of buffers) buffer.destroy();
    return failed === null;
  } catch {
    return false;
  } finally {
    device.destroy();
  }
}
