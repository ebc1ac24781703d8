// Loads a large model in Chromium, without its warm-up, and prints a table of memory and rates:
//   node tools/large-load.mjs --package web --model FOLDER --chromium PROGRAM [--rounds N] [--mbit N]
// The server sends as fast as it can, or N megabits a second over all connections together.
// Any converted model will do. One of 2.2 GB, of random weights, with CONFIG.json as the published one but for 4 layers, 4 of the vision
// tower, 4352 words and `image_start_id` 4310:
//   cargo run --release -p qwen-vl-testkit --example synthetic -- CONFIG.json tests/fixtures/tokenizer/qwen.tiktoken target/random
//   cargo run --release -p quantize -- target/random target/large --scheme f16

import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { serveBlank } from "../pkg-tests/blank.mjs";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { MemoryWatch, mib } from "../pkg-tests/weights/memory-watch.mjs";

/** Reading from OPFS takes a few seconds at most. */
const OPFS_PATIENCE_MS = 60_000;

const text = { type: "string" };
const { values } = parseArgs({ options: { package: text, model: text, chromium: text, rounds: { ...text, default: "3" }, mbit: text } });
const rounds = Number(values.rounds);

const folders = { "/model/": values.model, "/tests/": new URL(".", import.meta.url).pathname };
const server = await serveBlank(values.package, folders, {
  async handle(path, response) {
    if (!values.mbit || !path.startsWith("/model/shard-")) return false;
    const file = join(values.model, path.slice("/model/".length));
    response.writeHead(200, { "content-type": "application/octet-stream", "content-length": (await stat(file)).size });
    await pipeline(createReadStream(file, { highWaterMark: 256 << 10 }), paced, response);
    return true;
  },
});
/** When the connection that is shared is free again. */
let free = 0;
const manifest = JSON.parse(await readFile(join(values.model, "manifest.json"), "utf8"));
const shards = manifest.shards.map(({ file, sha256, bytes }) => ({ url: `${server.origin}/model/${file}`, sha256, bytes }));
const bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
const weights = manifest.tensors
  .flatMap(({ parts }) => parts)
  .reduce((sum, { data, scales }) => sum + data[1] - data[0] + (scales ? scales[1] - scales[0] : 0), 0);
console.log(
  `${manifest.provenance.source}: ${shards.length} shards, ${mib(bytes)} MiB, ${mib(weights)} MiB of them tensors; ${rounds} rounds`,
);

/** The measurements of every round, by name. */
const rates = { drain: [], drainAll: [], first: [], upload: [], opfs: [], opfsAll: [], cached: [] };
const memories = [];
const phases = { first: [], cached: [] };
try {
  for (let round = 0; round < rounds; round++) {
    await inBrowser(async ({ bare, load }) => {
      // In turns, so that a machine that slows down slows down all of them.
      const order = ["drain", "drainAll", "first", "upload"];
      for (const kind of round % 2 === 0 ? order : order.reverse()) {
        if (kind === "first") note("first", await load("none"));
        else rates[kind].push(rate(await bare(kind)));
      }
      await load("opfs");
      for (const kind of ["opfs", "opfsAll"]) rates[kind].push(rate(await bare(kind)));
      note("cached", await load("opfs"));
    });
    // Memory apart from the rates: to measure it costs time.
    await inBrowser(({ load }) => load("opfs", true));
  }
} finally {
  server.close();
}

/** Runs `work` in a new browser, so that earlier work does not count. */
async function inBrowser(work) {
  const browser = await launch({ name: "chromium", program: values.chromium });
  try {
    const { page, problems } = await openPage(browser, server.origin);
    const bare = async (kind) => {
      console.error(kind);
      for (;;) {
        const ms = await page.evaluate(measureBare, kind, shards, kind.startsWith("opfs") ? OPFS_PATIENCE_MS : undefined);
        if (ms !== undefined) return ms;
        // Seen of Chromium under a debugger, right after a load.
        console.error("  no answer; once more");
      }
    };
    const load = async (cache, watched = false) => {
      console.error(`load, cache ${cache}${watched ? ", watched" : ""}`);
      const watch = watched && (await MemoryWatch.start(browser, page));
      const result = await page.evaluate(measureLoad, `${server.origin}/model/`, cache);
      if (problems.length > 0) throw new Error(problems.join("\n"));
      if (watch) memories.push(await watch.end(result.gpuBytes));
      await page.evaluate(() => window.model.dispose());
      return result;
    };
    await work({ bare, load });
  } finally {
    await browser.close();
  }
}

