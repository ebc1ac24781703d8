import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { SMALL } from "./context.mjs";

/** The scripted model's answer to everything (crates/testkit/examples/test_checkpoints/scripted.rs). */
const SCRIPTED = { text: "This is a person.", raw: "This is a<ref> person</ref><box>(12,34), (567 ,890)</box>." };
const CAT = { url: "/golden/mini-a/images/photo_cat.png", width: 288, height: 256 };
const OBJECT = {
  ref: "person",
  kind: "box",
  image: 0,
  norm: [12, 34, 567, 890],
  pixels: [Math.floor(0.012 * CAT.width), Math.floor(0.034 * CAT.height), Math.floor(0.567 * CAT.width), Math.floor(0.89 * CAT.height)],
  range: [10, 16],
};

/** The browser's own report of a request that a test makes fail. */
const FAILED_REQUEST = /Failed to load resource|NetworkError|Cross-Origin Request|CORS policy/;

/** Answers, helpers, cancelling and errors of the public API. */
export function apiTests(bed) {
  const test = (name, body, options) =>
    bed.modelTest({ url: "/checkpoints/scripted" }, `API: ${name}`, body, { expected: FAILED_REQUEST, ...options });
  answers(test);
  helpers(test);
  cancelling(test);
  badRequests(test);
}

/** Checkpoints that a server delivers broken, and machines that lack something. */
export async function faultTests(bed) {
  await badCheckpoints(bed);
  badMachines(bed);
}

function answers(test) {
  test("progress grows to the whole and ends ready", async (page) => {
    const { phases, info } = await page.evaluate(() => ({ phases: window.progress, info: window.model.info }));
    assert.equal(phases[0].phase, "manifest");
    const last = phases.at(-1);
    assert.deepEqual([last.phase, last.bytes, last.shard], ["ready", info.downloadBytes, last.shards]);
    assert.ok(phases.every((progress, at) => at === 0 || progress.bytes >= phases[at - 1].bytes));
    assert.deepEqual(info.notices, ["NOTICE", "MODIFICATIONS", "README.md"]);
    assert.ok(
      info.gpuBytes > info.downloadBytes &&
        info.pictureTokens.min === 256 &&
        info.pictureTokens.max === 256 &&
        info.chatFormat === "chatml",
    );
  });

  test("events stream, and the answer holds their sum", async (page) => {
    const { events, answer } = await page.evaluate(async (url) => {
      const run = window.model.createSession().ask([{ image: url }, "What is this?"]);
      const events = [];
      for await (const event of run) events.push(event);
      // A copy, because the bridge to the test drops the second occurrence of an object.
      return { events, answer: structuredClone(await run) };
    }, CAT.url);
    const types = events.map(({ type }) => type);
    assert.deepEqual([...new Set(types)], ["encode", "prefill", "text", "object", "done"]);
    const deltas = events.filter(({ type }) => type === "text").map(({ delta }) => delta);
    assert.ok(deltas.length > 3 && deltas.every((delta) => !/[<>]/.test(delta)), JSON.stringify(deltas));
    assert.equal(deltas.join("").trim(), SCRIPTED.text);
    const { text, raw, objects, finishReason, usage, timings } = answer;
    assert.deepEqual({ text, raw, objects, finishReason }, { ...SCRIPTED, objects: [OBJECT], finishReason: "stop" });
    assert.equal(usage.imageTokens, 256);
    assert.ok(usage.promptTokens > 256 && usage.completionTokens === answer.tokens.length);
    assert.ok(
      Object.values(timings).every((value) => value > 0),
      JSON.stringify(timings),
    );
    assert.deepEqual(events.at(-1).answer, answer);
    assert.equal(text.slice(...objects[0].range), OBJECT.ref);
  });

  test("a session keeps its turns, and questions wait for each other", async (page) => {
    const { history, tokens, counts } = await page.evaluate(async (url) => {
      const history = [
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hello!" },
      ];
      const session = window.model.createSession({ system: "Be brief.", history });
      const runs = [session.ask([{ image: url }, "One?"]), session.ask("Two?")];
      const answers = await Promise.all(runs);
      return {
        history: session.history.flatMap(({ role, content }) => (role === "assistant" ? [content] : [])),
        tokens: answers.map(({ usage }) => usage.promptTokens),
        counts: answers.map(({ usage }) => usage.imageTokens),
      };
    }, CAT.url);
    assert.deepEqual(history, ["Hello!", SCRIPTED.raw, SCRIPTED.raw]);
    assert.ok(tokens[1] > tokens[0]);
    assert.deepEqual(counts, [256, 256]);
  });
}

