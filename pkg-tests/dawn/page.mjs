// Node as a page: Dawn, which is Chromium's WebGPU, by the npm package `webgpu`, and as much of a page as the package asks for.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { create, globals } from "webgpu";

/** The GPU; asked for once, as Dawn ends the process when it is collected while a device lives. */
const gpu = create([]);

/** The adapter that Dawn takes, or undefined. */
export async function adapterInfo() {
  return (await gpu.requestAdapter())?.info;
}

/**
 * Makes a page of this process, with addresses relative to `origin`.
 *
 * @returns {{ evaluate(run: Function, ...values: unknown[]): Promise<unknown> }} what the suites take for a browser's page
 */
export function becomePage(origin) {
  const fetchRemote = globalThis.fetch;
  const values = {
    ...globals,
    navigator: { gpu },
    window: globalThis,
    document: { baseURI: origin },
    isSecureContext: true,
    // wgpu finds the GPU by what the global object is an instance of.
    WorkerGlobalScope: class {
      static [Symbol.hasInstance](value) {
        return value === globalThis;
      }
    },
    // Node's knows neither relative addresses nor files, where the package's wasm lies beside its scripts.
    async fetch(input, options) {
      const url = new URL(input, origin);
      if (url.protocol !== "file:") return fetchRemote(url, options);
      return new Response(await readFile(fileURLToPath(url)), { headers: { "content-type": "application/wasm" } });
    },
  };
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { value, configurable: true });
  return { evaluate: (run, ...values) => run(...values) };
}