/** Lets chunks through at the rate of `--mbit`, which all connections share. */
async function* paced(chunks) {
  for await (const chunk of chunks) {
    const now = performance.now();
    free = Math.max(free, now) + (chunk.length * 8) / 1000 / Number(values.mbit);
    if (free - now > 1) await sleep(free - now);
    yield chunk;
  }
}

function rate(ms) {
  return bytes / 1024 / 1024 / (ms / 1000);
}

function note(kind, { ms }) {
  rates[kind].push(rate(ms.transfer));
  phases[kind].push(ms);
}

const middle = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const ratios = (loads, bare) => loads.map((load, round) => load / bare[round]);
const row = (name, numbers, digits) =>
  console.log(
    name.padEnd(48),
    numbers.map((number) => number.toFixed(digits).padStart(8)).join(""),
    "  middle",
    middle(numbers).toFixed(digits),
  );
console.log("\nMiB a second, by round");
row("bare fetch, 4 at once, to its end", rates.drain, 0);
row("bare fetch, SHA-256 and writeBuffer", rates.drainAll, 0);
row("  ratio to the bare fetch", ratios(rates.drainAll, rates.drain), 2);
row("first load without a cache, first to last byte", rates.first, 0);
row("  ratio to the bare fetch", ratios(rates.first, rates.drain), 2);
row("  ratio to bare fetch, SHA-256 and writeBuffer", ratios(rates.first, rates.drainAll), 2);
row("bare writeBuffer, as many bytes", rates.upload, 0);
row("bare reading from OPFS", rates.opfs, 0);
row("bare OPFS, SHA-256 and writeBuffer", rates.opfsAll, 0);
row("load from the cache, first to last byte", rates.cached, 0);
row("  ratio to the bare reading", ratios(rates.cached, rates.opfs), 2);
row("  ratio to bare OPFS, SHA-256 and writeBuffer", ratios(rates.cached, rates.opfsAll), 2);
for (const [kind, name] of Object.entries({ first: "first load", cached: "load from the cache" })) {
  console.log(`\nseconds of a ${name}, by round`);
  for (const phase of ["transfer", "compile", "all"])
    row(
      phase,
      phases[kind].map((ms) => ms[phase] / 1000),
      1,
    );
}
console.log("\nmost memory while loading and filling the cache, MiB, by round");
for (const key of Object.keys(memories[0]))
  row(
    key,
    memories.map((memory) => memory[key] / 1024 / 1024),
    1,
  );

// What follows runs in the page.

/** Milliseconds to read all shards with nothing in between, in a worker; nothing if it does not answer. */
async function measureBare(kind, shards, patience) {
  const worker = new Worker("/tests/bare-worker.mjs", { type: "module" });
  try {
    return await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        if (data.error) reject(new Error(data.error));
        else resolve(data.ms);
      };
      if (patience !== undefined) setTimeout(resolve, patience);
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage({ kind, shards });
    });
  } finally {
    worker.terminate();
  }
}

async function measureLoad(url, cache) {
  const { QwenVL } = await import("qwen-vl-web");
  const at = {};
  const onProgress = ({ phase }) => (at[phase] ??= performance.now());
  const began = performance.now();
  window.model = await QwenVL.load(url, { cache, onProgress, selfCheck: false });
  const { restore, download, compile, ready } = at;
  const ms = { transfer: compile - Math.min(restore ?? Infinity, download ?? Infinity), compile: ready - compile, all: ready - began };
  return { ms, gpuBytes: window.model.info.gpuBytes };
}
