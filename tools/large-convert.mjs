// Converts a large checkpoint in Chromium, into the browser's storage, and in Node, next to the native converter and a bare read of the same
// bytes. In Chromium once more while it is loaded (`onepass`), next to the load of what was converted before (`load`). Prints rates, memory,
// and whether the bytes are equal:
//   node tools/large-convert.mjs --source FOLDER --package target/package/package --chromium PROGRAM --quantize target/release/quantize
//     [--workers 1] [--rounds 1] [--only native,node,chromium,onepass] [--wasm]
// With --wasm it watches the wasm memory of the workers in place of heaps and array buffers, whose garbage that collects.
// A checkpoint of the published size with random weights is FOLDER/source of:
//   cargo run --release -p qwen-vl-testkit --example full_size -- CONFIG.json QWEN.TIKTOKEN FOLDER

import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { serveBlank } from "../pkg-tests/blank.mjs";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { mib, wasmBytes } from "../pkg-tests/weights/memory-watch.mjs";

const INTERVAL_MS = 200;
/** Measuring wasm memory stops the workers, and it never shrinks. */
const WASM_INTERVAL_MS = 5000;

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    source: text,
    package: { ...text, default: "target/package/package" },
    chromium: { ...text, default: "chromium" },
    quantize: { ...text, default: "target/release/quantize" },
    workers: { ...text, default: "1" },
    rounds: { ...text, default: "1" },
    only: { ...text, default: "native,node,chromium,onepass" },
    wasm: { type: "boolean", default: false },
  },
});
const names = (await readdir(values.source)).filter((name) => /\.(safetensors|bin)$/.test(name));
const sizes = await Promise.all(names.map(async (name) => (await stat(join(values.source, name))).size));
const bytes = sizes.reduce((sum, size) => sum + size, 0);
console.log(`${names.length} weight files of ${mib(bytes)} MiB; ${values.workers} threads or workers`);

const server = await serveBlank(values.package, { "/source/": values.source });
const scratch = await mkdtemp(join(tmpdir(), "qwen-vl-convert-"));
const wanted = new Set(values.only.split(","));
const measured = { native: [], node: [], chromium: [], load: [], onepass: [], drain: [] };
try {
  for (let round = 0; round < Number(values.rounds); round++) {
    let native;
    if (wanted.has("native")) {
      measured.native.push(timed(values.quantize, ["--threads", values.workers, values.source, join(scratch, "native")]));
      native = await hashes(join(scratch, "native"));
    }
    if (wanted.has("node")) {
      const cli = join(values.package, "dist/node/cli.js");
      measured.node.push(timed("node", [cli, "quantize", "--threads", values.workers, values.source, join(scratch, "node")]));
      report("Node", native, await hashes(join(scratch, "node")));
    }
    await rm(scratch, { recursive: true, force: true });
    for (const kind of ["chromium", "onepass"]) if (wanted.has(kind)) await inChromium(kind, round, native);
  }
} finally {
  server.close();
  await rm(scratch, { recursive: true, force: true });
}
for (const [name, seconds] of Object.entries(measured)) {
  if (seconds.length === 0) continue;
  const ratio = (peer) =>
    measured[peer].length > 0 && name !== peer ? `  ${(middle(measured[peer]) / middle(seconds)).toFixed(2)}x ${peer}` : "";
  const rates = seconds.map((each) => `${(bytes / 1e6 / each).toFixed(0)} MB/s`).join(", ");
  console.log(
    `${name.padEnd(10)} ${seconds.map((each) => `${each.toFixed(1)} s`).join(", ")}: ${rates} of the source${ratio("native")}${ratio("drain")}`,
  );
}

