/** The conversion of a published checkpoint into a model that this device keeps. */

import { signal } from "@preact/signals";
import { QwenVL, type CheckpointPlan, type ConvertProgress, type HubOptions } from "qwen-vl-web";
import { fail, failure } from "./notices";
import { settings } from "./settings";

/** A repository of the Hub, the address of a folder, or the files of a folder. */
export type Checkpoint = string | readonly File[];

/** A model of the Hub that the page names. Sizes in bytes are approximate: the plan of a conversion has the exact ones. */
export interface KnownModel {
  repository: string;
  /** Bytes that a conversion fetches. */
  source: number;
  /** Bytes that are kept. */
  kept: number;
  licence: string;
}

export const KNOWN: readonly KnownModel[] = [
  { repository: "Qwen/Qwen3-VL-2B-Instruct", source: 4.3e9, kept: 1.6e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen3-VL-4B-Instruct", source: 8.9e9, kept: 2.9e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen3-VL-8B-Instruct", source: 17.5e9, kept: 5.5e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen2-VL-2B-Instruct", source: 4.4e9, kept: 1.7e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen2-VL-7B-Instruct", source: 16.6e9, kept: 5.5e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen-VL-Chat", source: 19.3e9, kept: 5.5e9, licence: "Tongyi Qianwen" },
];

/** The plan of a conversion, while the visitor decides. */
export const offer = signal<{ from: Checkpoint; plan: CheckpointPlan } | undefined>(undefined);

/** The conversion that runs or is paused. */
export const conversion = signal<{ from: Checkpoint; name: string; progress: ConvertProgress | undefined; running: boolean } | undefined>(
  undefined,
);

let abort: AbortController | undefined;

/** Returns the options of everything that can reach the Hub. */
export function hub(): HubOptions {
  return { hubUrl: settings.value.hubUrl };
}

/** Reads everything of a checkpoint but its weights, and offers the conversion. */
export async function plan(from: Checkpoint): Promise<void> {
  offer.value = undefined;
  offer.value = { from, plan: await QwenVL.plan(from, hub()) };
}

/** Converts a checkpoint, from where an earlier run ended. Returns the address of the model, or `undefined` if it was paused or failed. */
export async function convert(from: Checkpoint, name: string): Promise<string | undefined> {
  abort?.abort();
  const controller = new AbortController();
  abort = controller;
  failure.value = undefined;
  offer.value = undefined;
  conversion.value = { from, name, progress: undefined, running: true };
  try {
    const { url } = await QwenVL.convert(from, {
      ...hub(),
      signal: controller.signal,
      onProgress: (progress) => {
        if (abort === controller) conversion.value = { from, name, progress, running: true };
      },
    });
    conversion.value = undefined;
    return url;
  } catch (error) {
    if (abort === controller && conversion.value) conversion.value = { ...conversion.value, running: false };
    fail(error);
    return undefined;
  }
}

/** Ends the run. What is finished is kept. */
export function pause(): void {
  abort?.abort();
}

/** Deletes what a paused conversion has written. */
export async function discard(): Promise<void> {
  const paused = conversion.value;
  if (!paused) return;
  conversion.value = undefined;
  try {
    await QwenVL.discardConversion(paused.from, hub());
  } catch (error) {
    fail(error);
  }
}

/** Returns the address that a visitor means: `OWNER/NAME`, or its page on the Hub, is a repository. */
export function addressOf(text: string): string {
  const page = /^https:\/\/(?:huggingface\.co|hf\.co|hf-mirror\.com)\/([\w.-]+\/[\w.-]+)\/?$/.exec(text);
  if (page) return `hf:${page[1]}`;
  return /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(text) ? `hf:${text}` : text;
}
