import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { recordFilm } from "../film.mjs";

/** Largest difference of logits: long prompts add up more roundings. */
const logitsBound = (tokens) => (tokens <= 350 ? 3e-4 : 2e-3);

/** The kernels that compile fastest, and no self-check: the native tests run all kernel sets. */
const LOAD = { kernels: "cpu", selfCheck: false };

/** Cases for browsers, whose software adapters are slow: history, Chinese, two pictures, a video. */
const IN_BROWSERS = ["multi_turn", "picture_and_video"];
/** The model of the tests of all kinds of videos, which are the same for all. */
const OF_VIDEOS = "q3-a";
/** The model of the generation that has a presence penalty by default. */
const OF_PENALTIES = "q3-a";
/**
 * Pixels of the box in the answers of `scripted-q2` …, whose text is in crates/testkit/examples/test_checkpoints/scripted.rs, on a picture of
 * 640×480. Qwen2.5-VL counts pixels of the 644×476 that it sees, and its box ends below them.
 */
const BOXES = { "q2-a": [7, 16, 362, 427], "q25-a": [12, 4, 563, 480], "q3-a": [8, 1, 362, 427] };

/** Reads the cases of a golden model, with the logits of the last step where they are here. */
async function cases(set) {
  const folder = join(set.root, "golden", set.name);
  const files = (await readdir(folder)).filter((file) => file.endsWith(".json")).sort();
  return Promise.all(
    files.map(async (file) => {
      const golden = JSON.parse(await readFile(join(folder, file), "utf8"));
      const tensors = await readFile(join(folder, file.replace(/json$/, "safetensors"))).catch(() => undefined);
      return { ...golden, case: file.replace(/\.json$/, ""), lastLogits: tensors && lastRow(tensors, "decode_logits_step_1_2_last") };
    }),
  );
}

/** Returns the last row of an f32 tensor of a safetensors file. */
function lastRow(file, name) {
  const headerBytes = Number(file.readBigUInt64LE(0));
  const { dtype, shape, data_offsets } = JSON.parse(file.subarray(8, 8 + headerBytes))[name];
  assert.equal(dtype, "F32");
  const end = 8 + headerBytes + data_offsets[1];
  const bytes = file.subarray(end - 4 * shape.at(-1), end);
  return [...new Float32Array(Uint8Array.from(bytes).buffer)];
}

/** Translates messages of `transformers` into a session and its question. */
function conversation(set, messages) {
  const content = (parts) => {
    if (typeof parts === "string") return [parts];
    const place = (file) => `/golden/${set.name}/${file}`;
    return parts.map((part) => {
      if (part.type === "image") return { image: place(part.image) };
      if (part.type !== "video") return part.text;
      // Without a minimum frames keep their size, as in the golden data.
      return { video: part.video.map((frame, index) => ({ image: place(frame), time: index / part.fps })), minStepTokens: 1 };
    });
  };
  const written = messages.map(({ role, content: parts }) => ({ role, content: content(parts) }));
  const system = written[0].role === "system" ? written.shift().content.join("") : undefined;
  const question = written.pop().content;
  const history = written.map(({ role, content }) => (role === "user" ? { role, content } : { role, content: content.join("") }));
  return { session: { ...(system === undefined ? {} : { system }), history }, question };
}

/** Runs in the page: asks the question of a case and encodes its pictures. */
async function askInPage({ session, question }, limits, steps) {
  const { lastLogits } = await import("qwen-vl-web/testing");
  const original = { imageOrientation: "none", imageColors: "original", ...limits };
  const chat = window.model.createSession({ ...session, ...original });
  const counted = await chat.countTokens(question);
  // The checkpoint of Qwen2.5-VL has a repetition penalty, the golden answers have none.
  const options = { greedy: true, maxTokens: steps, ignoreStop: true, repetitionPenalty: 1 };
  const { tokens, usage } = await chat.ask(question, options);
  const logits = [...(await lastLogits(window.model))];
  const pictures = [...session.history.filter(({ role }) => role === "user").flatMap(({ content }) => content), ...question];
  const seen = [];
  for (const { image } of pictures.filter((part) => part.image)) {
    const reference = await window.model.encodeImage(image, original);
    seen.push([reference.seen, reference.tokens]);
    reference.dispose();
  }
  return { tokens, usage, counted, logits, seen };
}

