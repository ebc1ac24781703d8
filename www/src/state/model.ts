/** Which model is in use, and how it comes. */

import { computed, signal } from "@preact/signals";
import { QwenVL, type CheckReport, type LoadProgress, type QwenVLModel } from "qwen-vl-web";
import { fail, failure } from "./notices";
import { settings } from "./settings";

/** Where the site keeps the model that comes with it. */
export const EMBEDDED = "./model/";
/** Above this, a visitor is asked before anything is fetched. */
const LARGE_BYTES = 64e6;

export type Source = string | readonly File[];

export const model = signal<QwenVLModel | undefined>(undefined);
export const progress = signal<LoadProgress | undefined>(undefined);
/** The model's GPU or worker is gone. */
export const lost = signal(false);
/** The source of the model in use or on its way. */
export const source = signal<Source>(EMBEDDED);
/** A model that waits for the visitor's word. */
export const proposal = signal<{ url: string; report: CheckReport } | undefined>(undefined);
export const looking = signal(false);
/** What the browser says of the GPU; engines in a tab are not told. */
export const adapter = signal<CheckReport["adapter"]>(undefined);

/** What kind of model it is decides what the page says of it and what its tasks ask. */
export type Kind = "random" | "nano" | "full";

export const kind = computed((): Kind => {
  const name = model.value?.info.source;
  if (name === undefined) return source.value === EMBEDDED ? EMBEDDED_KIND : "full";
  if (/nano/i.test(name)) return "nano";
  return source.value === EMBEDDED ? "random" : "full";
});

/** The model that the site is built with, known before it is loaded. */
const EMBEDDED_KIND: Kind = __EMBEDDED_KIND__;

let abort: AbortController | undefined;

/** Loads a model in place of the present one. */
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
    // Two models need not fit at once.
    await before?.dispose();
    const loaded = await QwenVL.load(from, {
      signal: controller.signal,
      contextLength: settings.value.contextLength,
      onProgress: (now) => {
        if (abort === controller) progress.value = now;
      },
    });
    if (abort !== controller) return await loaded.dispose();
    loaded.addEventListener("lost", ({ error }) => {
      lost.value = true;
      fail(error);
    });
    loaded.addEventListener("recovered", () => (lost.value = false));
    lost.value = false;
    model.value = loaded;
    void QwenVL.check().then((report) => (adapter.value = report.adapter));
  } catch (error) {
    if (abort === controller) fail(error);
  } finally {
    if (abort === controller) {
      progress.value = undefined;
      abort = undefined;
    }
  }
}

/** Brings a lost model back, from what is stored of it. The conversation goes on. */
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

/** Looks at a model's address. A small model, or one that is here already, is loaded at once; before a large download the visitor is asked. */
export async function propose(url: string): Promise<void> {
  looking.value = true;
  failure.value = undefined;
  proposal.value = undefined;
  try {
    const report = await QwenVL.check(url, { contextLength: settings.value.contextLength, probeMemory: true });
    const unreachable = report.reasons.some(({ code }) => code === "DOWNLOAD");
    // Without a connection, what is kept here can still be loaded; if nothing is, the load says so.
    if (unreachable || (report.status === "ok" && report.bytes && report.bytes.download < LARGE_BYTES)) await load(url);
    else proposal.value = { url, report };
  } finally {
    looking.value = false;
  }
}
