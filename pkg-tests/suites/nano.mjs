import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const SAMPLE = "models/sample";

async function lines(bed, file) {
  const text = await readFile(join(bed.repository, SAMPLE, file), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** Reads questions with their true answers and the native runtime's. The first line of the latter names the model and the data. */
async function questions(bed, name) {
  const [asked, [, ...answered]] = await Promise.all([lines(bed, `${name}.jsonl`), lines(bed, `answers/q4-${name}.jsonl`)]);
  assert.equal(asked.length, answered.length);
  return asked.map((question, at) => ({ ...question, native: answered[at].answer }));
}

/**
 * Tests the trained model of the repository on a sample of its world's test split. Its answers must equal those of the native runtime, and
 * at least half of them must be right.
 *
 * @param {"webgpu" | "cpu"} backend
 */
export function nanoTests(bed, backend = "webgpu") {
  const test = (name, body) => bed.modelTest({ url: "/nano/", load: { backend } }, `nano, ${backend}: ${name}`, body);
  for (const name of ["vqa", "ocr"]) {
    test(`${name} as in the native runtime`, async (page, context) => {
      const all = await questions(bed, name);
      const answers = await page.evaluate(async (all) => {
        const answers = [];
        for (const { image, question } of all) answers.push((await window.model.vqa(`/sample/${image}`, question)).text.trim());
        return answers;
      }, all);
      const right = answers.filter((answer, at) => answer === all[at].answer).length;
      context.diagnostic(`${bed.name}, ${name}: ${right} of ${all.length} right`);
      assert.deepEqual(
        answers,
        all.map(({ native }) => native.trim()),
      );
      // Random words are never right.
      assert.ok(right >= all.length / 2, `${name}: ${right} of ${all.length} right`);
    });
  }
  test("grounding as in the native runtime", async (page, context) => {
    const all = await questions(bed, "grounding");
    const boxes = await page.evaluate(async (all) => {
      const boxes = [];
      for (const { image, sent } of all) boxes.push((await window.model.ground(`/sample/${image}`, sent))[0]?.norm ?? null);
      return boxes;
    }, all);
    const right = boxes.filter((box, at) => box && overlap(box, all[at]) >= 0.5).length;
    context.diagnostic(`${bed.name}, grounding: ${right} of ${all.length} boxes with IoU of 0.5 or more`);
    assert.deepEqual(
      boxes.map((box) => box && `(${box[0]},${box[1]}),(${box[2]},${box[3]})`),
      all.map(({ native }) => native),
    );
    assert.ok(right >= all.length / 2);
  });
}

/** Intersection over union of a box in thousandths and the true one in pixels. */
function overlap([left, top, right, bottom], { bbox, width, height }) {
  const box = [(left * width) / 1000, (top * height) / 1000, (right * width) / 1000, (bottom * height) / 1000];
  const area = ([x1, y1, x2, y2]) => Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
  const shared = area([Math.max(box[0], bbox[0]), Math.max(box[1], bbox[1]), Math.min(box[2], bbox[2]), Math.min(box[3], bbox[3])]);
  return shared / (area(box) + area(bbox) - shared);
}
