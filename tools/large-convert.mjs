// Converts a large checkpoint in Chromium, into the browser's storage, and in Node, next to the native converter and a bare read of the same
// bytes. In Chromium once more while it is loaded (`onepass`), next to the load of what was converted before (`load`). Prints rates, memory,
// and whether the bytes are equal:
//   node tools/large-convert.mjs --source FOLDER --package target/package/package --chromium PROGRAM --quantize target/release/quantize
//     [--workers 1] [--rounds 1] [--only native,node,chromium,onepass]
// A checkpoint of the published size with random weights is FOLDER/source of:
//   cargo run --release -p qwen-vl-testkit --example full_size -- CONFIG.json QWEN.TIKTOKEN FOLDER

import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { serveBlank } from "../pkg-tests/blank.mjs";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { mib } from "../pkg-tests/weights/memory-watch.mjs";

const INTERVAL_MS = 200;
const PATIENCE_MS = 2000;
/** Answers with the size of a worker's wasm memories, which the protocol leaves out. Runs before the worker's own script. */
const WASM_MEMORIES = `
  const memories = [];
  globalThis.wasmBytes = () => memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
  for (const name of ["instantiate", "instantiateStreaming"]) {
    const original = WebAssembly[name];
    WebAssembly[name] = async (...parameters) => {
      const result = await original(...parameters);
      const { exports } = result.instance ?? result;
      if (exports.memory) memories.push(exports.memory);
      return result;
    };
  }`;

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
  },
});
const names = (await readdir(values.source)).filter((name) => /\.(safetensors|bin)$/.test(name));
const sizes = await Promise.all(names.map(async (name) => (await stat(join(values.source, name))).size));
const bytes = sizes.reduce((sum, size) => sum + size, 0);
console.log(`${names.length} weight files of ${mib(bytes)} MiB; ${values.workers} threads or workers`);

const folders = { "/source/": values.source, "/original/": values.package };
const server = await serveBlank(values.package, folders, { handle: watchWorkers });
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
    const base = await memoryOf([await page.createCDPSession()]);
    const memory = watch(page);
    const options = { url: `${server.origin}/source/`, workers: Number(values.workers) };
    measured[kind].push(await page.evaluate(kind === "chromium" ? convert : load, options));
    const { all, wasm } = await memory.end();
    const parts = `heaps, array buffers and wasm memories, garbage included; wasm at most ${mib(wasm)}; ${mib(base.all)} before`;
    console.log(`${kind}: at most ${mib(all)} MiB of ${parts}`);
    report(`Chromium (${kind})`, native, (await page.evaluate(stored)).join(" "));
    if (kind === "chromium" && wanted.has("onepass")) measured.load.push(await page.evaluate(load, options));
    if (problems.length > 0) throw new Error(problems.join("\n"));
  } finally {
    await browser.close();
  }
}

/** Serves the script of a worker so that its wasm memories are known. */
function watchWorkers(path, response) {
  const [, name] = /^\/package\/dist\/(worker[\w-]*)\.js$/.exec(path) ?? [];
  if (path !== "/wasm-memories.js" && name === undefined) return false;
  const script = name === undefined ? WASM_MEMORIES : `import "/wasm-memories.js"; import "/original/dist/${name}.js";`;
  response.writeHead(200, { "content-type": "text/javascript" }).end(script);
  return true;
}

/** Samples the memory of the page and its workers. */
function watch(page) {
  const most = { all: 0, wasm: 0 };
  let running = true;
  const sampling = (async () => {
    const session = await page.createCDPSession();
    while (running) {
      const { all, wasm } = await memoryOf([session, ...page.workers().map((worker) => worker.client)]);
      Object.assign(most, { all: Math.max(most.all, all), wasm: Math.max(most.wasm, wasm) });
      await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
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

/** Bytes of the JavaScript heaps, array buffers and wasm memories of pages and workers. */
async function memoryOf(clients) {
  const sum = { all: 0, wasm: 0 };
  // A worker that has just started or ended answers with an error, or never.
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
  const ask = (client, method, parameters) => Promise.race([late, client.send(method, parameters).catch(() => undefined)]);
  const expression = "globalThis.wasmBytes?.() ?? 0";
  for (const client of clients) {
    const heap = await ask(client, "Runtime.getHeapUsage");
    const wasm = (await ask(client, "Runtime.evaluate", { expression, returnByValue: true }))?.result.value ?? 0;
    sum.all += wasm + (heap ? heap.usedSize + heap.backingStorageSize : 0);
    sum.wasm += wasm;
  }
  return sum;
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
