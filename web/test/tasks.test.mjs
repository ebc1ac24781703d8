// The prompts of the tasks. The tests of the Rust crates that build the same prompts read the same file.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { captionPrompt, groundPrompt, readPrompt, regionPrompt, vqaPrompt } from "../dist/api/tasks.js";

const prompts = JSON.parse(await readFile(new URL("../../tests/fixtures/task-prompts.json", import.meta.url), "utf8"));
const PICTURE = "<img>picture</img>";
const filled = (template, value) => PICTURE + template.replace("{}", value);

test("prompts of tasks are those that models are trained and evaluated with", () => {
  for (const lang of ["en", "zh"]) {
    assert.equal(captionPrompt({ lang }), filled(prompts.caption[lang]));
    assert.equal(captionPrompt({ lang, grounded: true }), filled(prompts.groundedCaption[lang]));
  }
  assert.equal(captionPrompt({}), filled(prompts.caption.en));
  assert.equal(vqaPrompt("What is it?"), filled(prompts.vqa, "What is it?"));
  assert.equal(readPrompt(), filled(prompts.read));
  assert.equal(groundPrompt("the cat"), filled(prompts.ground, "the cat"));
  assert.equal(regionPrompt([1, 2, 30, 400]), filled(prompts.region, "<box>(1,2),(30,400)</box>"));
});