function helpers(test) {
  test("parse reads stored answers as the worker does", async (page) => {
    const sizes = [{ width: 1000, height: 500 }];
    const cases = [
      [SCRIPTED.raw, [{ width: CAT.width, height: CAT.height }], SCRIPTED.text, [OBJECT]],
      [
        "<ref>a</ref><box>(0,0),(1000,999)</box><box>(1,2),(3,4)</box> b<quad>(1,2),(3,4),(5,6),(7,8)</quad>",
        sizes,
        "a b",
        [
          { ref: "a", kind: "box", image: 0, norm: [0, 0, 1000, 999], pixels: [0, 0, 1000, 499], range: [0, 1] },
          { ref: "a", kind: "box", image: 0, norm: [1, 2, 3, 4], pixels: [1, 1, 3, 2], range: [0, 1] },
          {
            kind: "quad",
            image: 0,
            norm: [
              [1, 2],
              [3, 4],
              [5, 6],
              [7, 8],
            ],
            pixels: [
              [1, 1],
              [3, 2],
              [5, 3],
              [7, 4],
            ],
            range: [3, 3],
          },
        ],
      ],
      ["no size <box>(1,2)(3,4)</box>", [], "no size", [{ kind: "box", norm: [1, 2, 3, 4], range: [8, 8] }]],
      ["x<box>(1,2),(3</box>y", sizes, "xy", []],
      ["a <box>stray text", sizes, "a stray text", []],
      ["1 < 2 <b>&</b> <ref>open", sizes, "1 < 2 <b>&</b> open", []],
    ];
    for (const [raw, pictures, text, objects] of cases) {
      const parsed = await page.evaluate(async (raw, pictures) => (await import("qwen-vl-web")).parse(raw, pictures), raw, pictures);
      assert.deepEqual(parsed, { text, objects }, raw);
    }
  });

  test("drawBoxes draws along the objects' pixels", async (page) => {
    const [x1, y1, x2, y2] = OBJECT.pixels;
    const { size, inside, edges, outside, point } = await page.evaluate(
      async (url, object) => {
        const { drawBoxes } = await import("qwen-vl-web");
        const bitmap = await createImageBitmap(await (await fetch(url)).blob());
        const pixels = (canvas) => {
          const context = canvas.getContext("2d");
          return (x, y) => [...context.getImageData(x, y, 1, 1).data];
        };
        const [plain, boxed] = [document.createElement("canvas"), document.createElement("canvas")];
        drawBoxes(plain, bitmap, []);
        drawBoxes(boxed, bitmap, [object], { colors: ["#00ff00"], fontSize: 12 });
        const [before, after] = [pixels(plain), pixels(boxed)];
        const [x1, y1, x2, y2] = object.pixels;
        const [x, y] = [Math.round((x1 + x2) / 2), Math.round((y1 + y2) / 2)];
        const pointed = document.createElement("canvas");
        drawBoxes(pointed, bitmap, [{ kind: "point", pixels: [x, y] }], { colors: ["#00ff00"], lineWidth: 4 });
        return {
          size: [boxed.width, boxed.height],
          edges: [after(x, y2), after(x2, y), after(x1, y)],
          inside: [before(x, y), after(x, y)],
          outside: [before(x2 + 9, y2 + 9), after(x2 + 9, y2 + 9)],
          // The radius is 8 pixels.
          point: {
            inside: [pixels(pointed)(x, y), pixels(pointed)(x - 5, y + 5)],
            outside: [before(x + 10, y), pixels(pointed)(x + 10, y)],
          },
        };
      },
      CAT.url,
      OBJECT,
    );
    assert.ok(x2 > x1 && y2 > y1);
    assert.deepEqual(size, [CAT.width, CAT.height]);
    for (const edge of edges) assert.deepEqual(edge, [0, 255, 0, 255]);
    assert.deepEqual(inside[0], inside[1]);
    assert.deepEqual(outside[0], outside[1]);
    for (const pixel of point.inside) assert.deepEqual(pixel, [0, 255, 0, 255]);
    assert.deepEqual(point.outside[0], point.outside[1]);
  });
}

