// The parser of stored answers gives what the worker's parser gives: both read the same cases.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { parse } from "../dist/index.js";

const file = new URL("../../crates/processor/tests/grounding.json", import.meta.url);
const cases = JSON.parse(await readFile(file, "utf8"));

/** An object without the keys whose value is null, which the worker leaves out too. */
const present = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));

test("there are cases", () => assert.ok(cases.length > 50));

for (const { raw, pictures, question, text, objects } of cases) {
  test(`${JSON.stringify(raw).slice(0, 100)}${question ? `, asked ${JSON.stringify(question)}` : ""}`, () => {
    const sizes = pictures.map(([width, height]) => ({ width, height }));
    assert.deepEqual(parse(raw, sizes, question), { text, objects: objects.map(present) });
  });
}
