// Later generations: prompts of tasks, limits of pictures, presence penalty.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { captionText, groundText, parse, QwenVL, readText } from "../dist/index.js";
import { taskPrompt } from "../dist/api/tasks.js";
import { FakeEdge, fakeWorker, modelFiles } from "./fake-edge.mjs";

before(() => (globalThis.isSecureContext = true));

/** Loads a model of a generation. */
async function load(family, pictureTokens = [4, 1280]) {
  const edge = new FakeEdge();
  edge.keeps = true;
  edge.facts = { family, contextLength: 2048, pictureTokens };
  return { edge, model: await QwenVL.load(modelFiles(), { worker: fakeWorker(edge) }) };
}

const picture = () => new Uint8Array(Buffer.from("iVBORw0KGgo=", "base64"));
const question = (...parts) => ({ kind: "chat", history: [], query: [{ image: "picture" }, ...parts], overflow: "error" });
const text = (text) => question({ text });
const box = [1, 2, 30, 40];

const TASKS = {
  qwen_vl: [
    [{ kind: "caption" }, "Describe the image in English:"],
    [{ kind: "caption", lang: "zh", grounded: true }, "Generate the caption in Chinese with grounding:"],
    [{ kind: "vqa", question: "Why?" }, "Why? Answer:"],
    [{ kind: "read" }, "OCR with grounding:"],
    [{ kind: "ground", phrase: "a cat" }, "<ref>a cat</ref><box>"],
    [{ kind: "region", box }, "<ref>This</ref><box>(1,2),(30,40)</box> is"],
  ],
  qwen2_vl: [
    [{ kind: "caption" }, text("Describe this image in English.")],
    [{ kind: "vqa", question: "Why?" }, text("Why?\nPlease try to answer the question with short words or phrases if possible.")],
    [{ kind: "read" }, text("Read all the text in the image.")],
    [{ kind: "ground", phrase: "a cat" }, question({ text: "Find " }, { ref: "a cat" })],
    [{ kind: "region", box }, question({ text: "Describe " }, { ref: "the region", boxes: [box] }, { text: " of the image." })],
  ],
  qwen2_5_vl: [
    [{ kind: "caption" }, text("Describe this image in English.")],
    [
      { kind: "caption", grounded: true },
      text(
        "Please first output bbox coordinates and names of every item in this image in JSON format, and then describe the image in English.",
      ),
    ],
    [{ kind: "read" }, text("Spotting all the text in the image with line-level, and output in JSON format.")],
    [{ kind: "ground", phrase: "a cat" }, text("Locate a cat, output its bbox coordinates using JSON format.")],
    [{ kind: "region", box }, question({ text: "Describe " }, { ref: "the region", boxes: [box] }, { text: " of the image." })],
  ],
  qwen3_vl: [
    [{ kind: "caption", lang: "zh" }, text("Describe this image in Chinese.")],
    [
      { kind: "read" },
      text(
        "Spotting all the text in the image with line-level, and output in JSON format as [{'bbox_2d': [x1, y1, x2, y2], 'text_content': 'text'}, ...].",
      ),
    ],
    [
      { kind: "ground", phrase: "a cat" },
      text('Locate every instance that belongs to the following categories: "a cat". Report bbox coordinates in JSON format.'),
    ],
  ],
};

for (const [family, tasks] of Object.entries(TASKS)) {
  test(`prompts of tasks: ${family}`, () => {
    for (const [task, expected] of tasks) {
      const prompt = typeof expected === "string" ? { kind: "raw", text: `<img>picture</img>${expected}` } : expected;
      assert.deepEqual(taskPrompt(task, family), prompt, task.kind);
    }
  });
}

test("texts of tasks for a chat that has the picture", () => {
  assert.equal(captionText({ lang: "zh" }), "Describe the image in Chinese:");
  assert.equal(captionText({}, "qwen3_vl"), "Describe this image in English.");
  assert.equal(readText("qwen2_vl"), "Read all the text in the image.");
  assert.equal(groundText("a cat", "qwen2_vl"), "Find a cat");
  assert.throws(() => captionText({}, "llava"), { code: "INVALID_ARGUMENT", message: /`family` is "llava", expected "qwen_vl" or/ });
});

