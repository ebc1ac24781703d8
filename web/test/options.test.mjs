// Every option is checked where it enters.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { QwenVL } from "../dist/index.js";
import { FakeEdge, fakeWorker, modelFiles } from "./fake-edge.mjs";

let model;
before(async () => {
  globalThis.isSecureContext = true;
  model = await QwenVL.load(modelFiles(), { worker: fakeWorker(new FakeEdge()) });
});

/** Values that no whole number, no boolean and no text of a list is. */
const WHOLE = [-1, 1.5, NaN, Infinity, "1", null, 2 ** 53];

/** Fails unless `call` rejects, or throws, with an error that names the argument and its value. */
async function refuses(name, value, call) {
  await assert.rejects(
    async () => call(),
    ({ code, message, details }) => {
      assert.equal(code, "INVALID_ARGUMENT", `${name}: ${message}`);
      assert.equal(details.argument, name);
      assert.ok(message.startsWith(`\`${name}\` is `) && message.includes(", expected "), message);
      return true;
    },
    `${name}: ${String(value)}`,
  );
}

const LOAD = {
  contextLength: [0, ...WHOLE],
  maxPictureTokens: [0, ...WHOLE],
  keptImages: WHOLE,
  concurrency: [0, ...WHOLE],
  retries: [-1, NaN, "5"],
  seed: WHOLE,
  kv: [16],
  precision: [true],
  backend: ["gpu"],
  worker: ["worker.js", 1, null],
  powerPreference: ["low"],
  forceFallbackAdapter: [1],
  imageOrientation: ["up"],
  imageColors: ["gray", true],
  selfCheck: ["no"],
  persist: [0],
  whenBusy: ["never"],
  onProgress: [{}],
  signal: [new AbortController()],
  wasmUrl: [1],
};

const ASK = {
  maxTokens: [0, ...WHOLE],
  minTokens: WHOLE,
  greedy: ["yes"],
  temperature: [NaN, "0.5", Infinity],
  topP: [NaN, "1"],
  topK: WHOLE,
  repetitionPenalty: [null],
  presencePenalty: [null, NaN, "1"],
  allowLoops: [1, null],
  minPictureTokens: [0, ...WHOLE],
  maxPictureTokens: [0, ...WHOLE],
  seed: WHOLE,
  stop: [3, [3]],
  stopTokens: [3, ["a"], [1.5], [-1]],
  logprobs: [-1, "2"],
  kvReuse: ["slow"],
  signal: ["stop"],
  queue: [0],
};

for (const [name, values] of Object.entries(LOAD)) {
  test(`load: ${name}`, async () => {
    for (const value of values) await refuses(name, value, () => QwenVL.load(modelFiles(), { [name]: value }));
  });
}

for (const [name, values] of Object.entries(ASK)) {
  test(`ask and tasks: ${name}`, async () => {
    const chat = model.createSession();
    for (const value of values) {
      const options = { [name]: value };
      await refuses(name, value, () => chat.ask("A", options));
      await refuses(name, value, () => chat.regenerate(options));
      await refuses(name, value, () => model.complete("A", [], options));
      if (name !== "signal" && name !== "queue") await refuses(name, value, () => model.createSession({ generation: options }));
    }
    // After all these the session still answers.
    assert.equal((await chat.ask("B")).raw, "answer to B");
  });
}

test("sessions", async () => {
  await refuses("system", 3, () => model.createSession({ system: 3 }));
  await refuses("history", {}, () => model.createSession({ history: {} }));
  await refuses("onContextOverflow", "drop", () => model.createSession({ onContextOverflow: "drop" }));
  await refuses("turns", -1, () => model.createSession().undo(-1));
  await refuses("turns", NaN, () => model.createSession().undo(NaN));
  const history = [
    { role: "user", content: "A" },
    { role: "assistant", content: 5 },
  ];
  await refuses("history[1].content", 5, () => model.createSession({ history }));
});

test("tasks, scores and measurements", async () => {
  const picture = new Uint8Array(4);
  await refuses("images", "a.png", () => model.complete("A", "a.png"));
  await refuses("lang", "fr", () => model.caption(picture, { lang: "fr" }));
  await refuses("grounded", 1, () => model.caption(picture, { grounded: 1 }));
  await refuses("question", 7, () => model.vqa(picture, 7));
  await refuses("phrases", [1], () => model.ground(picture, [1]));
  await refuses("box", [1, 2, 3], () => model.describeRegion(picture, [1, 2, 3]));
  await refuses("box", [1, 2, 3, NaN], () => model.describeRegion(picture, [1, 2, 3, NaN]));
  await refuses("unit", "mm", () => model.describeRegion(picture, [1, 2, 3, 4], { unit: "mm" }));
  await refuses("candidates", "A", () => model.score("A", "A"));
  await refuses("normalize", "max", () => model.score("A", ["A"], { normalize: "max" }));
  await refuses("text", 4, () => model.countTokens(4));
  for (const runs of [0, ...WHOLE]) await refuses("runs", runs, () => model.benchmark({ runs }));
  await refuses("contexts", [0], () => model.benchmark({ contexts: [0] }));
  await refuses("bandwidth", 0, () => model.benchmark({ bandwidth: 0 }));
});

test("options that are not an object, and scores without a question, are refused", async () => {
  const picture = new Uint8Array(4);
  const chat = model.createSession();
  for (const value of [null, "fast", 5]) {
    await refuses("options", value, () => chat.ask("A", value));
    await refuses("options", value, () => chat.regenerate(value));
    await refuses("options", value, () => model.createSession(value));
    await refuses("options", value, () => model.complete("A", [picture], value));
    await refuses("options", value, () => model.complete("A", [], value));
    await refuses("options", value, () => model.caption(picture, value));
    await refuses("options", value, () => model.vqa(picture, "A", value));
    await refuses("options", value, () => model.describeRegion(picture, [1, 2, 3, 4], value));
    await refuses("options", value, () => model.encodeImage(picture, value));
    await refuses("options", value, () => model.score("A", ["A"], value));
  }
  await refuses("content", null, () => model.score(null, ["A"]));
  await refuses("images", "a.png", () => model.score({ prompt: "A", images: "a.png" }, ["A"]));
});

test("a long value is cut short in the message", async () => {
  const call = async () => model.complete("A", [], { kvReuse: "x".repeat(1e6) });
  await assert.rejects(call, ({ message }) => message.length < 300);
});