function cancelling(test) {
  test("an aborted run rejects with the signal's reason, and the next one answers", async (page) => {
    const { failures, answer } = await page.evaluate(async (url) => {
      const session = window.model.createSession();
      const failures = [];
      // Before it starts, at the first event, before the first token, and in the middle of the text.
      for (const when of ["at once", "encode", "prefill", "text"]) {
        const controller = new AbortController();
        if (when === "at once") controller.abort();
        const run = session.ask([{ image: url }, "?"], { signal: controller.signal });
        try {
          for await (const event of run) if (event.type === when) controller.abort();
          failures.push("none");
        } catch (error) {
          failures.push(
            error.name,
            await run.then(
              () => "answered",
              (again) => (again === error ? "same" : String(again)),
            ),
          );
        }
      }
      return { failures, history: session.history.length, answer: await session.ask("And now?") };
    }, CAT.url);
    assert.deepEqual(failures, Array(4).fill(["AbortError", "same"]).flat());
    assert.equal(answer.raw, SCRIPTED.raw);
    assert.equal(answer.finishReason, "stop");
  });

  test("leaving the loop cancels, and the part so far is the answer", async (page) => {
    const { partial, next, history } = await page.evaluate(async () => {
      const session = window.model.createSession();
      const run = session.ask("?");
      for await (const event of run) if (event.type === "text") break;
      const partial = await run;
      return { partial, next: await session.ask("?"), history: session.history.length };
    });
    assert.equal(partial.finishReason, "cancelled");
    assert.ok(SCRIPTED.raw.startsWith(partial.raw) && partial.raw.length < SCRIPTED.raw.length, partial.raw);
    assert.equal(next.raw, SCRIPTED.raw);
    assert.equal(history, 2);
  });

  test("length and seed are kept", async (page) => {
    const { cut, seeded } = await page.evaluate(async () => {
      const ask = (options) => window.model.complete("Hello\n", [], options);
      return {
        cut: await ask({ greedy: true, maxTokens: 3 }),
        seeded: await Promise.all([1, 1, 2].map((seed) => ask({ seed, maxTokens: 8, temperature: 100, topP: 1 }))),
      };
    });
    assert.deepEqual([cut.finishReason, cut.tokens.length], ["length", 3]);
    assert.deepEqual(seeded[0].tokens, seeded[1].tokens);
    assert.notDeepEqual(seeded[0].tokens, seeded[2].tokens);
  });
}

/** Runs code in the page. Returns its value, or the error that it throws as data. */
function describe(page, body, ...parameters) {
  return page.evaluate(
    async (body, parameters) => {
      const { QwenVL, QwenVLError } = await import("qwen-vl-web");
      const run = new Function("QwenVL", "parameters", `return (async () => { ${body} })()`);
      try {
        return { value: String(await run(QwenVL, parameters)) };
      } catch (error) {
        const { name, code, message, hint, details, retryable } = error;
        return { name, code, message, hint, details, retryable, known: error instanceof QwenVLError };
      }
    },
    body,
    parameters,
  );
}

