/** The model in use, and how it is loaded. */

import { computed, signal } from "@preact/signals";
import {
  QwenVL,
  type CheckReport,
  type ErrorCode,
  type LoadOptions,
  type LoadProgress,
  type MemoryOptions,
  type QwenVLModel,
} from "qwen-vl-web";
import { hub, offer, plan } from "./conversion";
import { fail, failure } from "./notices";
import { settings } from "./settings";
import type { Texts } from "../texts/en";

/** Folder of the embedded model. */
export const EMBEDDED = "./model/";
/** Above this download size, the visitor is asked first. */
const LARGE_BYTES = 64e6;

export type Source = string | readonly File[];

export const model = signal<QwenVLModel | undefined>(undefined);
export const progress = signal<LoadProgress | undefined>(undefined);
/** True while the model has lost its GPU or its worker. */
export const lost = signal(false);
/** Source of the model that is loaded or loading. */
export const source = signal<Source>(EMBEDDED);
/** A model that waits for the visitor's consent. */
export const proposal = signal<{ url: string; report: CheckReport } | undefined>(undefined);
/** True while a model's address is being checked. */
export const looking = signal(false);
/** The adapter as the browser reports it to pages. */
export const adapter = signal<CheckReport["adapter"]>(undefined);

/** Decides what the page says about the model and which questions its tasks write. */
export type Kind = "random" | "nano" | "full";

export const kind = computed((): Kind => {
  const name = model.value?.info.source;
  if (name === undefined) return source.value === EMBEDDED ? EMBEDDED_KIND : "full";
  if (/nano/i.test(name)) return "nano";
  return source.value === EMBEDDED ? "random" : "full";
});

/** Returns the name of the model that is loaded or loading. Untrusted text. */
export function sourceName(t: Texts): string {
  const from = source.value;
  if (model.value) return model.value.info.source;
  if (from === EMBEDDED) return t.embedded;
  return typeof from === "string" ? from : t.folder(from.length);
}

/** Kind of the embedded model, known before it is loaded. */
const EMBEDDED_KIND: Kind = __EMBEDDED_KIND__;

/** True if the model in use takes pictures of any size, and a presence penalty. */
export const isLater = computed(() => model.value !== undefined && model.value.info.family !== "qwen_vl");

/** Returns the options of a load that fix its memory. */
function memory(): MemoryOptions {
  const { contextLength, maxPictureTokens } = settings.value;
  return { contextLength, maxPictureTokens };
}

let abort: AbortController | undefined;

/** Loads a model in place of the current one. */
export async function load(from: Source): Promise<void> {
  abort?.abort();
  const controller = new AbortController();
  abort = controller;
  const before = model.value;
  model.value = undefined;
  proposal.value = undefined;
  failure.value = undefined;
  source.value = from;
  progress.value = { phase: "manifest", bytes: 0, totalBytes: 0 } as LoadProgress;
  try {
    // Two models may not fit into the GPU at once.
    await before?.dispose();
    const loaded = await QwenVL.load(from, {
      signal: controller.signal,
      ...hub(),
      ...memory(),
      onProgress: (now) => {
        if (abort === controller) progress.value = now;
      },
    });
    if (abort !== controller) return await loaded.dispose();
    adopt(loaded);
  } catch (error) {
    if (abort === controller) fail(error);
  } finally {
    if (abort === controller) {
      progress.value = undefined;
      abort = undefined;
    }
  }
}

/**
 * Loads a model while it is converted. The current model stays until the new one is ready, unless it is large: two may not fit into the GPU.
 *
 * @param address of the model, once it is converted
 */
export async function loadConverting(from: Source, address: Source, options: Pick<LoadOptions, "convert" | "signal">): Promise<void> {
  const before = model.value;
  const keeps = before === undefined || before.info.gpuBytes < LARGE_BYTES;
  if (!keeps) {
    model.value = undefined;
    source.value = address;
    await before.dispose();
  }
  const onProgress = (now: LoadProgress) => {
    if (!keeps) progress.value = now;
  };
  try {
    const loaded = await QwenVL.load(from, { ...hub(), ...memory(), ...options, onProgress });
    // A model that was loaded or is loading meanwhile.
    abort?.abort();
    const other = model.value;
    source.value = address;
    adopt(loaded);
    await other?.dispose();
  } finally {
    if (!keeps) progress.value = undefined;
  }
}

/** Makes a model the one in use. */
function adopt(loaded: QwenVLModel): void {
  loaded.addEventListener("lost", ({ error }) => {
    lost.value = true;
    fail(error);
  });
  loaded.addEventListener("recovered", () => (lost.value = false));
  lost.value = false;
  model.value = loaded;
  // Shown in the technical details only, so an error is ignored.
  void QwenVL.check().then(
    (report) => (adapter.value = report.adapter),
    () => undefined,
  );
}

/** Loads a lost model again, from the weights that are stored. The conversation stays. */
export async function recover(): Promise<void> {
  failure.value = undefined;
  try {
    await model.value?.recover({ onProgress: (now) => (progress.value = now) });
  } catch (error) {
    fail(error);
  } finally {
    progress.value = undefined;
  }
}

export const stopLoading = (): void => abort?.abort();

/**
 * Checks a model's address. A small model, or one that is stored already, is loaded at once. Before a large download the visitor is asked,
 * and a model that cannot run is reported.
 */
export async function propose(url: string): Promise<void> {
  looking.value = true;
  failure.value = undefined;
  proposal.value = undefined;
  offer.value = undefined;
  try {
    const report = await QwenVL.check(url, { ...hub(), ...memory(), probeMemory: true });
    const has = (code: ErrorCode) => report.reasons.some((reason) => reason.code === code);
    if (has("NOT_CONVERTED")) return await plan(url);
    const unreachable = has("DOWNLOAD");
    // Without a connection a stored model still loads. If none is stored, the load reports the error.
    if (unreachable || (report.status === "ok" && report.bytes && report.bytes.download < LARGE_BYTES)) await load(url);
    else proposal.value = { url, report };
  } catch (error) {
    fail(error);
  } finally {
    looking.value = false;
  }
}
