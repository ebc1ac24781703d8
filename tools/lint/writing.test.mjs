import assert from "node:assert/strict";
import { test } from "node:test";
import { check, readRules } from "./writing.mjs";

const RULES = readRules(`
## Forms to avoid

| form | where | write |
| --- | --- | --- |
| \`\\b[Cc]an not\\b\` | any | cannot |
| \`(What\\|Whether)\\b\` | doc | a noun |
| \`\\bso many\\b\` | prose | the number |
| \`\\bis no (?!longer\\b\\|more\\b)[a-z]\` | prose | is not a |
`);
const found = (text, ending) => check(RULES, text, ending).map(({ line, found }) => `${line} ${found}`);

test("the writing rules: comments and strings of Rust", () => {
  const text = `//! Whether it is.
/// A thing.
/// What follows begins no doc comment, so many
fn f<'a>(x: &'a str) -> char { let _ = "so many // x"; let _ = r#"so many "// "#; '"' } // so many
/* so
   many */ let x = '/'; let y = b"so many";
return Err("What is so \\
            many\\nso many, \`so many\`"); // many`;
  assert.deepEqual(found(text, "rs"), ["1 Whether", "3 so many", "4 so many", "4 so many", "5 so many", "7 so many", "8 so many"]);
});

test("the writing rules: a form may cross the end of a line", () => {
  assert.deepEqual(found("// There are so\n// many of them.\n\n// so\n\n// many", "rs"), ["1 so many"]);
});

test("the writing rules: doc comments, regular expressions and strings of JavaScript", () => {
  const text = `/** What it is. */
/**
 * Whether it is.
 *
 * @returns {string} so many
 */
const a = /"so many/.test("//so many"), b = 4 / 2; // is no longer, is no bug
const c = \`so many \\\`so many\\\` so \${many} many\`, d = \`so many
so many\`;
test("so many"); throw new Error('so many, "so many"');`;
  assert.deepEqual(found(text, "mjs"), [
    "1 What",
    "3 Whether",
    "5 so many",
    "7 so many",
    "7 is no b",
    "8 so many",
    ...Array(3).fill("10 so many"),
  ]);
});

test("the writing rules: Markdown without code", () => {
  assert.deepEqual(found("so many\n```\nso many\n```\n`so many` can not\n", "md"), ["1 so many", "5 can not"]);
});

test("the writing rules: `any` looks at code too", () => {
  assert.deepEqual(found('throw "it can not";', "ts"), ["1 can not"]);
});