function badRequests(test) {
  const garbage = [137, 80, 78, 71, 13, 10, 26, 10, 1, 2, 3];
  const long = "x".repeat(300);
  const cases = [
    [
      "a damaged picture",
      "IMAGE_DECODE",
      /cannot read the picture/,
      `await model.complete("<img>a</img>", [new Uint8Array(${JSON.stringify(garbage)})])`,
    ],
    ["a text as a picture", "IMAGE_DECODE", /unknown format/, `await model.complete("<img>a</img>", [new Blob(["hello"])])`],
    ["a picture that is not there", "DOWNLOAD", /404/, `await model.complete("<img>a</img>", ["/nothing.png"])`],
    ["a path that is too long", "INVALID_ARGUMENT", /300 bytes.*at most 256/, `await model.complete("<img>${long}</img>", [new Blob([])])`],
    ["a tag that is not closed", "INVALID_ARGUMENT", /`<img>` at character 2 has no `<\/img>`/, `await model.complete("Hi<img>a", [])`],
    ["a picture too few", "INVALID_ARGUMENT", /names 1 picture, but 0 were given/, `await model.complete("<img>a</img>", [])`],
    ["a prompt that is too long", "CONTEXT_OVERFLOW", /context of 2048/, `await model.complete("1 ".repeat(1500), [])`],
    ["an empty prompt", "INVALID_ARGUMENT", /no tokens/, `await model.complete("", [])`],
  ];
  for (const [what, code, message, body] of cases) {
    test(`${what}: ${code}`, async (page) => {
      const error = await describe(page, `const { model } = window; ${body}`);
      assert.deepEqual([error.known, error.name, error.code], [true, "QwenVLError", code], JSON.stringify(error));
      assert.match(error.message, message);
    });
  }
}

/** Disposes of the model that the other suites share, so it comes after them. */
export function disposeTest(bed) {
  bed.modelTest(
    { url: "/checkpoints/scripted" },
    "API: the model still answers; once disposed of, it reports that",
    async (page) => {
      assert.equal((await describe(page, `return (await window.model.createSession().ask("?")).raw`)).value, SCRIPTED.raw);
      const pending = await describe(
        page,
        `const run = window.model.createSession().ask("?"); await window.model.dispose(); return (await run).finishReason`,
      );
      assert.ok(pending.value === "cancelled" || pending.code === "DISPOSED", JSON.stringify(pending));
      assert.equal((await describe(page, `await window.model.createSession().ask("?")`)).code, "DISPOSED");
    },
    { spoils: true },
  );
}

