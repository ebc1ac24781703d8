/** Keeps the kernels that a load has measured, for later loads on the same adapter. */

import { KERNELS_PREFIX, sha256 } from "./cache.js";
import { readText, writeFile, type CacheStore } from "./store.js";

/** The circumstances of a measurement. */
export interface KernelKey {
  /** The adapter, as far as the browser names it, and the rounding that was allowed. There is a record for each. */
  adapter: readonly string[];
  /** Driver, features and browser. A record with others is out of date. */
  version: readonly string[];
}

/** An adapter with the facts that a key has. */
export interface KeyedAdapter {
  info?: Partial<GPUAdapterInfo> | undefined;
  features: Iterable<string>;
}

/**
 * Returns the key of an adapter. The description can have the version of the driver. Most browsers hide it, but translate WGSL themselves: a
 * new version of the browser is measured again.
 *
 * @param precision rounding that the load allows
 */
export function kernelKey({ info, features }: KeyedAdapter, precision: string, browser: string): KernelKey {
  const { vendor = "", architecture = "", device = "", description = "" } = info ?? {};
  return { adapter: [vendor, architecture, device, precision], version: [description, [...features].sort().join(" "), browser] };
}

/** The records in a cache store. A store that fails has none: the next load measures again. */
export class KernelRecords {
  readonly #store: CacheStore;

  constructor(store: CacheStore) {
    this.#store = store;
  }

  /** Returns the engine's record for a key; `undefined` if there is none, or none that can be read. */
  async read(key: KernelKey): Promise<string | undefined> {
    try {
      const { version, record } = JSON.parse((await readText(this.#store, await fileName(key))) ?? "") as Record<string, unknown>;
      const isCurrent = JSON.stringify(version) === JSON.stringify(key.version);
      // The engine ignores a record that it would not write.
      return isCurrent && typeof record === "string" ? record : undefined;
    } catch {
      return undefined;
    }
  }

  /** Replaces the record of an adapter. */
  async write({ adapter, version }: KernelKey, record: string): Promise<void> {
    try {
      const text = JSON.stringify({ adapter, version, record });
      await writeFile(this.#store, await fileName({ adapter }), new TextEncoder().encode(text));
    } catch {
      // Full, locked by another tab, or gone.
    }
  }
}

async function fileName({ adapter }: Pick<KernelKey, "adapter">): Promise<string> {
  return KERNELS_PREFIX + (await sha256(new TextEncoder().encode(JSON.stringify(adapter))));
}
