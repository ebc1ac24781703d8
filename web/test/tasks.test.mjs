// The prompts of the tasks. The tests of the Rust crates that build the same prompts read the same file.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { taskPrompt } from "../dist/api/tasks.js";

const prompts = JSON.parse(await readFile(new URL("../../tests/fixtures/task-prompts.json", import.meta.url), "utf8"));
const PICTURE = "<img>picture</img>";
const prompt = (task) => taskPrompt(task, "qwen_vl").text;
const filled = (template, value) => PICTURE + template.replace("{}", value);

test("prompts of tasks are those that models are trained and evaluated with", () => {
  for (const lang of ["en", "zh"]) {
    assert.equal(prompt({ kind: "caption", lang }), filled(prompts.caption[lang]));
    assert.equal(prompt({ kind: "caption", lang, grounded: true }), filled(prompts.groundedCaption[lang]));
  }
  assert.equal(prompt({ kind: "caption" }), filled(prompts.caption.en));
  assert.equal(prompt({ kind: "vqa", question: "What is it?" }), filled(prompts.vqa, "What is it?"));
  assert.equal(prompt({ kind: "read" }), filled(prompts.read));
  assert.equal(prompt({ kind: "ground", phrase: "the cat" }), filled(prompts.ground, "the cat"));
  assert.equal(prompt({ kind: "region", box: [1, 2, 30, 400] }), filled(prompts.region, "<box>(1,2),(30,400)</box>"));
});

test("prompts of later generations are those of the evaluation", () => {
  for (const family of ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]) {
    // A text is one part; other prompts are lists of parts.
    const check = (task, template, value = "") => {
      const parts = typeof template === "string" ? [{ text: template }] : template;
      const filled = JSON.parse(JSON.stringify(parts).replace("{}", value));
      assert.deepEqual(taskPrompt(task, family).query, [{ image: "picture" }, ...filled], family);
    };
    const { caption, vqa, ground } = prompts[family];
    for (const lang of ["en", "zh"]) check({ kind: "caption", lang }, caption[lang]);
    check({ kind: "vqa", question: "What is it?" }, vqa, "What is it?");
    check({ kind: "ground", phrase: "the cat" }, ground, "the cat");
  }
});