/** Qwen2-VL, Qwen2.5-VL and Qwen3-VL against the original code: from messages and pictures to tokens. */
export async function familyTests(bed) {
  assert.equal(bed.families.length, 3, "a golden model of each later generation");
  for (const set of bed.families) {
    const processor = JSON.parse(await readFile(join(set.root, "checkpoints", set.name, "preprocessor_config.json"), "utf8"));
    const patch = processor.patch_size;
    const all = await cases(set);
    const longest = Math.max(...all.map((golden) => golden.input_ids.length + golden.decode.tokens.length + 1));
    const model = { url: `/checkpoints/${set.name}-f32/`, load: { ...bed.loadOptions, ...LOAD, contextLength: longest } };
    const chosen = bed.name === "dawn" ? all : all.filter((golden) => IN_BROWSERS.includes(golden.case));
    assert.ok(chosen.length >= IN_BROWSERS.length, `${set.name} has no cases`);
    for (const golden of chosen) {
      bed.modelTest(model, `goldens, ${set.name}: the tokens of ${golden.case}`, async (page) => {
        const { shortest_edge: least, longest_edge: most } = golden.image_size_limits ?? {};
        const tokens = (pixels) => pixels / (2 * patch) ** 2;
        const limits = least === undefined ? {} : { minPictureTokens: tokens(least), maxPictureTokens: tokens(most) };
        const steps = golden.decode.tokens.length;
        const found = await page.evaluate(askInPage, conversation(set, golden.messages), limits, steps);
        const grids = golden.image_grid_thw ?? [];
        const seen = grids.map(([, rows, columns]) => [[columns * patch, rows * patch], (rows * columns) / 4]);
        assert.deepEqual(found.seen, seen, "sizes of the pictures");
        assert.equal(found.counted, golden.input_ids.length, "counted tokens");
        assert.equal(found.usage.promptTokens, golden.input_ids.length, "prompt tokens");
        const tokensOf = ([steps, rows, columns]) => (steps * rows * columns) / 4;
        const tokensOfAll = [...grids, ...(golden.video_grid_thw ?? [])].reduce((sum, thw) => sum + tokensOf(thw), 0);
        assert.equal(found.usage.imageTokens, tokensOfAll);
        assert.deepEqual(found.tokens, golden.decode.tokens);
        if (!golden.lastLogits) return;
        const worst = Math.max(...golden.lastLogits.map((logit, at) => Math.abs(logit - found.logits[at])));
        console.log(`${bed.name}, ${set.name}/${golden.case}: last logits off by ${worst.toExponential(1)}`);
        assert.ok(worst <= logitsBound(golden.input_ids.length), `logits off by ${worst}`);
      });
    }
    if (set.name === OF_VIDEOS && bed.name !== "dawn")
      bed.modelTest(model, `${set.name}: videos`, async (page) => {
        await recordFilm(page, 96, 64);
        const { tokens, kept, list, stream, frames, late, stored, errors } = await page.evaluate(videosInPage);
        // A recorder on a busy machine leaves frames out, so that the length of the film is known only roughly.
        assert.ok(tokens.file > 0 && tokens.file <= 200, JSON.stringify(tokens));
        assert.equal(tokens.element, tokens.file, "an element is read like its file");
        assert.deepEqual(kept, { imageTokens: tokens.file, encodes: 0 }, "a reference needs no encoding");
        assert.ok(tokens.few < tokens.file, JSON.stringify(tokens));
        assert.deepEqual(list, stored, "a list of frames survives JSON");
        assert.equal(stream.half, stream.list, "a stream at half of its rate has half of its frames");
        assert.ok(frames > 0 && late < 0, `frames as pictures: ${frames} tokens, ${late} refusals left`);
        assert.match(errors[0], /`content\[0\]\.video\[1\]` is 64×64, and the first is 96×64/);
        assert.match(errors[1], /`content\[0\]\.video` is an empty array/);
        assert.match(errors[2], /`fps` is 0, expected a number above 0/);
        assert.match(errors[3], /the browser cannot play the video/);
      });
    const scripted = {
      url: `/checkpoints/scripted-${set.name.replace("-a", "")}/`,
      load: { ...bed.loadOptions, ...LOAD, contextLength: 600 },
    };
    if (bed.name !== "dawn")
      bed.modelTest(scripted, `${set.name}: boxes are drawn where they belong`, async (page) => {
        const { text, object, edges, inside } = await page.evaluate(boxInPage);
        assert.match(text, /^This is a person\.$/);
        const { ref, kind, pixels } = object;
        assert.deepEqual([ref, kind, pixels], ["person", "box", BOXES[set.name]]);
        assert.deepEqual(edges, Array(3).fill("0,255,0,255"));
        assert.equal(inside, "0,0,0,255");
      });
    if (set.name === OF_PENALTIES)
      bed.modelTest(model, `${set.name}: a presence penalty on the GPU gives the tokens of one on the processor`, async (page) => {
        const { plain, onGpu, onProcessor } = await page.evaluate(penaltyInPage);
        assert.deepEqual(onGpu, onProcessor);
        assert.notDeepEqual(onGpu, plain, "the penalty changes this answer");
      });
    bed.modelTest(model, `${set.name}: two pictures, and tools through OpenAI's API`, async (page) => {
      const { plain, withTools, calls, refusal, two } = await page.evaluate(toolsInPage, `/golden/${set.name}/images/p_cell.png`);
      assert.ok(two.imageTokens > 0 && two.imageTokens % 2 === 0 && two.tokens === 3, JSON.stringify(two));
      if (set.name !== "q3-a") return assert.match(refusal, /the chat template of this model has no tools/);
      // The template describes the tool and the call before; random weights call nothing.
      assert.equal(refusal, undefined);
      assert.ok(withTools > plain + 50, `${withTools} tokens with tools, ${plain} without`);
      assert.equal(calls, undefined);
    });
    bed.modelTest(model, `${set.name}: boxes in JSON that is held to a schema are objects`, async (page) => {
      const { raw, objects, refusal } = await page.evaluate(heldBoxesInPage, `/golden/${set.name}/images/p_cell.png`);
      const [box, ...others] = JSON.parse(raw);
      assert.deepEqual([box.label, box.bbox_2d.length, others], ["cat", 4, []], raw);
      if (set.name === "q2-a") {
        assert.deepEqual(objects, [], "Qwen2-VL writes boxes as tags");
        assert.match(refusal, /INVALID_ARGUMENT: `strict` is true, but this generation writes boxes as tags/);
      } else {
        assert.deepEqual(
          objects.map(({ ref, kind }) => [ref, kind]),
          [["cat", "box"]],
        );
        assert.equal(refusal, undefined);
      }
    });
    bed.modelTest(model, `${set.name}: limits of pictures`, async (page) => {
      const { family, limits, errors, kept } = await page.evaluate(limitsInPage, `/golden/${set.name}/images/p_cell.png`);
      assert.equal(family, { "q2-a": "qwen2_vl", "q25-a": "qwen2_5_vl", "q3-a": "qwen3_vl" }[set.name]);
      assert.ok(limits.range.min < limits.range.max && limits.range.max === 1280, JSON.stringify(limits));
      assert.ok(limits.many >= 200 && limits.few <= 20 && limits.few < limits.plain && limits.plain < limits.many, JSON.stringify(limits));
      // The picture was kept in the last size only.
      assert.deepEqual(kept, [limits.many, limits.few, limits.few]);
      assert.match(errors[0], /^max picture tokens is 1281, expected at most 1280/);
      assert.match(errors[1], /300.*100|100.*300/);
    });
  }
}

