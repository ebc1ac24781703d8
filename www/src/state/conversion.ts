/** The conversion of a published checkpoint into a model that this device keeps. */

import { signal } from "@preact/signals";
import {
  QwenVL,
  type CheckpointPlan,
  type ConvertProgress,
  type ConvertSettings,
  type HubOptions,
  type LoadOptions,
  type UnfinishedConversion,
} from "qwen-vl-web";
import { fail, failure, PageError } from "./notices";
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
  { repository: "Qwen/Qwen2.5-VL-7B-Instruct", source: 16.6e9, kept: 5.0e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen2.5-VL-3B-Instruct", source: 7.5e9, kept: 2.6e9, licence: "Qwen Research" },
  { repository: "Qwen/Qwen2-VL-2B-Instruct", source: 4.4e9, kept: 1.7e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen2-VL-7B-Instruct", source: 16.6e9, kept: 5.0e9, licence: "Apache-2.0" },
  { repository: "Qwen/Qwen-VL-Chat", source: 19.3e9, kept: 5.5e9, licence: "Tongyi Qianwen" },
];

/** A conversion that the page can run. */
export interface Job {
  /** As in `UnfinishedConversion`. */
  id: string;
  name: string;
  from: Checkpoint;
  /** Address of the model for `load`; absent for files, whose address comes from their folder. */
  url?: string;
  settings: ConvertSettings;
  /** False if this machine cannot run the model. */
  runs?: boolean;
}

/** The plan of a conversion, while the visitor decides. */
export const offer = signal<{ plan: CheckpointPlan; job: Job } | undefined>(undefined);

/** The conversion that runs or is paused. */
export const conversion = signal<{ job: Job; progress: ConvertProgress | undefined; running: boolean } | undefined>(undefined);

/** Conversions of this and earlier visits that are not complete. */
export const unfinished = signal<readonly UnfinishedConversion[]>([]);

let abort: AbortController | undefined;

/** Returns the options of everything that can reach the Hub. */
export function hub(): HubOptions {
  return { hubUrl: settings.value.hubUrl };
}

export async function lookForUnfinished(): Promise<void> {
  unfinished.value = await QwenVL.cache.listConversions();
}

/** Reads everything of a checkpoint but its weights, and offers the conversion. */
export async function plan(from: Checkpoint): Promise<void> {
  offer.value = undefined;
  const [plan] = await Promise.all([QwenVL.plan(from, hub()), lookForUnfinished()]);
  // The commit that the visitor agrees to is the one that is converted.
  const source = typeof from === "string" ? { from: plan.source, url: from } : { from };
  const runs = plan.check.status !== "unsupported";
  offer.value = { plan, job: { id: plan.id, name: plan.name, settings: {}, runs, ...source } };
}

/**
 * Converts a checkpoint, from where an earlier run ended. Returns true if it is complete, and false if it was paused or failed.
 *
 * @param load loads the model as it is made; absent if this machine cannot run it
 */
export async function convert(job: Job, load?: (options: Pick<LoadOptions, "convert" | "signal">) => Promise<void>): Promise<boolean> {
  abort?.abort();
  const controller = new AbortController();
  abort = controller;
  failure.value = undefined;
  offer.value = undefined;
  conversion.value = { job, progress: undefined, running: true };
  const { from, url, settings } = job;
  const { signal } = controller;
  const convert = {
    ...settings,
    ...(url === undefined ? {} : { url }),
    onProgress: (progress: ConvertProgress) => {
      if (abort === controller) conversion.value = { job, progress, running: true };
    },
  };
  try {
    await (load ? load({ convert, signal }) : QwenVL.convert(from, { ...hub(), ...convert, signal }));
    if (abort === controller) conversion.value = undefined;
    return true;
  } catch (error) {
    if (abort === controller && conversion.value) conversion.value = { ...conversion.value, running: false };
    fail(error);
    return false;
  } finally {
    await lookForUnfinished().catch(fail);
  }
}

/** Ends the run. What is finished is kept. */
export function pause(): void {
  abort?.abort();
}

/**
 * Returns how to resume an unfinished conversion.
 *
 * @param files the chosen folder, if the checkpoint is on this device
 */
export async function resumption({ id, name, source, url, settings }: UnfinishedConversion, files?: readonly File[]): Promise<Job> {
  if (source !== undefined) return { id, name, from: source, url, settings };
  const from = files ?? [];
  // Another checkpoint would be a new conversion.
  if ((await QwenVL.plan(from, settings)).id !== id) throw new PageError((t) => [t.otherFolder(name), t.otherFolderStep]);
  return { id, name, from, url, settings };
}

/** Deletes what a conversion has written. Needs no connection. */
export async function discard(id: string): Promise<void> {
  failure.value = undefined;
  try {
    await QwenVL.cache.deleteConversion(id);
    if (conversion.value?.job.id === id) conversion.value = undefined;
    await lookForUnfinished();
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
