// Makes Node a page: with Dawn, which is Chromium's WebGPU, from the npm package `webgpu`, and the parts of a page that the package uses.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { create, globals } from "webgpu";

/** The GPU. Created once, because Dawn ends the process if it is collected while a device is in use. */
const gpu = create([]);

/** Returns the adapter that Dawn accepts, or undefined. */
export async function adapterInfo() {
  return (await gpu.requestAdapter())?.info;
}

/**
 * Makes a page of this process, with addresses relative to `origin`.
 *
 * @returns {{ evaluate(run: Function, ...values: unknown[]): Promise<unknown> }} the part of a browser's page that the suites use
 */
export function becomePage(origin) {
  const fetchRemote = globalThis.fetch;
  const values = {
    ...globals,
    navigator: { gpu },
    window: globalThis,
    document: { baseURI: origin },
    isSecureContext: true,
    // wgpu looks for the GPU by the class of the global object.
    WorkerGlobalScope: class {
      static [Symbol.hasInstance](value) {
        return value === globalThis;
      }
    },
    // Node's fetch supports neither relative addresses nor files; the package's wasm is a file.
    async fetch(input, options) {
      const url = new URL(input, origin);
      if (url.protocol !== "file:") return fetchRemote(url, options);
      return new Response(await readFile(fileURLToPath(url)), { headers: { "content-type": "application/wasm" } });
    },
  };
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { value, configurable: true });
  return { evaluate: (run, ...values) => run(...values) };
}
