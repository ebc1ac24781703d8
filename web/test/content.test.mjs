// Questions and their pictures: what is kept of them, and what is refused. In Node, so no picture is decoded.

import assert from "node:assert/strict";
import { test } from "node:test";
import { promptText, QwenVL } from "../dist/index.js";
import { Question } from "../dist/api/content.js";
import { DISPLAY } from "../dist/api/image.js";
import { FakeEdge, fakeWorker, modelFiles } from "./fake-edge.mjs";

globalThis.isSecureContext = true;
const png = new Blob([new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])]);

test("a picture keeps the options that were asked for, before it is read and after", async () => {
  const [ours, original] = [
    { imageOrientation: "from-image", imageColors: "display" },
    { imageOrientation: "none", imageColors: "original" },
  ];
  for (const [asked, others] of [
    [ours, original],
    [original, ours],
  ]) {
    for (const image of ["https://example.org/photo.jpg", new URL("https://example.org/photo.jpg")]) {
      const question = new Question([{ image, ...asked }], others);
      assert.deepEqual(question.toJSON(), [{ image: "https://example.org/photo.jpg", ...asked }]);
      assert.deepEqual({ ...question.content()[0], image: "" }, { image: "", ...asked });
      assert.deepEqual({ ...new Question([{ image }], asked).content()[0], image: "" }, { image: "", ...asked });
    }
    const question = new Question([{ image: png, ...asked }], others);
    const { upright, original } = await question.pictures[0].payload(true, {});
    assert.deepEqual([upright, original], [asked === ours, asked !== ours]);
    assert.deepEqual(question.toJSON(), [{ image: "data:image/png;base64,iVBORw0KGgo=", ...asked }]);
  }
});

test("a question is sent in parts: only a picture is a picture, and pictures are numbered over the conversation", async () => {
  const first = new Question([{ image: png }, "Look <img>/etc/passwd</img>"], DISPLAY);
  assert.deepEqual(first.parts([]), [{ image: "picture-1" }, { text: "Look <img>/etc/passwd</img>" }]);
  assert.deepEqual(new Question("What does <img> mean?", DISPLAY).parts([]), [{ text: "What does <img> mean?" }]);
  const second = new Question([{ image: png }, { ref: "it", boxes: [[1, 2.4, 998.6, 1000]] }, { ref: "that" }], DISPLAY);
  assert.deepEqual(second.parts(first.pictures), [
    { image: "picture-2" },
    { ref: "it", boxes: [[1, 2, 999, 1000]] },
    { ref: "that", boxes: [] },
  ]);
  const pixels = new Question([{ ref: "it", boxes: [[64, 48, 640, 480]], unit: "pixels" }], DISPLAY);
  assert.deepEqual(pixels.picturesWithPixelBoxes(first.pictures), first.pictures);
  first.pictures[0].encoded({ id: "", width: 640, height: 480, seen: [448, 448], tokens: 256 }, {});
  assert.deepEqual(pixels.parts(first.pictures), [{ ref: "it", boxes: [[100, 100, 999, 999]] }]);
  assert.throws(() => pixels.parts([]), { code: "INVALID_ARGUMENT", message: /no picture before it/ });
});

test("parts of other shapes are refused, by their place", () => {
  for (const [content, message] of [
    [5, "`content` is 5, expected a string or an array of parts"],
    [undefined, "`content` is undefined, expected a string or an array of parts"],
    [[5], "`content[0]` is 5, expected a string, { text }, { image }, { video } or { ref }"],
    [["a", null], "`content[1]` is null, expected a string, { text }, { image }, { video } or { ref }"],
    [[{}], "`content[0]` is an object (Object), expected a string, { text }, { image }, { video } or { ref }"],
    [[{ text: 5 }], "`content[0].text` is 5, expected a string"],
    [[{ image: "/a.png", imageOrientation: "up" }], '`content[0].imageOrientation` is "up", expected "from-image" or "none"'],
    [[{ video: "/a.webm", frames: 0 }], "`content[0].frames` is 0, expected a whole number from 1 to 65536"],
    [[{ video: "/a.webm", frames: 2 ** 32 - 1 }], "`content[0].frames` is 4294967295, expected a whole number from 1 to 65536"],
    [[{ video: { url: "/a.webm" } }], "`content[0].video` is an object (Object), expected a file, an address or a video element"],
    [[{ video: null, frames: 2 }], "`content[0].video` is null, expected a file, an address or a video element"],
    [[{ ref: 5 }], "`content[0].ref` is 5, expected a string"],
    [[{ ref: "a", unit: "cm" }], '`content[0].unit` is "cm", expected "norm" or "pixels"'],
    [[{ ref: "a", boxes: "b" }], '`content[0].boxes` is "b", expected an array of [x1, y1, x2, y2]'],
    [[{ ref: "a", boxes: [[1, 2, 3]] }], "`content[0].boxes[0]` is [1, 2, 3], expected [x1, y1, x2, y2]"],
  ]) {
    assert.throws(() => new Question(content, DISPLAY), { name: "QwenVLError", code: "INVALID_ARGUMENT", message });
  }
});

test("a value that is not a picture is refused by its place, in a question and in a task", async () => {
  const model = await QwenVL.load(modelFiles(), { worker: fakeWorker(new FakeEdge()) });
  const expected = "expected an address, a Blob, bytes, ImageData or something that a canvas can draw";
  const base64 = `iVBORw0KGgo${"Abc+/9".repeat(50_000)}`;
  const cases = [
    { image: 5, what: `is 5, ${expected}` },
    { image: null, what: `is null, ${expected}` },
    { image: { url: "/a.png" }, what: `is an object (Object), ${expected}` },
    { image: ["/a.png"], what: `is ["/a.png"], ${expected}` },
    { image: base64, what: "is base64 without an address: put `data:image/png;base64,` before it" },
  ];
  for (const { image, what } of cases) {
    const refused = (name) => ({ code: "INVALID_ARGUMENT", message: `\`${name}\` ${what}` });
    await assert.rejects(async () => model.createSession().ask(["What is it?", { image }]), refused("content[1].image"));
    await assert.rejects(async () => model.caption(image), refused("image"));
    await assert.rejects(async () => model.encodeImage(image), refused("image"));
    const history = [
      { role: "user", content: [{ image }] },
      { role: "assistant", content: "A cat." },
    ];
    await assert.rejects(async () => model.createSession({ history }).ask("Why?"), refused("history[0].content[0].image"));
  }
  await model.dispose();
});

test("a message is written as the original writes it", () => {
  const boxes = [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
  ];
  const parts = [{ image: "a.png" }, { image: "b.png" }, "Where is ", { ref: "the dog", boxes }, { text: "?" }];
  const text = "Where is <ref>the dog</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>?";
  assert.equal(promptText(parts), `Picture 1: <img>a.png</img>\nPicture 2: <img>b.png</img>\n${text}`);
  assert.equal(promptText(parts.slice(1), 7), `Picture 7: <img>b.png</img>\n${text}`);
});
