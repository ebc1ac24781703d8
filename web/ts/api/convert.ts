/** Converts checkpoints in the published layout. */

import { BACKGROUND_MS } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { ConversionPlan, Family } from "../wire/generated.js";
import type { ConversionSettings, ConvertOpened, ConvertOpenParams, OutputSpec } from "../wire/protocol.js";
import type { ConvertSettings } from "../wire/types.js";
import { withConversionLock } from "../weights/locks.js";
import type { Manifest } from "../weights/manifest.js";
import {
  absolute,
  cacheSpec,
  manifestUrl,
  rangeSpec,
  type CacheChoice,
  type ConvertSource,
  type HubOptions,
  type Posted,
  type RangeSpec,
  type SourceOptions,
} from "../weights/spec.js";
import type { CacheStore } from "../weights/store.js";
import { check, type CheckReport } from "./check.js";
import { runConversion, type ConvertProgress, type OpenWorker } from "./conversion.js";
import {
  abortSignal,
  address,
  anyBoolean,
  anyFunction,
  arrayOf,
  anyString,
  checkedElsewhere,
  checkOptions,
  HUB_CHECKS,
  oneOf,
  SOURCE_CHECKS,
  whole,
  type Checks,
} from "./options.js";
import { LOCATION_CHECKS, startConverter, type FileLocations } from "./workers.js";

export type { ConvertSettings, Scheme } from "../wire/types.js";

export interface PlanOptions extends SourceOptions, HubOptions, FileLocations, ConvertSettings {
  signal?: AbortSignal;
}

export interface ConvertOptions extends PlanOptions {
  /**
   * Place of the result: the weight cache (default); a directory, which then holds the files that `quantize` writes; or a store,
   * which receives these files.
   */
  output?: FileSystemDirectoryHandle | CacheStore;
  /** Cache store of the weights, if the result is written to the cache; the site's private file system by default. */
  cache?: Exclude<CacheChoice, "none">;
  /** Address under which `load` finds the model in the cache. By default the address of the source, or `local:NAME/` for files. */
  url?: string | URL;
  /** Number of workers; by default up to two. Each takes some 50 MB of memory, wasm included. */
  workers?: number;
  onProgress?: (progress: ConvertProgress) => void;
}

/** A conversion before its first byte. */
export interface CheckpointPlan {
  /** Identifies the conversion: see `cache.listConversions`. Other files or settings have another one. */
  id: string;
  /** Name of the checkpoint. */
  name: string;
  /** Address that was read, with the commit that is fixed now if it is a repository. */
  source: string;
  family: Family;
  /** Licence of the weights, if the source names it. */
  licence?: string;
  /** Bytes to fetch. */
  sourceBytes: number;
  /** Bytes that the result takes at most. */
  bytes: number;
  bitsPerWeight: number;
  /** Sentences about what is ignored, left aside or renamed. */
  notes: string[];
  /** Report on whether this machine can run the model: see `QwenVL.check`. */
  check: CheckReport;
}

/** A finished conversion. */
export interface ConvertedModel {
  /** Address for `load`, if the result is in the cache. */
  url: string;
  /** Name of the checkpoint. */
  source: string;
  /** Size of all files. */
  bytes: number;
  /** Sentences about what was ignored, left aside or renamed. */
  notes: string[];
}

/** `cache` and `output` are checked by `cacheSpec`, `keep` and `groupSize` by the converter. */
const PLAN_CHECKS: Checks<PlanOptions> = {
  scheme: oneOf("q4", "q8", "f16", "f32"),
  groupSize: whole(1),
  keep: arrayOf(anyString, "strings"),
  allowNonfinite: anyBoolean,
  shardBytes: whole(1),
  signal: abortSignal,
  ...SOURCE_CHECKS,
  ...HUB_CHECKS,
  ...LOCATION_CHECKS,
};
const CHECKS: Checks<ConvertOptions> = {
  ...PLAN_CHECKS,
  output: checkedElsewhere,
  cache: checkedElsewhere,
  url: address,
  workers: whole(1, 64),
  onProgress: anyFunction,
};

/** Most workers if the caller does not say. */
const WORKERS = 2;

/** Reads everything but the weights, and returns what a conversion will do. */
export async function plan(source: ConvertSource, options: PlanOptions = {}): Promise<CheckpointPlan> {
  checkOptions(options, PLAN_CHECKS);
  const first = await openWorker(source, options);
  void first.client.shutDown(new QwenVLError("DISPOSED", "the plan is made"), BACKGROUND_MS);
  const { plan, listing } = first.opened;
  const { signal } = options;
  const model = { manifest: plan.manifest, baseUrl: "local:plan/" };
  const { wasmUrl, workerUrl } = options;
  const locations = { ...(wasmUrl ? { wasmUrl } : {}), ...(workerUrl ? { workerUrl } : {}) };
  return {
    id: plan.fingerprint,
    name: listing.name,
    source: listing.place,
    family: plan.family,
    ...(listing.licence ? { licence: listing.licence } : {}),
    sourceBytes: plan.sourceBytes,
    bytes: plan.bytes,
    bitsPerWeight: plan.bitsPerWeight,
    notes: plan.notes,
    check: await check(model, { ...locations, ...(signal ? { signal } : {}) }),
  };
}

