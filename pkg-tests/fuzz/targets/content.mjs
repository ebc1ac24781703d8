// Parts of questions, and options of runs, pictures and videos: `web/ts/api/content.ts`, `options.ts`, `video.ts`, `model.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { Question } from "../../../web/dist/api/content.js";
import { nearly } from "../inputs.mjs";
import { outcome, settled } from "../outcome.mjs";
import { modelOf, withPictures } from "../worker.mjs";

const GIF = new Blob(["GIF8"], { type: "image/gif" });
const FILM = [
  { image: GIF, time: 0 },
  { image: "data:,BMx", time: 0.5 },
];
const CONTENTS = [
  "What is it?",
  [{ image: GIF, imageOrientation: "none", imageColors: "original" }, "A", { ref: "it", boxes: [[1.5, 2.4, 30.6, 1e3]] }, { text: "B" }],
  [
    { image: "https://example.org/a.gif" },
    { ref: "it", boxes: [[1, 2, 30, 40]], unit: "pixels" },
    { video: FILM, fps: 1, maxFrames: 4, minStepTokens: 4, maxTokens: 100 },
    { ref: "that", unit: "pixels" },
  ],
  [{ video: "https://example.org/a.webm", frames: 2 }, "A"],
  [{ video: "https://example.org/a.webm", frames: 2 ** 32 - 1 }],
];
const OPTIONS = [
  { maxTokens: 10, minTokens: 1, temperature: 0.5, topP: 0.9, topK: 3, repetitionPenalty: 1, presencePenalty: 0, seed: 7 },
  { greedy: true, stop: "a", stopTokens: [1, 2], logprobs: true, kvReuse: "exact", allowLoops: false, prefix: "It", queue: true },
  { stop: ["a", "b"], logprobs: 2, minPictureTokens: 4, maxPictureTokens: 16, imageOrientation: "none", imageColors: "original" },
  { fps: 2, maxFrames: 4, minStepTokens: 4, maxTokens: 100, normalize: "sum", unit: "pixels", lang: "zh", grounded: true },
  // The worker of constraints is another one, so that these are refused or not used.
  { constraint: { jsonSchema: { type: "object" }, regex: "a" }, signal: {} },
];
const CALLS = [
  { picture: GIF, text: "A", list: ["A", "B"], box: [1, 2, 3, 4], video: FILM },
  { picture: "data:image/png,%89PNG", text: "", list: "A", box: [0, 0, 1e3, 1e3], video: [FILM[0]] },
  { picture: new Uint8Array(3), text: "<img>a</img>", list: [], box: [-1, 0.5, 9e9, 1], video: { prompt: "A", images: [GIF] } },
];

export const seeds = CONTENTS.length + OPTIONS.length + CALLS.length;
// Often without a change: a refusal of one hides the others.
const oneOf = (list) => fc.oneof(fc.constantFrom(...list), nearly(list));
export const input = fc.record({
  family: fc.constantFrom("qwen_vl", "qwen2_5_vl"),
  content: oneOf(CONTENTS),
  options: oneOf(OPTIONS),
  call: oneOf(CALLS),
  method: fc.constantFrom(
    "complete",
    "caption",
    "vqa",
    "read",
    "describeRegion",
    "ground",
    "score",
    "encodeImage",
    "encodeVideo",
    "countTokens",
  ),
});

/** Calls are answered, or refused as wrong arguments. The worker gets questions and options of the right types alone. */
export function check({ family, content, options, call, method }) {
  return withPictures(async () => {
    const { model, worker } = modelOf(family);
    const ends = [await question(content, model.imageView)];
    ends.push(await settled(() => model.createSession().ask("A", withoutConstraint(options))));
    ends.push(`${method} ${await settled(() => task(model, method, Object(call), withoutConstraint(options), content))}`);
    for (const { request } of worker.asked) generation(request.generation);
    return ends.join(", ");
  });
}

/** Leaves out a constraint that a worker would compile. */
function withoutConstraint(options) {
  const { constraint } = Object(options);
  const isForm = typeof constraint === "object" && constraint !== null;
  const forms = isForm ? ["jsonSchema", "regex", "lark"].filter((key) => constraint[key] !== undefined) : [];
  return forms.length === 1 ? { ...options, constraint: undefined } : options;
}

