/** Facts about a model before its weights are fetched. */

import { filesOf, type WeightCache } from "./cache.js";
import { readManifest } from "./load.js";
import type { Manifest } from "./manifest.js";
import type { Source } from "./source.js";

export interface Inspection<E> {
  /** Size of the model's files. */
  totalBytes: number;
  /** Bytes of these files that are not stored. */
  missingBytes: number;
  /** Memory that the model needs. */
  estimate: E;
}

/** Reads a model's manifest, from the source or else from the cache. `estimate` validates it and computes the memory. */
export async function inspectModel<E>(
  source: Source,
  cache: WeightCache | undefined,
  estimate: (manifest: string) => E,
  signal: AbortSignal,
): Promise<Inspection<E>> {
  const text = await readManifest(source, cache, signal, () => undefined);
  const estimated = estimate(text);
  const manifest = JSON.parse(text) as Manifest;
  const totalBytes = filesOf(manifest).reduce((sum, { bytes }) => sum + bytes, 0);
  // The page has no storage that can be read, so nothing is stored.
  const missingBytes = (await cache?.missingBytes(manifest).catch(() => undefined)) ?? totalBytes;
  return { totalBytes, missingBytes, estimate: estimated };
}
