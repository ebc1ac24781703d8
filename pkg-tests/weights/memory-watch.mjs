// Measures the memory of a load in Chromium: the worker's JavaScript heap, array buffers and wasm memory by the DevTools protocol, and the
// processes' resident memory by the system.

import { readFile } from "node:fs/promises";

const INTERVAL_MS = 50;
const PATIENCE_MS = 5000;

export const mib = (bytes) => (bytes / 1024 / 1024).toFixed(0);

export class MemoryWatch {
  /** @type {Record<string, number>} */
  most = {};
  #stopped = false;
  #running;
  #page;

  constructor(page) {
    this.#page = page;
  }

  /** Watches the page and the worker that it will start. */
  static async start(browser, page) {
    const watch = new MemoryWatch(page);
    const session = await browser.target().createCDPSession();
    watch.before = await processes(session);
    watch.#running = watch.#run(session, page);
    return watch;
  }

  async #run(session, page) {
    while (!this.#stopped) {
      const worker = page.workers()[0];
      // A worker that has just started or ended answers with an error, or never.
      const asked = worker?.client.send("Runtime.getHeapUsage").catch(() => undefined);
      const heap = await Promise.race([asked, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
      if (heap) {
        this.#note("JavaScript heap of the worker", heap.usedSize);
        // The protocol leaves wasm memory out.
        this.#note("its array buffers", heap.backingStorageSize);
        this.#note("heap and array buffers together", heap.usedSize + heap.backingStorageSize);
      }
      for (const [type, bytes] of Object.entries(await processes(session))) this.#note(`resident, ${type}`, bytes);
      await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
    }
    await session.detach();
  }

  #note(what, bytes) {
    this.most[what] = Math.max(this.most[what] ?? 0, bytes);
  }

  /** Stops, and returns the largest figures in bytes. */
  async end(gpuBytes) {
    this.#stopped = true;
    await this.#running;
    // Wasm memory never shrinks, and measuring it collects garbage, so it is measured once, at the end.
    this.#note("wasm memory", await wasmBytes(this.#page.workers()[0].client));
    const gpu = this.most["resident, GPU"];
    return { ...this.most, "GPU buffers, by our own accounting": gpuBytes, "resident, GPU, without these buffers": gpu - gpuBytes };
  }
}

/** Resident bytes of the processes that pages and their GPU work run in. */
export async function residentBytes(browser) {
  const session = await browser.target().createCDPSession();
  const { GPU = 0, renderer = 0 } = await processes(session);
  await session.detach();
  return GPU + renderer;
}

/** Size of all wasm memories of a worker. Collects its garbage. */
export async function wasmBytes(client) {
  const { result: prototype } = await client.send("Runtime.evaluate", { expression: "WebAssembly.Memory.prototype" });
  const { objects } = await client.send("Runtime.queryObjects", { prototypeObjectId: prototype.objectId });
  const functionDeclaration = "function () { return this.reduce((sum, { buffer }) => sum + buffer.byteLength, 0); }";
  const { result } = await client.send("Runtime.callFunctionOn", { objectId: objects.objectId, functionDeclaration, returnByValue: true });
  return result.value;
}

/** Resident bytes of the browser's processes by their type. */
async function processes(session) {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const sums = {};
  for (const { id, type } of processInfo) {
    const status = await readFile(`/proc/${id}/status`, "utf8").catch(() => "");
    const kib = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0);
    sums[type] = (sums[type] ?? 0) + kib * 1024;
  }
  return sums;
}
