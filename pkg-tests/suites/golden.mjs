import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * The 4-bit model computes with exactly the weights of the dequantized one; what may differ is how a compiler contracts multiply-adds.
 * Two f32 runs of the original with different thread counts differ by up to 1e-4.
 */
const LOGITS_BOUND = 1e-4;

/** What rounding may do to the last logits of a 4-bit model, of size 3.4; a 4-bit weight does more. */
const VARIANT_BOUNDS = { f16: 0.05, packed: 0.5 };

async function cases(set) {
  const files = (await readdir(set.golden)).filter((file) => file.endsWith(".json") && file !== "summary.json").sort();
  return Promise.all(files.map(async (file) => JSON.parse(await readFile(join(set.golden, file), "utf8"))));
}

/** Loads a checkpoint into `window.model`. */
function load(page, checkpoint, options) {
  return page.evaluate(
    async (url, options) => {
      const { QwenVL } = await import("qwen-vl-web");
      await window.model?.dispose();
      window.model = await QwenVL.load(url, options);
    },
    `/checkpoints/${checkpoint}/`,
    options,
  );
}

/** Runs the ids of a case and its greedy steps; tokens and the logits of the last step. */
function run(page, set, golden, steps = golden.decode.tokens.length) {
  const images = golden.images.map(({ path }) => `/golden/${set.name}/${path}`);
  return page.evaluate(
    async (ids, images, steps) => {
      const { runIds, lastLogits } = await import("qwen-vl-web/testing");
      const { tokens, timings } = await runIds(window.model, ids, images, steps);
      return { tokens, timings, logits: [...(await lastLogits(window.model))] };
    },
    golden.input_ids,
    images,
    steps,
  );
}

/** Sets of kernels, how `info.adapter.kernels` tells them, and what adapters need for them. */
const VARIANTS = [
  { kernels: "plain", shows: /staged tiles/ },
  { kernels: "cpu", shows: /an invocation/ },
  { kernels: "subgroups", shows: /subgroups/, needs: "subgroups" },
  { kernels: "f16", shows: /in halves/, needs: "shader-f16" },
  { kernels: "packed", shows: /8-bit activations/ },
];

/**
 * The original's tokens with every set of kernels that the bed's adapter has the features for, and what each changes in the logits that
 * follow a prompt of a 4-bit model.
 */
async function variantTests(context, bed, set, all, options) {
  const chosen = all.filter((golden) => ["text_en", "img_vqa"].includes(golden.case));
  const plain = [];
  for (const { kernels, shows } of VARIANTS.filter(({ needs }) => needs === undefined || bed.features.includes(needs))) {
    await context.test(`${set.name}: ${kernels} kernels`, () =>
      bed.open(async (page) => {
        const loadVariant = async (scheme) => {
          await load(page, `${set.name}-${scheme}`, { ...options, kernels });
          assert.match(await page.evaluate(() => window.model.info.adapter.kernels), shows);
        };
        await loadVariant("f32");
        for (const golden of chosen) assert.deepEqual((await run(page, set, golden)).tokens, golden.decode.tokens, golden.case);
        await loadVariant("q4");
        for (const [index, golden] of chosen.entries()) {
          const { logits } = await run(page, set, golden, 1);
          plain[index] ??= logits;
          const worst = Math.max(...logits.map((logit, at) => Math.abs(logit - plain[index][at])));
          console.log(`${bed.name}, ${set.name}/${golden.case}, ${kernels}: q4 logits off by ${worst.toExponential(1)} from plain ones`);
          assert.ok(worst <= (VARIANT_BOUNDS[kernels] ?? LOGITS_BOUND), `${golden.case}: off by ${worst}`);
        }
      }),
    );
  }
}

/** Greedy tokens against those of the original code, and 4-bit logits against those of the decoded weights. */
export async function goldenTests(context, bed) {
  assert.ok(bed.sets.length >= 2, "at least the golden models of the repository");
  for (const set of bed.sets) {
    const all = await cases(set);
    assert.ok(all.length > 0, `${set.name} has no cases`);
    const options = { ...bed.loadOptions, contextLength: Math.max(...all.map((golden) => golden.input_ids.length)) + 32 };

    await context.test(`${set.name} f32: the tokens of the original`, (context) =>
      bed.open(async (page) => {
        await load(page, `${set.name}-f32`, options);
        for (const golden of all) {
          await context.test(golden.case, async () => {
            const { tokens } = await run(page, set, golden);
            assert.deepEqual(tokens, golden.decode.tokens);
          });
        }
      }),
    );

    // Compiling the shaders takes SwiftShader longer than all the rest: two models show it there what all show elsewhere.
    if (bed.name === "chromium" && !set.name.startsWith("mini")) continue;
    await context.test(`${set.name} q4: the logits of its decoded weights`, () =>
      bed.open(async (page) => {
        const chosen = all.filter((golden) => ["text_en", "img_vqa"].includes(golden.case));
        assert.equal(chosen.length, 2);
        const results = [];
        for (const checkpoint of [`${set.name}-q4`, `${set.name}-q4-dequantized`]) {
          await load(page, checkpoint, options);
          const runs = [];
          for (const golden of chosen) runs.push(await run(page, set, golden));
          results.push(runs);
        }
        const [coded, decoded] = results;
        for (const [index, golden] of chosen.entries()) {
          assert.deepEqual(coded[index].tokens, decoded[index].tokens, golden.case);
          const worst = Math.max(...coded[index].logits.map((logit, at) => Math.abs(logit - decoded[index].logits[at])));
          console.log(`${bed.name}, ${set.name}/${golden.case}: q4 logits off by ${worst.toExponential(1)}`);
          assert.ok(worst <= LOGITS_BOUND, `${golden.case}: off by ${worst}`);
        }
      }),
    );
    if (set.name === "mini-b") await variantTests(context, bed, set, all, options);
  }
}
