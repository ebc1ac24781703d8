// A long conversation with random steps, from a seed: questions with and without pictures in several sessions, forks, undone and regenerated turns,
// aborts. Memory must not grow, and answers must be those of fresh sessions.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFigure } from "../figures.mjs";
import { mib } from "../weights/memory-watch.mjs";

const SEED = 20_261_130;
/** Answers between two measurements. */
const STRIDE = 20;
/** Answers with `--thorough`, and without. */
const TURNS = { chromium: 1000, firefox: 300 };
const FEW = 20;
/** Part of the measurements that is left out at the beginning: caches of the browser fill. */
const WARM_UP = 0.3;
/** Bytes that the browser may grow with each answer, at the lower end of the slope's error. The smallest buffer of an answer is larger. */
const BOUND = 4096;

export function soakTests(bed) {
  bed.pageTest("soak: answers stay right and memory flat", async (page, context) => {
    await bed.closeShared();
    const call = (name, ...values) =>
      page.evaluate(async (name, values) => (await import("/faults/soak-page.mjs"))[name](...values), name, values);
    const turns = bed.thorough ? TURNS[bed.name] : FEW;
    const began = performance.now();
    await call("begin", "/checkpoints/mini-a-f32", SEED);
    const [total, samples] = [{}, []];
    const wrong = [];
    for (let answers = 0; answers < turns; answers += STRIDE) {
      const { wrong: found, ...done } = await call("steps", STRIDE);
      wrong.push(...found);
      for (const [what, count] of Object.entries(done)) total[what] = (total[what] ?? 0) + count;
      samples.push([answers + STRIDE, residentBytes(page.browser().process().pid)]);
    }
    const left = await call("end");
    const seconds = Math.round((performance.now() - began) / 1000);
    const { slope, error } = slopeOf(samples.slice(Math.floor(samples.length * WARM_UP)));
    const counts = Object.entries(total).map(([what, count]) => `${count} ${what}`);
    const memory = `${mib(samples[0][1])} to ${mib(samples.at(-1)[1])} MiB resident, slope ${slope.toFixed(0)} ± ${error.toFixed(0)} bytes an answer`;
    context.diagnostic(`${bed.name}: ${counts.join(", ")} in ${seconds} s; ${memory}`);
    assert.deepEqual(wrong, []);
    assert.ok(total.checked > 0, "no answer was compared");
    assert.equal(left, 0, "bytes of GPU buffers are left");
    if (!bed.thorough) return;
    await writeFigure(bed.repository, `soak ${bed.name}`, {
      what: `answers in conversations, ${bed.name}; ${memory}`,
      points: total.answers,
      wrong: wrong.length,
      lost: 0,
      seconds,
    });
    assert.ok(slope - 2 * error < BOUND, memory);
  });
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
  const slope = spread === 0 ? 0 : samples.reduce((sum, [at, bytes]) => sum + (at - x) * (bytes - y), 0) / spread;
  const residue = samples.reduce((sum, [at, bytes]) => sum + (bytes - y - slope * (at - x)) ** 2, 0);
  const error = samples.length > 2 && spread > 0 ? Math.sqrt(residue / (samples.length - 2) / spread) : 0;
  return { slope, error };
}
