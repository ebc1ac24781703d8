/** Web Locks that keep tabs from loading and changing the same files at the same time. */

import { QwenVLError } from "../wire/errors.js";
import type { FileEntry } from "./manifest.js";

/** Shared by work on single models, exclusive for work on the whole cache. */
const CACHE_LOCK = "qwen-vl-web cache";

/** Runs `work` while no other tab loads or changes the same model, or clears the cache. */
export async function withModelLock<T>(
  shards: readonly FileEntry[],
  whenBusy: "wait" | "fail",
  signal: AbortSignal,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  const acquire = async (name: string, mode: LockMode, work: () => Promise<T>): Promise<T> => {
    const immediate = await request(name, mode, work);
    if (immediate) return immediate.result;
    if (whenBusy === "fail") throw new QwenVLError("BUSY", "another tab is loading or changing this model");
    onWait();
    return navigator.locks.request(name, { mode, signal }, work);
  };
  // The name comes from the content, because the same model at two addresses has the same files.
  return acquire(CACHE_LOCK, "shared", () => acquire(`qwen-vl-web ${shards[0]?.sha256 ?? ""}`, "exclusive", work));
}

/** Runs `work` while no other tab makes the same conversion, or clears the cache; otherwise fails with `BUSY`. */
export async function withConversionLock<T>(fingerprint: string, work: () => Promise<T>): Promise<T> {
  const immediate = await request(CACHE_LOCK, "shared", () => request(`qwen-vl-web convert ${fingerprint}`, "exclusive", work));
  if (!immediate?.result) throw new QwenVLError("BUSY", "another tab is converting this checkpoint");
  return immediate.result.result;
}

/** Runs `work` if no tab loads or changes any model; otherwise fails with `BUSY`. */
export async function withCacheLock<T>(work: () => Promise<T>): Promise<T> {
  const immediate = await request(CACHE_LOCK, "exclusive", work);
  if (!immediate) throw new QwenVLError("BUSY", "another tab is loading or changing a model");
  return immediate.result;
}

/** Runs `work` if no tab loads or changes any model. */
export async function ifCacheIsFree(work: () => Promise<void>): Promise<void> {
  await request(CACHE_LOCK, "exclusive", work);
}

/** Runs `work` with a lock, or returns `undefined` if another tab has it. Browsers without Web Locks just run `work`. */
async function request<T>(name: string, mode: LockMode, work: () => Promise<T>): Promise<{ result: T } | undefined> {
  const locks = globalThis.navigator?.locks;
  if (!locks) return { result: await work() };
  return (await locks.request(name, { mode, ifAvailable: true }, async (lock) => lock && { result: await work() })) ?? undefined;
}
