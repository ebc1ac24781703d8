// GPUs that fail at each of their points: a device that is lost, that has no memory for a buffer, whose driver rejects a kernel, and whose memory
// holds NaN. After each, the error has the right code, the model recovers or loads again, its answer is the same, and its memory is free.
//
// With `--thorough` every point is taken, or where there are more than a scene's most points, the first ones of each operation in each stage and
// of the others those at equal distances. Otherwise one of two kinds in each browser. `QWEN_VL_POINT="lost 17"` takes that point alone.

import assert from "node:assert/strict";
import { writeFigure } from "../figures.mjs";

/**
 * Codes that the error of each kind may have. Without an error the answer must be right, unless the kind `mustFail`. After an error of a
 * kind that is `repeatable` the same model answers right, or fails with that code again.
 */
const KINDS = {
  lost: { codes: ["DEVICE_LOST"] },
  memory: { codes: ["GPU_OUT_OF_MEMORY"], mustFail: true, repeatable: true },
  compile: { codes: ["GPU_INCORRECT"] },
  nan: { codes: ["GPU_INCORRECT"] },
};
const FEW = { chromium: ["memory", "nan"], firefox: ["lost", "compile"] };
const URL = "/checkpoints/mini-a-f32";
/** Browsers report lost devices and failed pipelines on their consoles. */
const EXPECTED = /GPU|WebGPU|device|Device|pipeline|shader/;
/** Most points of one kind in a scene. */
const MOST = 3000;
/** Points of each operation in each stage that are taken in any case. */
const FIRST = 20;

/**
 * Scenes: their `kinds`, `stages` whose points are taken, and the most points of a kind. Each of these stages and of the `steps` must have points
 * of `lost`; see `../faults/gpu-points.mjs`.
 */
const SCENES = {
  "a load and answers": {
    kinds: Object.keys(KINDS),
    steps: ["allocation", "upload", "compile", "encode", "submission", "read-back"],
    stages: ["load", "self-check", "picture", "prefill chunk 1", "prefill chunk 2", "decode"],
  },
  "a benchmark": { kinds: ["lost"], stages: ["benchmark"], benchmark: true },
  "a load that chooses its kernels": { kinds: ["lost", "memory", "compile"], stages: ["choice of kernels"], chooses: true, most: 60 },
};

export function deviceTests(bed) {
  const [wantedKind, wantedAt] = process.env.QWEN_VL_POINT?.split(" ") ?? [];
  for (const [name, scenery] of Object.entries(SCENES).slice(0, bed.thorough ? undefined : 1)) {
    const few = wantedKind ? [wantedKind] : FEW[bed.name];
    for (const kind of scenery.kinds.filter((kind) => (bed.thorough && !wantedKind) || few.includes(kind))) {
      const { benchmark = false, chooses = false, steps = [], stages, most = MOST } = scenery;
      bed.pageTest(
        `devices: ${kind}, ${name}`,
        async (page) => {
          await bed.closeShared();
          const run = async (plan) => {
            const reports = reportsOfWorkers(bed);
            const scene = { url: URL, benchmark, plan: { ...plan, chooses } };
            const found = await page.evaluate(async (scene) => (await import("/faults/gpu-page.mjs")).run(scene), scene);
            return { ...found, ...reports };
          };
          const { tokens: expected, points, live, left } = await run({ kind: "count" });
          assert.deepEqual([live, left], [0, 0], "buffers are left without a fault");
          const losses = points.filter(([kind]) => kind === "lost");
          for (const part of [...steps, ...stages])
            assert.ok(
              losses.some(([, stage, step]) => part === stage || part === step),
              `${part} has no points`,
            );
          const all = points.filter(([of]) => of === kind).map(([, ...point], index) => ({ at: index + 1, point }));
          const own = all.filter(({ point: [stage] }) => stages.includes(stage));
          assert.ok(own.length > 0, `${kind} has no points`);
          const taken = wantedAt ? [{ at: Number(wantedAt) }] : bed.thorough ? choose(own, most) : [own[Math.floor(0.7 * own.length)]];
          const figures = { points: 0, wrong: [], codes: {}, parts: {} };
          const began = performance.now();
          for (const { at } of taken) {
            const found = await run({ kind, at });
            if (!found.hit) continue;
            figures.points += 1;
            const { stage, step, name: operation } = found.hit;
            for (const part of [stage, step]) figures.parts[part] = (figures.parts[part] ?? 0) + 1;
            const ending = endingOf(found);
            figures.codes[ending] = (figures.codes[ending] ?? 0) + 1;
            const problems = problemsOf(kind, found, expected);
            figures.wrong.push(...problems.map((text) => `${kind} at ${at} of ${all.length}, ${operation} (${stage}): ${text}`));
          }
          const partsOf = (part) => own.filter(({ point }) => point.includes(part)).length;
          const parts = [...new Set(own.flatMap(({ point: [stage, step] }) => [stage, step]))];
          console.log(
            `${bed.name}, ${kind}, ${name}: ${figures.points} points of ${own.length}, wrong ${figures.wrong.length}, ` +
              `${JSON.stringify(figures.codes)}; ${parts.map((part) => `${part} ${figures.parts[part] ?? 0} of ${partsOf(part)}`).join(", ")}`,
          );
          if (bed.thorough && !wantedAt) {
            await writeFigure(bed.repository, `devices ${bed.name} ${kind} ${name}`, {
              what: `a GPU that fails (${kind}, ${name}; ${figures.points} points of ${own.length}), ${bed.name}`,
              points: figures.points,
              wrong: figures.wrong.length + taken.length - figures.points,
              lost: 0,
              seconds: (performance.now() - began) / 1000,
            });
          }
          assert.deepEqual(figures.wrong, []);
          assert.equal(figures.points, taken.length, "points were not reached");
        },
        { expected: EXPECTED },
      );
    }
  }
}