/** Runs in the page: draws the box of an answer on a black picture. Returns the colours of its left, right and upper edge, and inside. */
async function boxInPage() {
  const { drawBoxes } = await import("qwen-vl-web");
  const black = new ImageData(640, 480);
  for (let alpha = 3; alpha < black.data.length; alpha += 4) black.data[alpha] = 255;
  const options = { greedy: true, repetitionPenalty: 1 };
  const { text, objects } = await window.model.createSession().ask([{ image: black }, "Who?\n"], options);
  const canvas = document.createElement("canvas");
  drawBoxes(canvas, await createImageBitmap(black), objects, { colors: ["#00ff00"], lineWidth: 5 });
  const at = (x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data.join();
  const [object] = objects;
  const [x1, y1, x2, y2] = object.pixels;
  const [x, y] = [Math.round((x1 + x2) / 2), Math.round((y1 + Math.min(y2, 479)) / 2)];
  return { text, object, edges: [at(x1, y), at(x2, y), at(x, y1)], inside: at(x, y) };
}

/** Runs in the page. A report of log-probabilities needs all logits, so that the penalty is subtracted on the processor. */
async function penaltyInPage() {
  const ask = async (options) => {
    const fixed = { greedy: true, ignoreStop: true, repetitionPenalty: 1, maxTokens: 30 };
    return (await window.model.createSession().ask("Count.", { ...fixed, ...options })).tokens;
  };
  return {
    plain: await ask({ presencePenalty: 0 }),
    onGpu: await ask({ presencePenalty: 2 }),
    onProcessor: await ask({ presencePenalty: 2, logprobs: 0 }),
  };
}

/** Runs in the page: random weights write what they must. */
async function heldBoxesInPage(url) {
  const side = { type: "integer", minimum: 0, maximum: 9 };
  const properties = { bbox_2d: { type: "array", items: side, minItems: 4, maxItems: 4 }, label: { enum: ["cat"] } };
  const item = { type: "object", properties, required: ["bbox_2d", "label"], additionalProperties: false };
  const jsonSchema = { type: "array", items: item, minItems: 1, maxItems: 1 };
  const options = { greedy: true, maxTokens: 200, allowLoops: true, constraint: { jsonSchema } };
  const { raw, objects } = await window.model.createSession().ask([{ image: url }, "Where is the cat?"], options);
  const strict = window.model.ground(url, "a cat", { strict: true, maxTokens: 12, maxPictureTokens: 64 });
  const refusal = await strict.then(
    () => undefined,
    (error) => `${error.code}: ${error.message}`,
  );
  return { raw, objects, refusal };
}

/** Runs in the page: asks about two pictures, and with a tool. */
async function toolsInPage(url) {
  const { createOpenAI } = await import("qwen-vl-web/openai");
  const options = { greedy: true, maxTokens: 3, ignoreStop: true };
  const { usage, tokens } = await window.model.createSession().ask([{ image: url }, { image: url }, "Are they alike?"], options);
  const { completions } = createOpenAI(window.model).chat;
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", description: "The weather of a city", parameters } }];
  const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city": "Basel"}' } };
  const question = { role: "user", content: "What is the weather?" };
  const called = [
    question,
    { role: "assistant", content: null, tool_calls: [call] },
    { role: "tool", tool_call_id: "call_1", content: "Rain" },
  ];
  const common = { max_tokens: 3, temperature: 0 };
  const plain = (await completions.create({ messages: [question], ...common })).usage.prompt_tokens;
  const asked = completions.create({ messages: called, tools, ...common });
  const answered = await asked.then(
    ({ usage, choices }) => ({ withTools: usage.prompt_tokens, calls: choices[0].message.tool_calls }),
    (error) => ({ refusal: error.message }),
  );
  return { plain, two: { imageTokens: usage.imageTokens, tokens: tokens.length }, ...answered };
}

/** Runs in the page: asks about videos of every kind. */
async function videosInPage() {
  const { model } = window;
  const file = window.film;
  const element = Object.assign(document.createElement("video"), { src: URL.createObjectURL(file), muted: true });

  const small = { minStepTokens: 1, maxTokens: 200 };
  const once = { greedy: true, maxTokens: 1 };
  const imageTokens = async (part) => (await model.createSession().ask([part, "What moves?"], once)).usage.imageTokens;
  const tokens = {
    file: await imageTokens({ video: file, ...small }),
    element: await imageTokens({ video: element, ...small }),
    few: await imageTokens({ video: file, ...small, maxFrames: 2 }),
  };
  const reference = await model.encodeVideo(file, small);
  let encodes = -1;
  const run = model.createSession().ask([{ video: reference }, "What moves?"], once);
  for await (const event of run) if (event.type === "encode") encodes += 1;
  const kept = { imageTokens: (await run).usage.imageTokens, encodes };
  reference.dispose();

  const still = (number, width = 96) => new ImageData(new Uint8ClampedArray(width * 64 * 4).fill(40 * number + 20), width, 64);
  const timed = [0, 1, 2, 3, 4].map((number) => ({ image: still(number), time: number / 2 }));
  const session = model.createSession();
  const answer = ({ tokens, usage }) => ({ tokens, imageTokens: usage.imageTokens });
  const options = { greedy: true, maxTokens: 4 };
  await session.ask([{ video: timed, ...small }, "What moves?"], { greedy: true, maxTokens: 2 });
  const copy = model.createSession(JSON.parse(JSON.stringify(session)));
  const [list, stored] = [answer(await session.ask("And then?", options)), answer(await copy.ask("And then?", options))];

  const moments = async function* (count, seconds) {
    for (let number = 0; number < count; number++) {
      yield new VideoFrame(await createImageBitmap(still(number % 5)), { timestamp: number * seconds * 1e6 });
    }
  };
  const stream = {
    half: await imageTokens({ video: moments(8, 0.25), ...small }),
    list: await imageTokens({ video: timed.slice(0, 4), ...small }),
  };
  // A player that has no frame at first, as on a busy machine.
  const { createImageBitmap: take } = window;
  let late = 3;
  window.createImageBitmap = (source, options) => {
    if (source instanceof HTMLVideoElement && late-- > 0) return Promise.reject(new DOMException("no frame", "InvalidStateError"));
    return take(source, options);
  };
  const frames = await imageTokens({ video: file, frames: 2 });
  window.createImageBitmap = take;
  const failure = (part) => imageTokens(part).then(String, (error) => error.message);
  const mixed = [timed[0], { image: still(1, 64), time: 1 }];
  const errors = [
    await failure({ video: mixed, ...small }),
    await failure({ video: [] }),
    await Promise.resolve()
      .then(() => imageTokens({ video: file, fps: 0 }))
      .then(String, (error) => error.message),
    await failure({ video: new Blob(["no video"]) }),
  ];
  URL.revokeObjectURL(element.src);
  return { tokens, kept, list, stored, stream, frames, late, errors };
}

/** Runs in the page. */
async function limitsInPage(url) {
  const { model } = window;
  const tokens = async (limits) => {
    const reference = await model.encodeImage(url, limits);
    reference.dispose();
    return reference.tokens;
  };
  const limits = {
    range: model.info.pictureTokens,
    plain: await tokens({}),
    few: await tokens({ minPictureTokens: 1, maxPictureTokens: 20 }),
    many: await tokens({ minPictureTokens: 200 }),
  };
  const picture = await (await fetch(url)).blob();
  const session = model.createSession({ minPictureTokens: 200 });
  const kept = [];
  const options = { greedy: true, maxTokens: 1 };
  const few = { minPictureTokens: 1, maxPictureTokens: 20 };
  kept.push((await session.ask([{ image: picture }, "A"], options)).usage.imageTokens);
  kept.push((await session.ask("B", { ...options, ...few })).usage.imageTokens);
  kept.push((await session.ask("C", { ...options, ...few })).usage.imageTokens);
  const failure = (limits) => model.encodeImage(url, limits).then(String, (error) => error.message);
  const errors = [await failure({ maxPictureTokens: 1281 }), await failure({ minPictureTokens: 300, maxPictureTokens: 100 })];
  return { family: model.info.family, limits, errors, kept };
}
