// The parser of stored answers gives what the worker's parser gives: both read the same cases.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { parse } from "../dist/index.js";

const read = async (name) => JSON.parse(await readFile(new URL(`../../crates/processor/tests/${name}`, import.meta.url), "utf8"));
const tagCases = await read("grounding.json");
const jsonCases = await read("grounding_json.json");

/** The cases and their generations, see `crates/processor/tests/README.md`. */
const cases = [
  ...tagCases.map((one) => ({ ...one, of: one.family ?? "qwen_vl" })),
  ...jsonCases.map((one) => ({ ...one, of: one.family ?? "qwen3_vl" })),
];

/** An object without the keys whose value is null, which the worker leaves out too. */
const present = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));

/** Sizes of pictures, for `parse`. */
const sizesOf = (pictures, seen) => pictures.map(([width, height], at) => ({ width, height, ...(seen ? { seen: seen[at] } : {}) }));

/** Replaces the tags of Qwen-VL by those of Qwen2-VL. */
const retagged = (text) =>
  text.replace(/<(\/?)(ref|box|quad)>/g, (_, slash, tag) => `<|${tag === "ref" ? "object_ref" : tag}_${slash ? "end" : "start"}|>`);

for (const family of ["qwen_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]) {
  test(`${family}: there are cases`, () => {
    const count = cases.filter(({ of }) => of === family).length;
    assert.ok(count >= 60, `${count} cases`);
  });
}

for (const { of, raw, pictures, seen, question, text, objects } of cases) {
  test(`${of}: ${JSON.stringify(raw).slice(0, 100)}${question ? `, asked ${JSON.stringify(question)}` : ""}`, () => {
    assert.deepEqual(parse(raw, sizesOf(pictures, seen), question, { family: of }), { text, objects: objects.map(present) });
  });
}

test("without a family the tags of both generations are markup, and JSON is text", () => {
  for (const { raw, pictures, question, text, objects } of tagCases.filter(({ family }) => !family)) {
    const expected = { text, objects: objects.map(present) };
    assert.deepEqual(parse(raw, sizesOf(pictures), question), expected, raw);
    assert.deepEqual(parse(retagged(raw), sizesOf(pictures), question), expected, raw);
  }
  const raw = '[{"bbox_2d": [1, 2, 3, 4]}]';
  assert.deepEqual(parse(raw), { text: raw, objects: [] });
});

test("pixels of pictures that Qwen2.5-VL sees with sides of 1000 are thousandths", () => {
  for (const { raw, pictures, question, text, objects } of jsonCases.filter(({ family }) => !family)) {
    const sizes = sizesOf(
      pictures,
      pictures.map(() => [1000, 1000]),
    );
    const found = parse(raw, sizes, question, { family: "qwen2_5_vl" });
    assert.equal(found.text, text, raw);
    assert.deepEqual(
      found.objects.map(({ norm, range }) => ({ norm, range })),
      objects.map(({ norm, range }) => ({ norm, range })),
      raw,
    );
  }
});

test("the limit of a record before its coordinates counts bytes of UTF-8", () => {
  const record = (bytes) => {
    const [begin, end] = ['{"label": "猫', '", "bbox_2d"'];
    return `[${begin}${"x".repeat(bytes - Buffer.byteLength(begin + end))}${end}: [1, 2, 3, 4]}]`;
  };
  const count = (raw) => parse(raw, [], "", { family: "qwen3_vl" }).objects.length;
  assert.deepEqual([count(record(4096)), count(record(4097))], [1, 0]);
  // A cut record of a list that is markup is text if it is longer than that.
  const cut = (length) => parse(`[{"point_2d": [1, 2]}${`, {"label": "`.padEnd(length, "x")}`, [], "", { family: "qwen3_vl" }).text.length;
  assert.deepEqual([cut(4096 + 2), cut(4097 + 2)], [0, 4097 + 2]);
});

test("deep nesting, long lists and long names end", () => {
  const deep = [
    "[".repeat(100_000),
    '[{"a":'.repeat(20_000),
    "`".repeat(100_000),
    `[${"1".repeat(100_000)}`,
    "[1,".repeat(50_000),
    `{"${"x".repeat(1e6)}`,
  ];
  for (const raw of deep) assert.equal(parse(raw, [], "", { family: "qwen3_vl" }).text, raw);
  const points = Array.from({ length: 50_000 }, () => "[1, 2]").join(", ");
  const raw = `[{"point_2d": [${points}], "label": "${"\\u00e9".repeat(50_000)}"}]`;
  const { text, objects } = parse(raw, [], "", { family: "qwen3_vl" });
  assert.deepEqual([text, objects.length, objects[0].ref.length], ["", 50_000, 50_000]);
});

test("an unknown family is an error", () => {
  assert.throws(() => parse("", [], "", { family: "qwen4_vl" }), { code: "INVALID_ARGUMENT" });
});