/** Says how a run ended: the code of its error and the call that failed, and the end of the same questions to the same model. */
function endingOf({ error, at, repeated }) {
  if (!error) return "none";
  const then = repeated && `, then ${Array.isArray(repeated) ? "an answer" : repeated}`;
  return `${error.code} in ${at}${then ?? ""}`;
}

/** Returns the problems of a run with a fault. */
function problemsOf(kind, { error, hit, tokens, repeated, live, left }, expected) {
  const { codes, mustFail = false, repeatable = false } = KINDS[kind];
  const allowed = hit.name === "GPU.requestAdapter" ? [...codes, "NO_ADAPTER"] : codes;
  const problems = [];
  if (error && !allowed.includes(error.code)) problems.push(JSON.stringify(error));
  if (!error && mustFail) problems.push("no error");
  if (String(tokens) !== String(expected)) problems.push(`answered ${tokens}, not ${expected}`);
  if (repeatable && repeated && String(repeated) !== String(expected) && !codes.includes(repeated))
    problems.push(`the same model answered ${repeated}, not ${expected}`);
  if (live !== 0 || left !== 0) problems.push(`${live} buffers and ${left} bytes are left`);
  return problems;
}

/** Returns at most about `most` points: the first ones of each operation in each stage, and of the others those at equal distances. */
function choose(points, most) {
  if (points.length <= most) return points;
  const seen = new Map();
  const isFirst = ({ point }) => {
    const count = (seen.get(String(point)) ?? 0) + 1;
    seen.set(String(point), count);
    return count;
  };
  const ranked = points.map((point) => ({ ...point, nth: isFirst(point) }));
  // Fewer of each operation where there are many operations.
  const first = Math.max(1, Math.min(FIRST, Math.floor(most / 2 / new Set(points.map(({ point }) => String(point))).size)));
  const others = ranked.filter(({ nth }) => nth > first);
  const distance = others.length / (most - (ranked.length - others.length));
  const spread = new Set(others.filter((_, index) => Math.floor(index / distance) !== Math.floor((index - 1) / distance)));
  return ranked.filter((point) => point.nth <= first || spread.has(point));
}

/** Answers the reports of `../faults/gpu-points.mjs`: the point that was hit, all points, and the buffers that are left. */
function reportsOfWorkers(bed) {
  const reports = { hit: undefined, points: [], live: undefined };
  let armed = true;
  const take = {
    "/faults/armed": () => {
      const text = armed ? "yes" : "no";
      armed = false;
      return text;
    },
    "/faults/hit": (hit) => void (reports.hit = hit),
    "/faults/points": ({ points, live }) => {
      reports.points.push(...points);
      reports.live = live;
    },
  };
  bed.handle = (path, response) => {
    if (!Object.hasOwn(take, path)) return false;
    let text = "";
    response.req
      .on("data", (piece) => (text += piece))
      .on("end", () => {
        const answer = take[path](JSON.parse(text));
        response.writeHead(200, { "content-type": "text/plain", "cache-control": "no-store" }).end(answer ?? "");
      });
    return true;
  };
  return reports;
}
