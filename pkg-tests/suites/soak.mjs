// A long conversation with random steps, from a seed: questions with and without pictures in several sessions, forks, undone and regenerated turns,
// aborts. Memory must not grow, and answers must be those of fresh sessions.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFigure } from "../figures.mjs";
import { mib } from "../weights/memory-watch.mjs";

const SEED = 20_261_130;
/** Answers with `--thorough`, and without. */
const TURNS = { chromium: 1000, firefox: 300 };
const FEW = 30;
/** Answers after which the package has all buffers that it keeps, and its largest wasm memory. */
const SETTLED = 20;
/** Part of the measurements that is left out of slopes: caches of the browser fill. */
const WARM_UP = 0.3;
/** Answers between two measurements of heaps and processes: a browser allocates for each measurement too. */
const STRIDE = 10;
/**
 * Bytes that may be left after each answer, at the upper end of the slope's error. In the heap of the page or the worker, the entry of a call that
 * nobody removes takes more, with its promise and its functions. The resident memory of a browser is too noisy for that: its bound is half of the
 * features of a picture, the largest memory that a question allocates.
 */
const BOUNDS = { page: 256, worker: 256, resident: 65_536 };

export function soakTests(bed) {
  bed.pageTest("soak: answers stay right and memory flat", async (page, context) => {
    await bed.closeShared();
    const call = (name, ...values) =>
      page.evaluate(async (name, values) => (await import("/faults/soak-page.mjs"))[name](...values), name, values);
    /** The latest report of `../faults/worker-live.mjs`. */
    let inUse;
    bed.handle = (path, response) => {
      if (path !== "/faults/in-use") return false;
      let text = "";
      response.req
        .on("data", (piece) => (text += piece))
        .on("end", () => {
          inUse = JSON.parse(text);
          response.writeHead(204).end();
        });
      return true;
    };
    const turns = bed.thorough ? TURNS[bed.name] : FEW;
    const began = performance.now();
    await call("begin", "/checkpoints/mini-a-f32", SEED);
    const total = {};
    const wrong = [];
    /** After each answer: `buffers` of the GPU, their `bytes`, and bytes of `wasm` memory. */
    const used = [];
    /** Bytes of heaps and processes with the number of answers. */
    const samples = { page: [], worker: [], resident: [] };
    const client = bed.name === "chromium" ? await page.createCDPSession() : undefined;
    for (let answers = 1; answers <= turns; answers += 1) {
      const { wrong: found, ...done } = await call("step");
      wrong.push(...found);
      for (const [what, count] of Object.entries(done)) total[what] = (total[what] ?? 0) + count;
      used.push(inUse);
      if (answers % STRIDE !== 0) continue;
      if (client) {
        samples.page.push([answers, await heapBytes(client)]);
        samples.worker.push([answers, await heapBytes(page.workers()[0].client)]);
      }
      samples.resident.push([answers, residentBytes(page.browser().process().pid)]);
    }
    const left = await call("end");
    const seconds = Math.round((performance.now() - began) / 1000);
    if (left !== 0 || inUse.buffers !== 0) wrong.push(`${left} bytes and ${inUse.buffers} buffers of the GPU are left`);

    const settled = used.slice(Math.max(SETTLED, Math.floor(turns * WARM_UP)) - 1);
    for (const what of ["buffers", "bytes", "wasm"]) {
      const values = settled.map((figures) => figures[what]);
      const most = Math.max(...values);
      if (most > values[0]) wrong.push(`${what} grew from ${values[0]} to ${most}`);
    }
    const { buffers, bytes, wasm } = used.at(-1);
    const figures = [`${buffers} GPU buffers of ${bytes} bytes`, `${mib(wasm)} MiB of wasm memory`];
    for (const [what, all] of Object.entries(samples)) {
      if (all.length === 0) continue;
      const { slope, error } = slopeOf(all.slice(Math.floor(all.length * WARM_UP)));
      const range = `${mib(all[0][1])} to ${mib(all.at(-1)[1])} MiB`;
      figures.push(`${what} ${range}, slope ${slope.toFixed(0)} ± ${error.toFixed(0)} bytes an answer`);
      // A few answers say nothing about what a browser keeps.
      if (bed.thorough && !(slope + 2 * error < BOUNDS[what])) wrong.push(`${figures.at(-1)}, at most ${BOUNDS[what]}`);
    }
    const counts = Object.entries(total).map(([what, count]) => `${count} ${what}`);
    context.diagnostic(`${bed.name}: ${counts.join(", ")} in ${seconds} s; ${figures.join("; ")}`);
    if (bed.thorough) {
      await writeFigure(bed.repository, `soak ${bed.name}`, {
        what: `answers in conversations, ${bed.name}; ${figures.join("; ")}`,
        points: total.answers,
        wrong: wrong.length,
        lost: 0,
        seconds,
      });
    }
    assert.deepEqual(wrong, []);
    for (const what of ["checked", "regenerated", "aborted"]) assert.ok(total[what] > 0, `no answer was ${what}`);
  });
}

/** Bytes of the heap of a page or a worker, with its array buffers, after its garbage was collected. */
async function heapBytes(client) {
  await client.send("HeapProfiler.collectGarbage");
  const { usedSize, backingStorageSize } = await client.send("Runtime.getHeapUsage");
  return usedSize + backingStorageSize;
}

/** Resident bytes of a process and of those that it has started. */
function residentBytes(pid) {
  const processes = execFileSync("ps", ["-e", "-o", "pid=,ppid=,rss="], { encoding: "utf8" })
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number));
  const family = new Set([pid]);
  for (let before = 0; before < family.size;) {
    before = family.size;
    for (const [child, parent] of processes) if (family.has(parent)) family.add(child);
  }
  return processes.reduce((sum, [id, , kib]) => sum + (family.has(id) ? kib * 1024 : 0), 0);
}

/** Least squares: slope and its standard error. */
function slopeOf(samples) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(samples.map(([at]) => at)), mean(samples.map(([, bytes]) => bytes))];
  const spread = samples.reduce((sum, [at]) => sum + (at - x) ** 2, 0);
  const slope = samples.reduce((sum, [at, bytes]) => sum + (at - x) * (bytes - y), 0) / spread;
  const residue = samples.reduce((sum, [at, bytes]) => sum + (bytes - y - slope * (at - x)) ** 2, 0);
  return { slope, error: Math.sqrt(residue / (samples.length - 2) / spread) };
}
