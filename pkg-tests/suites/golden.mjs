import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * The 4-bit model computes with exactly the weights of the dequantized one; what may differ is how a compiler contracts multiply-adds.
 * Two f32 runs of the original with different thread counts differ by up to 1e-4.
 */
const LOGITS_BOUND = 1e-4;

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
function run(page, set, golden) {
  const images = golden.images.map(({ path }) => `/golden/${set.name}/${path}`);
  return page.evaluate(
    async (ids, images, steps) => {
      const { runIds, lastLogits } = await import("qwen-vl-web/testing");
      const { tokens, timings } = await runIds(window.model, ids, images, steps);
      return { tokens, timings, logits: [...(await lastLogits(window.model))] };
    },
    golden.input_ids,
    images,
    golden.decode.tokens.length,
  );
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
  }
}