/** Runs a program. Returns the seconds that it took. */
function timed(program, args) {
  const began = performance.now();
  execFileSync(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  return (performance.now() - began) / 1000;
}

/** The SHA-256 of the shards of a folder. */
async function hashes(folder) {
  const { shards } = JSON.parse(await readFile(join(folder, "manifest.json"), "utf8"));
  return shards.map(({ sha256 }) => sha256).join(" ");
}

function report(name, native, found) {
  if (native) console.log(`the shards of ${name} are ${native === found ? "equal to" : "DIFFERENT from"} the native ones`);
}

/** @param kind `chromium`: convert, then load from the cache; `onepass`: load while converting */
async function inChromium(kind, round, native) {
  const browser = await launch({ name: "chromium", program: values.chromium });
  try {
    const { page, problems } = await openPage(browser, server.origin);
    const urls = names.map((name) => `${server.origin}/source/${name}`);
    if (measured.drain.length <= round) measured.drain.push(await page.evaluate(drain, urls));
    await page.evaluate(async () => void (await import("qwen-vl-web")));
    const base = await heapBytes([await page.createCDPSession()]);
    const memory = watch(page);
    const options = { url: `${server.origin}/source/`, workers: Number(values.workers) };
    measured[kind].push(await page.evaluate(kind === "chromium" ? convert : load, options));
    const most = mib(await memory.end());
    const what = values.wasm ? "wasm memory of the workers" : `heaps and array buffers, garbage included; ${mib(base)} MiB before`;
    console.log(`${kind}: at most ${most} MiB of ${what}`);
    report(`Chromium (${kind})`, native, (await page.evaluate(stored)).join(" "));
    if (kind === "chromium" && wanted.has("onepass")) measured.load.push(await page.evaluate(load, options));
    if (problems.length > 0) throw new Error(problems.join("\n"));
  } finally {
    await browser.close();
  }
}

/** Samples heaps and array buffers of the page and its workers, where the protocol leaves wasm memory out, or the latter alone. */
function watch(page) {
  let [most, running] = [0, true];
  const sampling = (async () => {
    const session = await page.createCDPSession();
    while (running) {
      const workers = page.workers().map((worker) => worker.client);
      most = Math.max(most, values.wasm ? await wasmOf(workers) : await heapBytes([session, ...workers]));
      await new Promise((resolve) => setTimeout(resolve, values.wasm ? WASM_INTERVAL_MS : INTERVAL_MS));
    }
  })();
  return {
    async end() {
      running = false;
      await sampling;
      return most;
    },
  };
}

/** Bytes of the JavaScript heaps and array buffers of pages and workers. */
async function heapBytes(clients) {
  // A worker that has just started or ended answers with an error.
  const heaps = await Promise.all(clients.map((client) => client.send("Runtime.getHeapUsage").catch(() => undefined)));
  return heaps.reduce((sum, heap) => sum + (heap ? heap.usedSize + heap.backingStorageSize : 0), 0);
}

/** Bytes of the wasm memories of workers. */
async function wasmOf(clients) {
  // A worker that has just ended answers with an error, or never.
  const late = new Promise((resolve) => setTimeout(resolve, WASM_INTERVAL_MS, 0));
  const bytes = await Promise.all(clients.map((client) => Promise.race([wasmBytes(client).catch(() => 0), late])));
  return bytes.reduce((sum, each) => sum + each, 0);
}

function middle(numbers) {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

// The functions below run in the page.

/** Reads files to their end. Returns the seconds that it took. */
async function drain(urls) {
  const began = performance.now();
  for (const url of urls) {
    const reader = (await fetch(url, { cache: "no-store" })).body.getReader({ mode: "byob" });
    let buffer = new ArrayBuffer(1 << 20);
    for (let done = false; !done;) {
      const read = await reader.read(new Uint8Array(buffer));
      ({ done } = read);
      buffer = read.value?.buffer ?? new ArrayBuffer(1 << 20);
    }
  }
  return (performance.now() - began) / 1000;
}

async function convert({ url, workers }) {
  const { QwenVL } = await import("qwen-vl-web");
  const began = performance.now();
  await QwenVL.convert(url, { workers });
  return (performance.now() - began) / 1000;
}

/** Loads a model, and converts it if it is not in the cache. Without a self-check, as this measures the way of the weights. */
async function load({ url, workers }) {
  const { QwenVL } = await import("qwen-vl-web");
  const began = performance.now();
  const model = await QwenVL.load(url, { convert: { workers }, selfCheck: false, kernels: "cpu" });
  const seconds = (performance.now() - began) / 1000;
  await model.dispose();
  return seconds;
}

/** The SHA-256 of the shards in the cache, which names its files by them. */
async function stored() {
  const found = new Set();
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
  let manifest;
  for await (const [name, handle] of folder.entries()) {
    found.add(name);
    if (name.endsWith(".model")) manifest = JSON.parse(JSON.parse(await (await handle.getFile()).text()).manifest);
  }
  return manifest.shards.map(({ sha256 }) => (found.has(sha256) ? sha256 : "missing"));
}
