// The package on a server, where pages are rendered: importing it must do nothing and need nothing.

import assert from "node:assert/strict";
import { test } from "node:test";
import { drawBoxes, parse, QwenVL, QwenVLError, sampleFrames } from "qwen-vl-web";
import { createOpenAI } from "qwen-vl-web/openai";

test("the package can be imported without a browser", () => {
  assert.equal(typeof QwenVL.load, "function");
  assert.equal(typeof drawBoxes, "function");
  const { text, objects } = parse("<ref>a dog</ref><box>(1,2),(3,4)</box> runs");
  assert.deepEqual([text, objects], ["a dog runs", [{ kind: "box", norm: [1, 2, 3, 4], ref: "a dog", range: [0, 5] }]]);
});

test("what needs a page says so", async () => {
  assert.equal(typeof createOpenAI, "function");
  await assert.rejects(sampleFrames("/video.webm"), { code: "IMAGE_DECODE" });
});

test("an error survives the worker border with its code", () => {
  const error = QwenVLError.fromData(structuredClone({ code: "DOWNLOAD", message: "no", details: { status: 503 } }));
  assert.ok(error instanceof QwenVLError && error instanceof Error);
  assert.deepEqual([error.code, error.retryable, error.details.status], ["DOWNLOAD", true, 503]);
  assert.ok(error.hint.length > 0);
});

test("what cannot be loaded is refused before anything starts", async () => {
  await assert.rejects(QwenVL.load("http://["), { name: "QwenVLError", code: "INVALID_ARGUMENT" });
  await assert.rejects(QwenVL.load("https://example.org/model/"), { name: "QwenVLError", code: "WEBGPU_UNAVAILABLE" });
});