/**
 * Begins a load that takes the shards as they are made.
 *
 * @param url address of the model, once it is converted
 * @param manifest manifest whose shards have no hashes yet
 * @param workers number of workers that make shards
 * @returns a port of the load for each worker, once it takes bytes
 */
type LoadConverted = (url: string, manifest: string, workers: number) => Promise<MessagePort[]>;

/** Converts a checkpoint. A run that was interrupted is resumed: only the shards that were not complete are made. */
export async function convert(source: ConvertSource, options: ConvertOptions = {}, load?: LoadConverted): Promise<ConvertedModel> {
  checkOptions(options, CHECKS);
  let url = "";
  const start = async (signal: AbortSignal, like?: ConvertOpened) => {
    const started = await openWorker(source, { ...options, signal }, options, like);
    ({ url } = started);
    return started;
  };
  const { workers = defaultWorkers(), signal, onProgress } = options;
  const run = {
    workers,
    ...(signal ? { signal } : {}),
    ...(onProgress ? { onProgress } : {}),
    ...(load ? { load: (plan: ConversionPlan, count: number) => load(url, plan.manifest, count) } : {}),
  };
  const { manifest, plan } = await runConversion(start, run);
  const { files, shards, provenance } = JSON.parse(manifest) as Manifest;
  const bytes = [...files, ...shards].reduce((sum, entry) => sum + entry.bytes, new TextEncoder().encode(manifest).byteLength);
  return { url, source: provenance.source, bytes, notes: plan.notes };
}

/** Deletes what an interrupted conversion has written. Nothing is fetched but what `plan` reads. */
export async function discard(source: ConvertSource, options: ConvertOptions = {}): Promise<void> {
  checkOptions(options, CHECKS);
  const { client, opened } = await openWorker(source, options, options);
  try {
    await withConversionLock(opened.plan.fingerprint, () => client.call("convertDiscard", {}).result);
  } finally {
    void client.shutDown(new QwenVLError("DISPOSED", "the files are deleted"), BACKGROUND_MS);
  }
}

function defaultWorkers(): number {
  return Math.min(Math.max((navigator.hardwareConcurrency ?? 2) - 1, 1), WORKERS);
}

/**
 * Starts a worker and opens a checkpoint in it.
 *
 * @param output absent if nothing will be written
 * @param like what another worker has opened
 */
async function openWorker(
  source: ConvertSource,
  options: PlanOptions,
  output?: Pick<ConvertOptions, "output" | "cache" | "url">,
  like?: ConvertOpened,
): Promise<OpenWorker & { url: string }> {
  const { signal, convertWasmUrl } = options;
  signal?.throwIfAborted();
  const from = rangeSpec(source, options);
  const url = output?.url === undefined ? addressOf(source, from.spec) : manifestUrl(output.url);
  const to = output && outputSpec(output, url);
  const client = startConverter(options);
  try {
    const params: ConvertOpenParams = {
      source: from.spec,
      settings: settingsOf(options),
      supplies: like?.supplies ?? [],
      ...(like ? { listing: like.listing } : {}),
      ...(to ? { output: to.spec } : {}),
      ...(convertWasmUrl ? { wasm: absolute(convertWasmUrl).href } : {}),
    };
    const transfer = [...from.transfer, ...(to?.transfer ?? [])];
    return { client, url, opened: await client.call("convertOpen", params, { transfer, ...(signal ? { signal } : {}) }).result };
  } catch (error) {
    client.end(new QwenVLError("DISPOSED", "the conversion failed"));
    throw error;
  }
}

/** Returns the address of a source for `load`. */
function addressOf(source: ConvertSource, spec: RangeSpec): string {
  if (spec.kind === "files") return manifestUrl(`local:${encodeURIComponent(spec.name)}/`);
  if (spec.kind === "directory") return manifestUrl(`local:${encodeURIComponent(spec.folder.name)}/`);
  return manifestUrl(source as string | URL);
}

function outputSpec({ output, cache }: Pick<ConvertOptions, "output" | "cache">, url: string): Posted<OutputSpec> {
  if (output && "getFileHandle" in output) return { spec: { kind: "directory", folder: output }, transfer: [] };
  const { spec, transfer } = cacheSpec(output ?? cache ?? "opfs");
  return { spec: output ? { kind: "store", cache: spec } : { kind: "cache", cache: spec, url }, transfer };
}

/** Returns the settings among options. */
export function settingsOf({ scheme, groupSize, keep, allowNonfinite, shardBytes }: ConvertSettings): ConversionSettings {
  return {
    ...(scheme === undefined ? {} : { scheme }),
    ...(groupSize === undefined ? {} : { groupSize }),
    ...(keep === undefined ? {} : { keep: [...keep] }),
    ...(allowNonfinite === undefined ? {} : { allowNonfinite }),
    ...(shardBytes === undefined ? {} : { shardBytes }),
  };
}
