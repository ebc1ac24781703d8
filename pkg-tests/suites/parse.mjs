import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

/** Parses the answers of a file of `crates/processor/tests` by the model of a page. */
export async function parsesCases(page, file) {
  const cases = JSON.parse(await readFile(new URL(`../../crates/processor/tests/${file}`, import.meta.url), "utf8"));
  assert.ok(cases.length >= 50, `${cases.length} cases`);
  const stored = cases.map(({ raw, pictures, question }) => ({
    raw,
    sizes: pictures.map(([width, height]) => ({ width, height })),
    question,
  }));
  const parsed = await page.evaluate(
    (stored) => Promise.all(stored.map(({ raw, sizes, question }) => window.model.parse(raw, sizes, question))),
    stored,
  );
  // The package leaves out what is null in the file.
  const present = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));
  cases.forEach(({ raw, text, objects }, at) => assert.deepEqual(parsed[at], { text, objects: objects.map(present) }, raw));
}