async function badCheckpoints(bed) {
  const folder = join(bed.checkpoints, "mini-a-q4");
  const manifest = await readFile(join(folder, "manifest.json"), "utf8");
  const shard = await readFile(join(folder, "shard-00000.safetensors"));
  const send = (bytes) => (response) => response.writeHead(200).end(bytes);
  const changed = (change) => {
    const copy = JSON.parse(manifest);
    change(copy);
    return send(JSON.stringify(copy));
  };
  const flipped = Buffer.from(shard);
  flipped[flipped.length - 1] ^= 1;
  const broken = (response) => {
    response.writeHead(200, { "content-length": shard.length });
    response.write(shard.subarray(0, shard.length / 2));
    setTimeout(() => response.destroy(), 100);
  };
  const cases = [
    ["no such folder", "manifest.json", (response) => response.writeHead(404).end(), "DOWNLOAD", /status 404.*manifest\.json/],
    ["a page instead of a manifest", "manifest.json", send("<!doctype html>"), "MANIFEST_INVALID", /manifest\.json .*read/],
    ["another file format", "manifest.json", changed((copy) => (copy.format = "gguf")), "MANIFEST_INVALID", /format `gguf`/],
    ["a newer manifest", "manifest.json", changed((copy) => (copy.version = 99)), "MANIFEST_VERSION", /version 99/],
    ["a missing tensor", "manifest.json", changed((copy) => copy.tensors.splice(3, 1)), "MANIFEST_INVALID", /tensor 3 is/],
    ["a wrong shape", "manifest.json", changed((copy) => (copy.tensors[0].shape[0] += 1)), "MANIFEST_INVALID", /has shape/],
    ["a shard that is cut off", "shard-00000.safetensors", send(shard.subarray(0, shard.length - 100)), "INTEGRITY", /shard-00000.*bytes/],
    ["a changed byte", "shard-00000.safetensors", send(flipped), "INTEGRITY", /shard-00000.*SHA-256/],
    ["a connection that breaks", "shard-00000.safetensors", broken, "DOWNLOAD", /shard-00000|connection/],
    ["a changed vocabulary", "qwen.tiktoken", send("abc 1\n"), "INTEGRITY", /qwen\.tiktoken/],
  ];
  const test = (name, body) => bed.pageTest(`bad checkpoints: ${name}`, body, { expected: FAILED_REQUEST });
  for (const [what, file, answer, code, message] of cases) {
    test(`${what}: ${code}`, async (page) => {
      bed.handle = (path, response) => {
        if (path !== `/checkpoints/mini-a-q4/${file}`) return false;
        answer(response);
        return true;
      };
      const error = await describe(page, `await QwenVL.load("/checkpoints/mini-a-q4/", { cache: "none", retries: 2 })`);
      assert.deepEqual([error.known, error.code], [true, code], JSON.stringify(error));
      assert.match(error.message, message);
      assert.ok(error.hint.length > 10);
    });
  }
  test("an aborted load: AbortError", async (page) => {
    const body = `
      const controller = new AbortController();
      const onProgress = () => controller.abort();
      await QwenVL.load("/checkpoints/mini-a-q4/", { signal: controller.signal, onProgress });`;
    assert.equal((await describe(page, body)).name, "AbortError");
  });
  test("no address: INVALID_ARGUMENT", async (page) => {
    assert.equal((await describe(page, `await QwenVL.load("http://[")`)).code, "INVALID_ARGUMENT");
  });
}