test("a model reports its generation and the sizes of its pictures", async () => {
  const { model } = await load("qwen3_vl", [64, 1280]);
  assert.deepEqual([model.info.family, model.info.pictureTokens], ["qwen3_vl", { min: 64, max: 1280 }]);
});

test("limits of pictures and what is done about loops reach the engine", async () => {
  const { edge, model } = await load("qwen3_vl");
  const session = model.createSession({ minPictureTokens: 16, maxPictureTokens: 512 });
  await session.ask("A", { presencePenalty: 1.5, allowLoops: true });
  await session.ask("B", { maxPictureTokens: 256 });
  await model.complete("C");
  const asked = edge.asked.map(({ pictures, generation }) => [pictures, generation.presence_penalty, generation.allow_loops]);
  assert.deepEqual(asked, [
    [{ min_tokens: 16, max_tokens: 512 }, 1.5, true],
    [{ min_tokens: 16, max_tokens: 256 }, undefined, undefined],
    [{}, undefined, undefined],
  ]);
  const { minPictureTokens, maxPictureTokens } = JSON.parse(JSON.stringify(session));
  assert.deepEqual([minPictureTokens, maxPictureTokens], [16, 512]);
});

test("tasks that locate things ask for 1024 tokens where the load allows them", async () => {
  for (const [family, most, options, expected] of [
    ["qwen3_vl", 1280, {}, { min_tokens: 1024 }],
    ["qwen2_vl", 300, {}, { min_tokens: 300 }],
    ["qwen3_vl", 1280, { maxPictureTokens: 512 }, { min_tokens: 512, max_tokens: 512 }],
    ["qwen3_vl", 1280, { minPictureTokens: 8 }, { min_tokens: 8 }],
    ["qwen_vl", 256, {}, {}],
  ]) {
    const { edge, model } = await load(family, [4, most]);
    await model.ground(picture(), "a cat", options);
    assert.deepEqual(edge.asked[0].pictures, expected, JSON.stringify([family, most, options]));
    await model.vqa(picture(), "Why?");
    assert.deepEqual(edge.asked[1].pictures, {});
  }
});

test("a kept picture is sent by its id only for the limits that it was encoded with", async () => {
  const { edge, model } = await load("qwen2_vl");
  const session = model.createSession();
  await session.ask([{ image: picture() }, "A"]);
  await session.ask("B");
  await session.ask("C", { maxPictureTokens: 64 });
  await session.ask("D", { maxPictureTokens: 64 });
  await session.ask("E");
  assert.deepEqual(edge.pushed, ["encoded", "kept", "encoded", "kept", "encoded"]);
});

test("a reference is encoded with its limits", async () => {
  const { edge, model } = await load("qwen2_vl");
  const reference = await model.encodeImage(picture(), { minPictureTokens: 9 });
  assert.deepEqual([edge.limits, reference.tokens, reference.seen], [[{ min_tokens: 9 }], 256, [448, 448]]);
  await model.createSession({ minPictureTokens: 9 }).ask([{ image: reference }, "A"]);
  assert.deepEqual(edge.pushed, ["encoded", "kept"]);
});

test("prompt and pictures are counted; pictures of one size need not be there", async () => {
  for (const [family, counted] of [
    ["qwen_vl", 1],
    ["qwen3_vl", 3],
  ]) {
    const { model } = await load(family);
    assert.equal(await model.createSession().countTokens([{ image: picture() }, "A", { image: picture() }]), counted);
  }
  const { model } = await load("qwen3_vl");
  await assert.rejects(model.createSession().countTokens("A", { maxPictureTokens: 0 }), { code: "INVALID_ARGUMENT" });
});

test("image tokens are those of the pictures in the prompt", async () => {
  const { model } = await load("qwen3_vl");
  const { usage } = await model.createSession().ask([{ image: picture() }, { image: picture() }, "A"]);
  assert.equal(usage.imageTokens, 512);
});

test("stored answers of Qwen2-VL are parsed", () => {
  const raw = "It is <|object_ref_start|>a cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>.";
  const { text, objects } = parse(raw, [{ width: 1000, height: 100 }]);
  assert.equal(text, "It is a cat.");
  assert.deepEqual(objects, [
    { kind: "box", norm: [100, 200, 300, 400], pixels: [100, 20, 300, 40], ref: "a cat", image: 0, range: [6, 11] },
  ]);
});