function task(model, method, { picture, text, list, box, video }, options, content) {
  switch (method) {
    case "complete":
      return model.complete(text, list, options);
    case "vqa":
      return model.vqa(picture, text, options);
    case "describeRegion":
      return model.describeRegion(picture, box, options);
    case "ground":
      return model.ground(picture, list, options);
    case "score":
      return model.score(Array.isArray(video) ? content : video, list, options);
    case "encodeVideo":
      return model.encodeVideo(video, options);
    case "countTokens":
      return model.createSession().countTokens(content, options);
    default:
      return model[method](picture, options);
  }
}

/** A question has the parts that it was made of, in order, and so has a question that is made of what it saves. */
async function question(content, view) {
  let made;
  const end = outcome(() => (made = new Question(content, view)));
  if (!made) return end;
  const { pictures } = made;
  const read = await settled(() => Promise.all(pictures.map((picture) => picture.payload(true, {}))));
  assert.ok(made.picturesWithPixelBoxes([]).every((picture) => pictures.includes(picture)));
  for (const picture of pictures) picture.encoded({ id: "", width: 640, height: 480, seen: [448, 448], tokens: 256 }, {});
  let parts;
  const written = outcome(() => (parts = made.parts([])));
  if (!parts) return `${end}, ${read}, ${written}`;
  sound(parts, content, pictures.length);
  if (read !== "ok") return `${end}, ${read}`;
  const data = JSON.parse(JSON.stringify(made));
  const other = { imageOrientation: "none", imageColors: "original", videos: view.videos };
  const again = new Question(data, other);
  const payloads = (question) => Promise.all(question.pictures.map((picture) => picture.payload(true, {})));
  assert.deepEqual(await payloads(again), await payloads(made), "a picture is another one when it was saved");
  for (const picture of again.pictures) picture.encoded({ id: "", width: 640, height: 480, seen: [448, 448], tokens: 256 }, {});
  assert.deepEqual(again.parts([]), parts);
  assert.deepEqual(JSON.parse(JSON.stringify(again)), data);
  return `${end}, ${read}`;
}

/** Texts are those of the caller, pictures are numbered in order, and boxes are whole numbers. */
function sound(parts, content, pictures) {
  const given = typeof content === "string" ? [content] : content;
  const text = given.map((part) => (typeof part === "string" ? part : "text" in part ? part.text : "")).join("");
  assert.equal(parts.map((part) => part.text ?? "").join(""), text);
  const named = parts.flatMap(({ image, video }) => image ?? video ?? []);
  assert.deepEqual(
    named,
    Array.from({ length: pictures }, (_, index) => `picture-${index + 1}`),
  );
  for (const part of parts) {
    const keys = Object.keys(part).sort().join();
    assert.ok(["text", "image", "video", "boxes,ref"].includes(keys), keys);
    for (const box of part.boxes ?? []) assert.ok(box.length === 4 && box.every(Number.isInteger), JSON.stringify(part));
  }
}

const isSize = (value) => Number.isSafeInteger(value) && value >= 0 && value < 2 ** 32;
const isFlag = (value) => typeof value === "boolean";
const isList = (isItem) => (value) => Array.isArray(value) && value.every(isItem);
/** Types of the engine: `GenerationOptions` in `generated.ts`. */
const ENGINE = {
  max_new_tokens: isSize,
  min_new_tokens: isSize,
  greedy: isFlag,
  temperature: Number.isFinite,
  top_p: Number.isFinite,
  top_k: isSize,
  repetition_penalty: Number.isFinite,
  presence_penalty: Number.isFinite,
  allow_loops: isFlag,
  seed: (value) => Number.isSafeInteger(value) && value >= 0,
  stop: isList((text) => typeof text === "string"),
  stop_tokens: isList(isSize),
  logprobs: isSize,
  kv_reuse: (value) => value === "exact" || value === "fast",
};

function generation(options) {
  for (const [key, value] of Object.entries(options)) {
    assert.ok(Object.hasOwn(ENGINE, key) && ENGINE[key](value), `the engine gets ${key}: ${JSON.stringify(value)}`);
  }
}