/** Tests of workers whose browser, driver or server fails. */
function badMachines(bed) {
  const cases = [
    ["no adapter", `GPU.prototype.requestAdapter = async () => null;`, "NO_ADAPTER", /no GPU adapter/],
    [
      "small limits",
      `Object.defineProperty(GPUSupportedLimits.prototype, "maxStorageBufferBindingSize", { get: () => 1024 });`,
      "INSUFFICIENT_LIMITS",
      /needs \d+ bytes in one binding/,
    ],
    [
      "a driver that throws",
      `GPUDevice.prototype.createBindGroup = () => { throw new Error("sabotage"); };`,
      "INTERNAL",
      /panicked|sabotage/,
    ],
    ["a worker that fails", `setTimeout(() => { throw new Error("sabotage"); });`, "INTERNAL", /the worker failed.*sabotage/],
    ["no worker script", undefined, "INTERNAL", /the worker failed/],
  ];
  const test = (name, body) => bed.pageTest(`bad machines: ${name}`, body, { expected: /Failed to load resource|sabotage|Loading Worker/ });
  for (const [what, script, code, message] of cases) {
    test(`${what}: ${code}`, async (page) => {
      const scripts = { "/change.js": script, "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";` };
      bed.handle = (path, response) => {
        if (script === undefined || !(path in scripts)) return false;
        response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
        return true;
      };
      const body = `
        const model = await QwenVL.load("/checkpoints/mini-a-q4/", { workerUrl: "/changed-worker.js", backend: "webgpu" });
        return (await model.complete("Hello")).text;`;
      const error = await describe(page, body);
      assert.deepEqual([error.known, error.code], [true, code], JSON.stringify(error));
      assert.match(error.message, message);
    });
  }
  test("no wasm file: DOWNLOAD", async (page) => {
    const error = await describe(page, `await QwenVL.load("/checkpoints/mini-a-q4/", { wasmUrl: "/nothing.wasm" })`);
    assert.equal(error.code, "DOWNLOAD", JSON.stringify(error));
  });
}

/** The kinds of pictures that `picturesInPage` makes. */
const KINDS = [
  "an address",
  "a URL",
  "a data URL",
  "a Blob",
  "an ArrayBuffer",
  "a part of a buffer",
  "an ImageBitmap",
  "an ImageData",
  "a canvas",
  "an <img>",
  "an OffscreenCanvas",
  "an <image> of an SVG",
  "a VideoFrame",
];

/** A picture gives the same tokens in whatever form it comes. */
export async function pictureTests(bed) {
  const [set] = bed.sets;
  const golden = JSON.parse(await readFile(join(set.golden, "img_vqa.json"), "utf8"));
  const model = { url: `/checkpoints/${set.name}-f32/`, load: SMALL };
  const test = (name, body) => bed.modelTest(model, `pictures: ${name}`, body, { expected: FAILED_REQUEST });
  const url = `/golden/${set.name}/${golden.images[0].path}`;
  for (const kind of KINDS) {
    test(kind, async (page) => {
      const kinds = await page.evaluate(picturesInPage, url);
      assert.deepEqual(kinds, KINDS);
      const tokens = await page.evaluate(
        async (kind, ids) => {
          const { runIds } = await import("qwen-vl-web/testing");
          return (await runIds(window.model, ids, [window.kinds[kind]], 4)).tokens;
        },
        kind,
        golden.input_ids,
      );
      assert.deepEqual(tokens, golden.decode.tokens.slice(0, 4));
    });
  }
  videoAndVectors(test);
}

/** Runs in the page: makes `window.kinds`, one picture of every kind, and returns the names. */
async function picturesInPage(url) {
  // Chromium reports a frame that is garbage collected without being closed, in whichever test that happens.
  window.kinds?.["a VideoFrame"].close();
  const blob = await (await fetch(url)).blob();
  const bytes = await blob.arrayBuffer();
  const bitmap = await createImageBitmap(blob);
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const image = Object.assign(new Image(), { src: url });
  await image.decode();
  const offscreen = new OffscreenCanvas(bitmap.width, bitmap.height);
  offscreen.getContext("2d").drawImage(bitmap, 0, 0);
  const vector = document.createElementNS("http://www.w3.org/2000/svg", "image");
  vector.setAttribute("href", url);
  window.kinds = {
    "an address": url,
    "a URL": new URL(url, location.href),
    "a data URL": canvas.toDataURL(),
    "a Blob": blob,
    "an ArrayBuffer": bytes,
    "a part of a buffer": new Uint8Array([...new Uint8Array(5), ...new Uint8Array(bytes)].slice(0)).subarray(5),
    "an ImageBitmap": bitmap,
    "an ImageData": canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height),
    "a canvas": canvas,
    "an <img>": image,
    "an OffscreenCanvas": offscreen,
    "an <image> of an SVG": vector,
    "a VideoFrame": new VideoFrame(offscreen, { timestamp: 0 }),
  };
  return Object.keys(window.kinds);
}

/** Pictures that the browser has to draw or to play. */
function videoAndVectors(test) {
  test("an SVG file is drawn on white, at its own size", async (page) => {
    const found = await page.evaluate(async () => {
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect x="5" width="10" height="10" fill="#04c"/></svg>`;
      const canvas = new OffscreenCanvas(20, 10);
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, 20, 10);
      context.fillStyle = "#04c";
      context.fillRect(5, 0, 10, 10);
      const pictures = [new Blob([svg], { type: "image/svg+xml" }), new TextEncoder().encode(svg), canvas];
      const refs = [];
      for (const picture of pictures) refs.push(await window.model.encodeImage(picture));
      const broken = await window.model.encodeImage(new Blob(["<svg"], { type: "image/svg+xml" })).then(
        () => "drawn",
        ({ code }) => code,
      );
      return { ids: refs.map(({ id, width, height }) => `${width}×${height} ${id}`), broken };
    });
    assert.equal(new Set(found.ids).size, 1, JSON.stringify(found.ids));
    assert.match(found.ids[0], /^20×10 /);
    assert.equal(found.broken, "IMAGE_DECODE");
  });

  test("pictures of another origin that may not be read: an error that says so", async (page) => {
    const found = await page.evaluate(async (url) => {
      const foreign = new URL(url, location.href);
      foreign.hostname = "localhost";
      const image = Object.assign(new Image(), { src: foreign.href });
      await image.decode();
      const canvas = new OffscreenCanvas(4, 4);
      canvas.getContext("2d").drawImage(image, 0, 0);
      const tried = [];
      for (const picture of [image, canvas, "data:image/png;base64,%%%"]) {
        tried.push(
          await window.model.encodeImage(picture).then(
            () => "encoded",
            ({ code }) => code,
          ),
        );
      }
      return tried;
    }, CAT.url);
    assert.deepEqual(found, ["DOWNLOAD", "IMAGE_DECODE", "IMAGE_DECODE"]);
  });

  test("a video is its current frame, or frames at equal distances", async (page) => {
    const found = await page.evaluate(async () => {
      const { sampleFrames } = await import("qwen-vl-web");
      const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
      const context = canvas.getContext("2d");
      const colours = ["#f00", "#0f0", "#00f"];
      const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: "video/webm" });
      const recorded = [];
      recorder.ondataavailable = ({ data }) => recorded.push(data);
      const stopped = new Promise((resolve) => (recorder.onstop = resolve));
      recorder.start();
      const start = performance.now();
      for (let now = start; now < start + 1500; now = performance.now()) {
        context.fillStyle = colours[Math.floor((now - start) / 500)];
        context.fillRect(0, 0, 64, 48);
        await new Promise(requestAnimationFrame);
      }
      recorder.stop();
      await stopped;
      const video = new Blob(recorded, { type: "video/webm" });
      const frames = await sampleFrames(video, 3);
      const shown = frames.map((frame) => {
        const copy = new OffscreenCanvas(frame.width, frame.height).getContext("2d");
        copy.drawImage(frame, 0, 0);
        return [frame.width, frame.height, [...copy.getImageData(32, 24, 1, 1).data.slice(0, 3)].findIndex((value) => value > 127)];
      });

      const element = Object.assign(document.createElement("video"), { muted: true });
      const early = await window.model.encodeImage(element).then(
        () => "encoded",
        ({ code }) => code,
      );
      element.src = URL.createObjectURL(video);
      await new Promise((resolve) => (element.onloadeddata = resolve));
      element.currentTime = 0.2;
      await new Promise((resolve) => (element.onseeked = resolve));
      const { width, height } = await window.model.encodeImage(element);
      const broken = await sampleFrames(new Blob(["no video"]), 2).then(
        () => "sampled",
        ({ code }) => code,
      );
      const { usage } = await window.model.createSession().ask([{ video, frames: 2 }, "What moves?"], { maxTokens: 1 });
      return { shown, early, size: [width, height], broken, imageTokens: usage.imageTokens };
    });
    // A recorder on a busy machine leaves frames out. The order of the colours is certain, the time of a change is not.
    assert.ok(
      found.shown.every(([width, height]) => width === 64 && height === 48),
      JSON.stringify(found.shown),
    );
    const order = found.shown.map(([, , colour]) => colour);
    assert.ok(order[0] === 0 && order[2] > 0 && order[1] <= order[2], JSON.stringify(order));
    assert.deepEqual([found.early, found.size, found.broken, found.imageTokens], ["IMAGE_DECODE", [64, 48], "IMAGE_DECODE", 512]);
  });
}
