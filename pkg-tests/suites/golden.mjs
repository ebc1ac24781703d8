import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { SMALL } from "./context.mjs";

/**
 * The 4-bit model computes with exactly the weights of the dequantized one; what may differ is how a compiler contracts multiply-adds.
 * Two f32 runs of the original with different thread counts differ by up to 1e-4.
 */
const LOGITS_BOUND = 1e-4;

/** Bounds on how far rounding moves the last logits of a 4-bit model, of size 3.4. Rounding weights to 4 bits moves them by 6.4. */
const VARIANT_BOUNDS = { f16: 0.05, packed: 0.5 };

async function cases(set) {
  const files = (await readdir(set.golden)).filter((file) => file.endsWith(".json") && file !== "summary.json").sort();
  return Promise.all(files.map(async (file) => JSON.parse(await readFile(join(set.golden, file), "utf8"))));
}

/** Loads a checkpoint into `window.model`, in place of the one before. */
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

/** Runs the ids of a case and its greedy steps. Returns the tokens and the logits of the last step. */
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

/** Kernel sets, how `info.adapter.kernels` names them, and the features that they need of an adapter. */
const VARIANTS = [
  { kernels: "plain", shows: /staged tiles/ },
  { kernels: "cpu", shows: /an invocation/ },
  { kernels: "subgroups", shows: /subgroups/, needs: "subgroups" },
  { kernels: "f16", shows: /in halves/, needs: "shader-f16" },
  { kernels: "packed", shows: /8-bit activations/, same: "with f32 weights these are the plain kernels" },
];

/**
 * The original's tokens with every kernel set for which the bed's adapter has the features, and how far each set moves the logits after the
 * prompt of a 4-bit model.
 */
function variantTests(bed, set, all, options) {
  const chosen = all.filter((golden) => ["text_en", "img_vqa"].includes(golden.case));
  /** The logits with plain kernels, which the first test that needs them computes. */
  let plain;
  const q4Logits = async (page, kernels) => {
    await load(page, `${set.name}-q4`, { ...options, kernels });
    const logits = [];
    for (const golden of chosen) logits.push((await run(page, set, golden, 1)).logits);
    return logits;
  };
  for (const { kernels, shows, needs, same } of VARIANTS) {
    const skip = needs !== undefined && !bed.features.includes(needs) && `this adapter lacks ${needs}`;
    const test = (what, body, skip) => bed.pageTest(`goldens, ${set.name}, ${kernels} kernels: ${what}`, body, { skip });
    const tokens = async (page) => {
      await load(page, `${set.name}-f32`, { ...options, kernels });
      assert.match(await page.evaluate(() => window.model.info.adapter.kernels), shows);
      for (const golden of chosen) assert.deepEqual((await run(page, set, golden)).tokens, golden.decode.tokens, golden.case);
    };
    test("the tokens of the original", tokens, skip || (same ?? false));
    const logits = async (page) => {
      plain ??= await q4Logits(page, "plain");
      const logits = kernels === "plain" ? plain : await q4Logits(page, kernels);
      assert.match(await page.evaluate(() => window.model.info.adapter.kernels), shows);
      for (const [index, golden] of chosen.entries()) {
        const worst = Math.max(...logits[index].map((logit, at) => Math.abs(logit - plain[index][at])));
        console.log(`${bed.name}, ${set.name}/${golden.case}, ${kernels}: q4 logits off by ${worst.toExponential(1)} from plain ones`);
        assert.ok(worst <= (VARIANT_BOUNDS[kernels] ?? LOGITS_BOUND), `${golden.case}: off by ${worst}`);
      }
    };
    test("the logits of 4-bit weights", logits, skip);
  }
}

/** Greedy tokens against those of the original code, and 4-bit logits against those of the decoded weights. */
export async function goldenTests(bed) {
  assert.ok(bed.sets.length >= 2, "at least the golden models of the repository");
  for (const name of bed.missingSets) {
    bed.test(`goldens, ${name}`, { skip: "the larger reference set is not here: name its folder in QWEN_VL_REFERENCE" }, () => undefined);
  }
  const sets = await Promise.all(bed.sets.map(async (set) => [set, await cases(set)]));
  for (const [set, all] of sets) {
    assert.ok(all.length > 0, `${set.name} has no cases`);
    const longest = Math.max(...all.map((golden) => golden.input_ids.length + golden.decode.tokens.length));
    const options = { ...bed.loadOptions, ...SMALL, contextLength: Math.max(longest, SMALL.contextLength) };
    for (const golden of all) {
      const model = { url: `/checkpoints/${set.name}-f32/`, load: options };
      bed.modelTest(model, `goldens, ${set.name}: the tokens of ${golden.case}`, async (page) => {
        assert.deepEqual((await run(page, set, golden)).tokens, golden.decode.tokens);
      });
    }

    // Compiling the kernels takes a software adapter longer than all the rest.
    const skip = !set.name.startsWith("mini") && "mini-a and mini-b cover these kernels here; the native tests run all models";
    bed.pageTest(
      `goldens, ${set.name}: 4-bit weights give the logits of their decoded values`,
      async (page) => {
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
      },
      { skip },
    );
    if (set.name === "mini-b") variantTests(bed, set, all, options);
  }
}
