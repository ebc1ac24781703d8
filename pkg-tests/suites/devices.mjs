// GPUs that fail at each of their points: a device that is lost, that has no memory for a buffer, whose driver rejects a kernel, and whose memory
// holds NaN. After each, the error has the right code, the model recovers or loads again, its answer is the same, and its memory is free.
//
// With `--thorough` every point is taken, otherwise one of two kinds in each browser.

import assert from "node:assert/strict";
import { writeFigure } from "../figures.mjs";

/** Codes that the error of each kind may have. Without an error the answer must be right. */
const CODES = {
  lost: ["DEVICE_LOST"],
  memory: ["GPU_OUT_OF_MEMORY"],
  compile: ["GPU_INCORRECT"],
  nan: ["GPU_INCORRECT"],
};
const FEW = { chromium: ["memory", "nan"], firefox: ["lost", "compile"] };
const URL = "/checkpoints/mini-a-f32";
/** Browsers report lost devices and failed pipelines on their consoles. */
const EXPECTED = /GPU|WebGPU|device|Device|pipeline|shader/;

export function deviceTests(bed) {
  const scenes = [["a load and answers", false], ...(bed.thorough ? [["a benchmark", true]] : [])];
  for (const [name, benchmark] of scenes) {
    for (const kind of benchmark ? ["lost"] : bed.thorough ? Object.keys(CODES) : FEW[bed.name]) {
      bed.pageTest(
        `devices: ${kind}, ${name}`,
        async (page) => {
          await bed.closeShared();
          const run = async (plan) => {
            let armed = true;
            bed.handle = (path, response) => {
              if (path !== "/faults/armed") return false;
              response.writeHead(200, { "content-type": "text/plain", "cache-control": "no-store" }).end(armed ? "yes" : "no");
              armed = false;
              return true;
            };
            const scene = { url: URL, benchmark, plan };
            return page.evaluate(async (scene) => (await import("/faults/gpu-page.mjs")).run(scene), scene);
          };
          const { tokens: expected, counts, live, left } = await run({ kind: "count" });
          assert.deepEqual([live, left], [0, 0], "buffers are left without a fault");
          const total = counts[kind];
          assert.ok(total > 0, `${kind} has no points`);
          const points = bed.thorough ? Array.from({ length: total }, (_, index) => index + 1) : [Math.ceil(0.7 * total)];
          const figures = { points: 0, wrong: [], codes: {} };
          const began = performance.now();
          for (const at of points) {
            const found = await run({ kind, at });
            if (!found.hit) continue;
            figures.points += 1;
            const where = `${kind} at ${at} of ${total}, ${found.hit}`;
            const code = found.error ? `${found.error.code} in ${found.at}` : "none";
            figures.codes[code] = (figures.codes[code] ?? 0) + 1;
            if (found.error && !CODES[kind].includes(found.error.code)) figures.wrong.push(`${where}: ${JSON.stringify(found.error)}`);
            if (JSON.stringify(found.tokens) !== JSON.stringify(expected))
              figures.wrong.push(`${where}: answered ${found.tokens}, not ${expected}`);
            if (found.live !== 0 || found.left !== 0)
              figures.wrong.push(`${where}: ${found.live} buffers and ${found.left} bytes are left`);
          }
          console.log(
            `${bed.name}, ${kind}, ${name}: ${figures.points} points of ${total}, wrong ${figures.wrong.length}, ${JSON.stringify(figures.codes)}`,
          );
          assert.equal(figures.points, points.length, "points were not reached");
          if (bed.thorough) {
            await writeFigure(bed.repository, `devices ${bed.name} ${kind} ${name}`, {
              what: `a GPU that fails (${kind}, ${name}), ${bed.name}`,
              points: figures.points,
              wrong: figures.wrong.length,
              lost: 0,
              seconds: (performance.now() - began) / 1000,
            });
          }
          assert.deepEqual(figures.wrong, []);
        },
        { expected: EXPECTED },
      );
    }
  }
}
