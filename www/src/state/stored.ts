/** The models that this device keeps. */

import { signal } from "@preact/signals";
import { QwenVL, QwenVLError, type CachedModel, type LoadProgress, type StorageEstimate } from "qwen-vl-web";
import { lookForUnfinished } from "./conversion";
import { fail, failure } from "./notices";
import type { Texts } from "../texts/en";

export const stored = signal<readonly CachedModel[] | undefined>(undefined);
export const estimate = signal<StorageEstimate | undefined>(undefined);

/** Sentence about the last action on a stored model. */
export const outcome = signal<((texts: Texts) => string) | undefined>(undefined);

/** The model that is being written to a folder. */
export const saving = signal<{ model: CachedModel; progress: LoadProgress | undefined } | undefined>(undefined);

let abort: AbortController | undefined;

/** Reads what is stored. */
export async function look(): Promise<void> {
  [stored.value, estimate.value] = await Promise.all([QwenVL.cache.list(), QwenVL.cache.estimate(), lookForUnfinished()]);
}

/** True if this browser can write to a folder. */
export const canSave = "showDirectoryPicker" in globalThis;

/** Returns the name of a folder for a model. */
export function folderName(source: string): string {
  const last = source.split("/").at(-1) ?? "";
  return last.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[.-]+/, "") || "model";
}

/** Returns a command that makes the same folder without a browser. */
export function commandFor(source: string): string {
  const from = /^[\w.-]+\/[\w.-]+$/.test(source) ? `hf:${source}` : `PATH/TO/${folderName(source)}`;
  return `npx qwen-vl-web quantize ${from} ${folderName(source)}`;
}

/** Writes a model into a new folder of one that the visitor chooses. */
export async function save(model: CachedModel): Promise<void> {
  const controller = new AbortController();
  abort = controller;
  failure.value = undefined;
  outcome.value = undefined;
  const name = folderName(model.source);
  try {
    const parent = await showDirectoryPicker!({ id: "models", mode: "readwrite" });
    saving.value = { model, progress: undefined };
    const folder = await parent.getDirectoryHandle(name, { create: true });
    await QwenVL.cache.exportTo(folder, model.url, {
      signal: controller.signal,
      onProgress: (progress) => (saving.value = { model, progress }),
    });
    outcome.value = (t) => t.saved(name, parent.name);
  } catch (error) {
    if (controller.signal.aborted) outcome.value = (t) => t.saveStopped(name);
    else if (error instanceof QwenVLError && error.code !== "INTERNAL") fail(error);
    // The visitor closed the picker.
    else if (!(error instanceof DOMException && error.name === "AbortError")) {
      const message = error instanceof Error ? error.message : String(error);
      failure.value = { explain: (t) => [t.saveFailed(name), t.saveFailedStep], details: { code: "INTERNAL", message } };
    }
  } finally {
    saving.value = undefined;
  }
}

export const stopSaving = (): void => abort?.abort();
