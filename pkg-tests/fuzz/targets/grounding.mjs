// Stored answers: `web/ts/api/grounding.ts`. With `QWEN_VL_GROUNDING`, the example of `crates/fuzz` that reads answers with the worker's parser,
// both parsers must agree.

import fc from "fast-check";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";
import { parse } from "../../../web/dist/api/grounding.js";
import { textOf } from "../inputs.mjs";
import { outcome } from "../outcome.mjs";

const FAMILIES = ["qwen_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"];
const TAGS = [
  // Whole objects: single tags make one in a few thousand texts.
  "<ref>a cat</ref><box>(1,2),(30,40)</box>",
  "<ref>",
  "<box>(1,2),(3,4)</box>",
  "<box>(900,2) , (3,1004)</box>",
  "<quad>(1,2),(3,4),(5,6),(7,8)</quad>",
  "</ref>",
  "<box>",
  "</box>",
  "<quad>",
  "</quad>",
  "(1,2)",
  "(1,2),(3,4)",
  " ( 999 , 1000 ) ",
  "(-1,2000)",
  "the cat",
  " ",
  "\n",
  "Picture 2: ",
  "图1",
  "<",
  "(",
  ",",
  "99999999999999999999",
  "\u00a0",
  "\u0085",
  "😀",
];
const JSON_WORDS = [
  "[",
  "]",
  "{",
  "}",
  ",",
  ": ",
  '"bbox_2d": [1, 2, 30, 40]',
  '"point_2d": [5, 6]',
  '"label": "a"',
  '"text_content": ',
  '{"bbox_2d": [1, 2, 3, 4], "label": "b"}',
  "```json\n",
  "```",
  "[[1,2],[3,4]]",
  "1.5",
  "-1e3",
  "1e99",
  "true",
  "null",
  '"',
  "\\",
  "\\u00e9",
  "\\ud83d",
  "Picture 1",
  "\n",
  "字",
  "\t",
];
const retagged = (text) =>
  text.replace(/<(\/?)(ref|box|quad)>/g, (_, slash, tag) => `<|${tag === "ref" ? "object_ref" : tag}_${slash ? "end" : "start"}|>`);

export const seeds = 0;
export const input = fc.record({
  family: fc.constantFrom(...FAMILIES),
  tags: textOf(TAGS),
  json: textOf(JSON_WORDS, 16),
  sizes: fc.constantFrom(
    [],
    [[640, 333]],
    [
      [10, 10],
      [1, 8192],
    ],
  ),
  question: fc.constantFrom("", "What is in Picture 2?", "图1 和 图2"),
});

const program = process.env.QWEN_VL_GROUNDING;
let peer;

function ask(request) {
  if (!peer) {
    const child = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    peer = { child, lines };
  }
  peer.child.stdin.write(`${JSON.stringify(request)}\n`);
  return peer.lines.next().then(({ value, done }) => {
    if (done) throw new Error("the program with the worker's parser ended");
    return JSON.parse(value);
  });
}

/** Ends the program, which would keep this process alive. */
export function end() {
  peer?.child.kill();
  peer = undefined;
}

const present = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));

/** Objects lie in their pictures and their names in the text, and the worker's parser finds the same. */
export async function check({ family, tags, json, sizes, question }) {
  const isJson = family === "qwen2_5_vl" || family === "qwen3_vl";
  // The worker's texts have no half of a surrogate pair.
  const raw = (isJson ? json : family === "qwen2_vl" ? retagged(tags) : tags).toWellFormed();
  const seen = [28, 56];
  let found;
  const kind = outcome(() => {
    found = parse(
      raw,
      sizes.map(([width, height]) => ({ width, height, seen })),
      question,
      { family },
    );
  });
  if (!found) return kind;
  for (const { norm, pixels, image, range } of found.objects) {
    assert.ok(
      norm.flat().every((at) => Number.isInteger(at) && at >= 0 && at <= 1000),
      JSON.stringify(norm),
    );
    assert.equal(pixels !== undefined, image !== undefined);
    const most = image === undefined ? 0 : Math.max(...sizes[image]);
    assert.ok(
      (pixels ?? []).flat().every((at) => Number.isInteger(at) && at >= 0 && at <= most),
      JSON.stringify(pixels),
    );
    // The place of an object without a name can be in the white space that was stripped.
    assert.ok(range[0] <= range[1] && (range[0] === range[1] || range[1] <= found.text.length), JSON.stringify(range));
  }
  if (program) {
    const { text, objects } = await ask({ family, raw, sizes, seen, question });
    assert.deepEqual(found, { text, objects: objects.map(present) }, JSON.stringify(raw));
  }
  return `${family}, ${Math.min(found.objects.length, 2)} objects`;
}
