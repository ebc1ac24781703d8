import assert from "node:assert/strict";
import { IDLE_PRODUCTS } from "./sabotage.mjs";

/** The scripted model's answer (crates/testkit/examples/test_checkpoints/scripted.rs) after a line end, and after tokens of its script. */
const RAW = "This is a<ref> person</ref><box>(12,34), (567 ,890)</box>.";
const TEXT = "This is a person.";
const CAT = { url: "/golden/mini-a/images/photo_cat.png", width: 288, height: 256 };
/** A picture that is stored on its side. Upright it has 96×160 pixels. */
const TURNED = "/golden/mini-a/images/exif_orient6.jpg";

/**
 * Tests what a session and a model can do in addition to answering.
 *
 * @param {string} where the kind of machine, for the names of the tests
 * @param {object} load options of `QwenVL.load`
 */
export function sessionTests(bed, where = "on WebGPU", load = {}) {
  const test = (name, body) => bed.modelTest({ url: "/checkpoints/scripted", load }, `sessions ${where}: ${name}`, body);
  turns(test);
  endings(test);
  pictures(test);
  tasks(test);
  facade(test);
  test("benchmark() measures and prints a table", async (page) => {
    const { report, table, steps } = await page.evaluate(async () => {
      const steps = [];
      const onProgress = (step) => steps.push(step);
      const report = await window.model.benchmark({
        contexts: [40],
        prompts: [16],
        decodeTokens: 4,
        runs: 1,
        bandwidth: 100,
        onProgress,
      });
      return { report: structuredClone({ ...report }), table: String(report), steps };
    });
    assert.deepEqual(
      steps,
      [1, 2, 3].map((done) => ({ done, total: 3 })),
    );
    assert.equal(report.decode.length, 1);
    assert.equal(report.prefill.length, 1);
    const measured = [report.resamplerMs, report.visionBlockMs, ...Object.values(report.limits ?? { none: undefined })];
    if (load.backend === "cpu") assert.deepEqual(measured, [undefined, undefined, undefined]);
    else
      assert.ok(
        measured.every((number) => number > 0),
        table,
      );
    assert.ok(report.encodeMs > 0 && report.prefill[0].tokensPerSecond > 0 && report.decode[0].tokensPerSecond > 0, table);
    assert.ok((report.dispatchesPerToken > 6 || load.backend === "cpu") && report.gpuBytes > 1e6 && report.loadMs > 0);
    for (const row of ["adapter", "decode at 40", "dispatches per token", "% of the bandwidth"]) assert.ok(table.includes(row), table);
    console.log(table.replaceAll(/^/gm, "    "));
  });
}

function turns(test) {
  test("fork, undo, regenerate, reset; what the model computed is used again", async (page) => {
    const found = await page.evaluate(async (url) => {
      const session = window.model.createSession();
      const empty = [session.contextUsage, session.contextWindow];
      await session.ask([{ image: url }, "One?"]);
      const first = await session.ask("Two?");
      const usage = session.contextUsage;
      const fork = session.fork();
      await fork.ask("Only here");
      const again = await session.regenerate({ greedy: true });
      const lengths = [session.history.length, fork.history.length];
      const undone = [session.undo(), session.undo(9), session.undo()];
      fork.reset();
      return { empty, usage, first: first.usage, again: again.usage, lengths, undone, left: [session.history.length, fork.history.length] };
    }, CAT.url);
    assert.deepEqual(found.empty, [0, 2048]);
    assert.equal(found.usage, found.first.promptTokens + found.first.completionTokens);
    assert.ok(found.first.reusedTokens > 256, "the picture of the first turn is not run again");
    assert.equal(found.again.promptTokens, found.first.promptTokens);
    assert.equal(found.again.reusedTokens, found.first.promptTokens - 1);
    assert.deepEqual(
      [found.lengths, found.undone, found.left],
      [
        [4, 6],
        [1, 1, 0],
        [0, 0],
      ],
    );
  });

  test("a session is plain JSON, and continues from it", async (page) => {
    const found = await page.evaluate(async (url) => {
      const canvas = new OffscreenCanvas(5, 3);
      const context = canvas.getContext("2d");
      context.fillStyle = "#0a5";
      context.fillRect(1, 0, 3, 2);
      const session = window.model.createSession({ system: "Be brief.", generation: { greedy: true } });
      await session.ask([{ image: canvas }, { image: await (await fetch(url)).blob() }, "?"]);
      // The canvas changes, the conversation does not.
      context.clearRect(0, 0, 5, 3);
      const text = JSON.stringify(session);
      const restored = window.model.createSession(JSON.parse(text));
      const [next, same] = [await session.ask("Next?"), await restored.ask("Next?")];
      const images = JSON.parse(text)
        .history[0].content.filter((part) => part.image)
        .map(({ image }) => image.slice(0, 16));
      const kinds = session.history[0].content.map((part) => part.image?.constructor.name ?? "text");
      return { images, kinds, next: next.usage, same: same.usage, twice: JSON.stringify(restored.history.length) };
    }, CAT.url);
    assert.deepEqual(found.images, ["data:image/bmp;b", "data:image/png;b"]);
    assert.deepEqual(found.kinds, ["ImageBitmap", "Blob", "text"]);
    assert.equal(found.next.promptTokens, found.same.promptTokens);
    assert.equal(found.same.reusedTokens, found.next.promptTokens - 1, "the restored pictures have the same pixels");
  });

  test("a conversation that is too long: an error, or its oldest turns are left out", async (page) => {
    const found = await page.evaluate(async () => {
      const long = "1 ".repeat(300);
      const history = Array.from({ length: 4 }, () => [
        { role: "user", content: long },
        { role: "assistant", content: "No." },
      ]).flat();
      const session = window.model.createSession({ history });
      const needed = await session.countTokens("And?");
      const failure = await session.ask("And?").then(
        () => "answered",
        ({ code, details }) => ({ code, details }),
      );
      session.onContextOverflow = "drop-oldest";
      const { usage, raw } = await session.ask("And?");
      return { needed, failure, usage, raw, kept: session.history.length };
    });
    assert.ok(found.needed > 2400, `${found.needed} tokens`);
    assert.deepEqual(found.failure, { code: "CONTEXT_OVERFLOW", details: { used: found.needed, limit: 2048 } });
    assert.equal(found.raw, RAW);
    assert.ok(found.usage.droppedTurns > 0 && found.usage.promptTokens <= 1536, JSON.stringify(found.usage));
    assert.equal(found.kept, 10, "the history itself loses nothing");
  });

  test("text is normalized (NFC) before it becomes tokens", async (page) => {
    const counts = await page.evaluate(async () => {
      // Two forms of the same text; the second is NFC. Without normalization they would have different numbers of tokens.
      const forms = [
        ["e\u0301", "\u00e9"],
        ["\u1112\u1161\u11ab", "\ud55c"],
        ["\u212b", "\u00c5"],
        ["\u0958", "\u0915\u093c"],
      ];
      const count = (text) => window.model.countTokens(text);
      return Promise.all(forms.map((texts) => Promise.all(texts.map(count))));
    });
    for (const [form, normalized] of counts) assert.equal(form, normalized, JSON.stringify(counts));
    assert.deepEqual(
      counts.map(([, normalized]) => normalized),
      [1, 3, 2, 6],
      "the tokens of the normalized texts",
    );
  });

  test("history that is not by turns, nothing to repeat, and a model at work: errors", async (page) => {
    const codes = await page.evaluate(async () => {
      const codes = [];
      try {
        window.model.createSession({ history: [{ role: "assistant", content: "Hi" }] });
      } catch ({ code }) {
        codes.push(code);
      }
      codes.push(
        await window.model
          .createSession()
          .regenerate()
          .then(
            () => "",
            ({ code }) => code,
          ),
      );
      const run = window.model.createSession().ask("?");
      codes.push(
        await window.model
          .createSession()
          .ask("?", { queue: false })
          .then(
            () => "",
            ({ code }) => code,
          ),
      );
      await run;
      codes.push((await window.model.createSession().ask("?", { queue: false })).finishReason);
      return codes;
    });
    assert.deepEqual(codes, ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "BUSY", "stop"]);
  });
}

function endings(test) {
  test("stop texts end an answer and are never shown in part", async (page) => {
    const found = await page.evaluate(async () => {
      const session = window.model.createSession();
      const results = [];
      for (const stop of ["person", ["nothing", "</box>"], " a<ref>"]) {
        const run = session.ask("?", { stop });
        let shown = "";
        for await (const delta of run.text()) shown += delta;
        const { text, raw, finishReason, objects } = await run;
        results.push({ shown, text, raw, finishReason, objects: objects.length });
      }
      return results;
    });
    const ended = { finishReason: "stop-string", objects: 0 };
    assert.deepEqual(found, [
      { shown: "This is a ", text: "This is a", raw: "This is a<ref>", ...ended },
      { shown: "This is a person", text: "This is a person", raw: RAW.slice(0, RAW.indexOf("</box>")), ...ended },
      { shown: "This is", text: "This is", raw: "This is", ...ended },
    ]);
  });

  test("stop tokens, shortest and longest answers, likelihoods", async (page) => {
    const found = await page.evaluate(async () => {
      const session = window.model.createSession();
      const options = { greedy: true };
      const whole = await session.ask("?", options);
      const cut = await session.ask("?", { ...options, stopTokens: [whole.tokens[2]] });
      const longer = await session.ask("?", { ...options, minTokens: whole.tokens.length + 3, maxTokens: whole.tokens.length + 3 });
      const likely = await session.ask("?", { ...options, logprobs: 2 });
      return {
        whole: whole.tokens,
        cut: [cut.tokens, cut.finishReason],
        longer: longer.tokens,
        likely: likely.logprobs,
        plain: "logprobs" in whole,
      };
    });
    assert.equal(found.plain, false);
    assert.deepEqual(found.cut, [found.whole.slice(0, 3), "stop"]);
    assert.equal(found.longer.length, found.whole.length + 3);
    assert.deepEqual(found.longer.slice(0, found.whole.length - 1), found.whole.slice(0, -1));
    assert.deepEqual(
      found.likely.map(({ token }) => token),
      found.whole,
    );
    for (const { token, logprob, top } of found.likely) {
      assert.equal(top.length, 2);
      assert.deepEqual([top[0].token, top[0].logprob], [token, logprob]);
      assert.ok(logprob < 0 && top[1].logprob <= logprob);
    }
    assert.equal(found.likely.map(({ text }) => text).join(""), `${RAW}<|im_end|>`);
  });

  test("settings that are not possible: INVALID_ARGUMENT", async (page) => {
    const found = await page.evaluate(async () => {
      const wrong = [{ temperature: -1 }, { topP: 2 }, { repetitionPenalty: 0 }, { maxTokens: -1 }, { seed: "x" }];
      const ask = (options) =>
        window.model.complete("Hello\n", [], options).then(
          () => "answered",
          ({ code }) => code,
        );
      return Promise.all(wrong.map(ask));
    });
    assert.deepEqual(found, Array(5).fill("INVALID_ARGUMENT"));
  });
}

function pictures(test) {
  test("a picture that is encoded ahead is known by its reference", async (page) => {
    const found = await page.evaluate(async (url) => {
      const ref = await window.model.encodeImage(url);
      const twin = await window.model.encodeImage(await (await fetch(url)).blob());
      const session = window.model.createSession();
      const answer = await session.ask([{ image: ref }, "?"]);
      ref.dispose();
      ref.dispose();
      const again = await session.ask("?");
      twin.dispose();
      const { id, width, height, tokens } = ref;
      return { ref: { width, height, tokens }, same: id === twin.id, pixels: answer.objects[0].pixels, again: again.raw };
    }, CAT.url);
    assert.deepEqual(found.ref, { width: CAT.width, height: CAT.height, tokens: 256 });
    assert.deepEqual([found.same, found.again], [true, RAW]);
    assert.deepEqual(found.pixels, [3, 8, 163, 227]);
  });

  test("photos are turned as browsers show them, unless they are not to be", async (page) => {
    const found = await page.evaluate(async (url) => {
      const { naturalWidth, naturalHeight } = await new Promise((resolve) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.src = url;
      });
      const size = async (options) => {
        const { width, height } = await window.model.encodeImage(url, options);
        return [width, height];
      };
      const boxes = [];
      for (const part of [{ image: url }, { image: url, imageOrientation: "from-image" }]) {
        const session = window.model.createSession({ imageOrientation: "none" });
        boxes.push((await session.ask([part, "?"])).objects[0].pixels);
      }
      return { shown: [naturalWidth, naturalHeight], turned: await size(), stored: await size({ imageOrientation: "none" }), boxes };
    }, TURNED);
    assert.deepEqual(found.turned, found.shown);
    assert.deepEqual(found.stored, [...found.shown].reverse());
    const scaled = ([width, height]) => [0.012 * width, 0.034 * height, 0.567 * width, 0.89 * height].map(Math.trunc);
    assert.deepEqual(found.boxes, [scaled(found.stored), scaled(found.turned)]);
  });

  test("objects point at the only picture, or at the one that the question names", async (page) => {
    const images = await page.evaluate(
      async (url, other) => {
        const session = window.model.createSession();
        const answers = [
          await session.ask([{ image: url }, "?"]),
          await session.ask([{ image: other }, { image: url }, "?"]),
          await session.ask("Where is it in Picture 2?"),
        ];
        return answers.map(({ objects, usage }) => [objects[0].image ?? null, "pixels" in objects[0], usage.imageTokens]);
      },
      CAT.url,
      TURNED,
    );
    assert.deepEqual(images, [
      [0, true, 256],
      [null, false, 768],
      [1, true, 768],
    ]);
  });
}

function tasks(test) {
  test("ground, describeRegion, caption, vqa, read", async (page) => {
    const found = await page.evaluate(async (url) => {
      const { model } = window;
      const [one] = await model.ground(url, "the cat");
      const two = await model.ground(url, ["the cat", "a dog"]);
      const region = await model.describeRegion(url, [10, 20, 30, 40]);
      const inPixels = await model.describeRegion(url, [0, 0, 144, 128], { unit: "pixels" });
      const same = await model.describeRegion(url, [0, 0, 500, 500]);
      const maxTokens = 3;
      const others = [
        await model.caption(url, { maxTokens }),
        await model.caption(url, { lang: "zh", grounded: true, maxTokens }),
        await model.vqa(url, "What is it?", { maxTokens }),
        await model.read(url, { maxTokens }),
      ];
      return {
        one,
        two: two.map(({ ref, pixels }) => [ref, pixels]),
        region: [region.text, region.objects.length],
        reused: [inPixels.usage.promptTokens, same.usage.reusedTokens],
        others: others.map(({ tokens, finishReason }) => [tokens.length, finishReason]),
      };
    }, CAT.url);
    assert.deepEqual(found.one, {
      ref: "the cat",
      kind: "box",
      image: 0,
      norm: [12, 34, 567, 890],
      pixels: [3, 8, 163, 227],
      range: [0, 0],
    });
    assert.deepEqual(found.two, [
      ["the cat", found.one.pixels],
      ["a dog", found.one.pixels],
    ]);
    assert.deepEqual(found.region, ["a person.", 1]);
    assert.equal(found.reused[1], found.reused[0] - 1, "half the picture is 500 thousandths");
    assert.deepEqual(found.others, Array(4).fill([3, "length"]));
  });

  test("score ranks what may follow, after one run of the prompt", async (page) => {
    const found = await page.evaluate(async (url) => {
      const { model } = window;
      const chat = await model.score([{ image: url }, "?"], ["This is a", "This was a", "That"], { normalize: "sum" });
      const raw = await model.score({ prompt: "<img>x</img>It is\n", images: [url] }, ["This", "That"]);
      const empty = await model.score("?", [""]).then(
        () => "scored",
        ({ code }) => code,
      );
      const answer = await model.createSession().ask("?");
      return { chat, raw: raw.map(({ logprob }) => logprob), empty, answer: answer.raw };
    }, CAT.url);
    const [best, worse, worst] = found.chat;
    assert.deepEqual(best.perToken.length, 3);
    assert.ok(best.logprob > worse.logprob && best.logprob > worst.logprob, JSON.stringify(found.chat));
    assert.equal(best.perToken[0], worse.perToken[0], "both begin alike");
    assert.ok(Math.abs(best.logprob - best.perToken.reduce((a, b) => a + b)) < 1e-9);
    assert.ok(found.raw[0] > found.raw[1]);
    assert.deepEqual([found.empty, found.answer], ["INVALID_ARGUMENT", RAW]);
  });
}

function facade(test) {
  test("the OpenAI facade: whole, streamed, with usage; refuses the impossible", async (page) => {
    const found = await page.evaluate(async (url) => {
      const { createOpenAI } = await import("qwen-vl-web/openai");
      const { chat, models } = createOpenAI(window.model);
      const messages = [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hello!" },
        {
          role: "user",
          content: [
            { type: "image_url", image_url: { url } },
            { type: "text", text: "What is this?" },
          ],
        },
      ];
      const whole = await chat.completions.create({ messages, temperature: 0, logprobs: true, top_logprobs: 1 });
      const stopped = await chat.completions.create({ messages, stop: [" is"], max_tokens: 9 });
      const cut = await chat.completions.create({ messages, max_tokens: 2 });
      const chunks = [];
      const stream = await chat.completions.create({ messages, stream: true, stream_options: { include_usage: true } });
      for await (const chunk of stream) chunks.push(structuredClone(chunk));
      const tagged = [];
      const tags = createOpenAI(window.model, { tags: true, name: "q" }).chat.completions;
      for await (const chunk of await tags.create({ messages, stream: true })) tagged.push(chunk.choices[0].delta.content ?? "");
      const refused = [{ tools: [{}] }, { n: 2 }, { messages: messages.slice(0, 3) }];
      const codes = [];
      for (const other of refused)
        codes.push(
          await chat.completions.create({ messages, ...other }).then(
            () => "",
            ({ code }) => code,
          ),
        );
      return { whole, stopped, cut, chunks, tagged, codes, id: (await models.list()).data[0].id, source: window.model.info.source };
    }, CAT.url);
    const [choice] = found.whole.choices;
    assert.equal(choice.message.content, TEXT);
    assert.equal(choice.message.objects[0].ref, "person");
    assert.equal(choice.logprobs.content[0].token, "This");
    const { usage } = found.whole;
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert.equal(usage.prompt_tokens_details.image_tokens, 256);
    assert.deepEqual([found.stopped.choices[0].message.content, found.stopped.choices[0].finish_reason], ["This", "stop"]);
    assert.equal(found.cut.choices[0].finish_reason, "length");
    const deltas = found.chunks.flatMap(({ choices }) => choices).map(({ delta }) => delta);
    assert.deepEqual(deltas[0], { role: "assistant", content: "" });
    assert.equal(deltas.map(({ content }) => content ?? "").join(""), TEXT);
    assert.equal(deltas.flatMap(({ objects }) => objects ?? []).length, 1);
    const last = found.chunks.at(-1);
    assert.deepEqual([last.choices, last.usage.prompt_tokens], [[], usage.prompt_tokens]);
    assert.equal(found.chunks.at(-2).choices[0].finish_reason, "stop");
    assert.equal(found.tagged.join(""), RAW);
    assert.deepEqual(found.codes, Array(3).fill("INVALID_ARGUMENT"));
    assert.equal(found.id, found.source);
  });
}

/** Tests with a worker whose GPU device the page can destroy, or whose kernels compute wrongly. */
export function lossTests(bed) {
  const scripts = {
    "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";`,
    "/change.js": `
      const request = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (...parameters) {
        const device = await request.apply(this, parameters);
        new BroadcastChannel("sabotage").onmessage = () => device.destroy();
        return device;
      };`,
  };
  const serve = (path, response) => {
    if (!(path in scripts)) return false;
    response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
    return true;
  };
  bed.pageTest("a device that is lost in mid-answer: DEVICE_LOST, recover(), and the same answer", async (page) => {
    bed.handle = serve;
    const found = await page.evaluate(async (url) => {
      const { QwenVL } = await import("qwen-vl-web");
      const model = await QwenVL.load("/checkpoints/scripted", { workerUrl: "/changed-worker.js" });
      const events = [];
      for (const type of ["lost", "recovered"]) model.addEventListener(type, (event) => events.push(`${type} ${event.error?.code ?? ""}`));
      const session = model.createSession({ generation: { greedy: true } });
      const ref = await model.encodeImage(url);
      const expected = await session.ask([{ image: ref }, "One?"]);
      const before = await session.ask("Two?");
      session.undo();
      const sabotage = new BroadcastChannel("sabotage");
      const run = session.ask("Two?");
      let failure = "none";
      try {
        for await (const event of run) if (event.type === "text") sabotage.postMessage("now");
      } catch ({ code, retryable }) {
        failure = [code, retryable];
      }
      const meanwhile = await session.ask("Two?").then(
        () => "answered",
        ({ code }) => code,
      );
      // The question waits for the model.
      const recovered = model.recover();
      const after = await session.ask("Two?");
      await recovered;
      const history = session.history.length;
      await model.dispose();
      const gone = await model.recover().then(
        () => "recovered",
        ({ code }) => code,
      );
      return { failure, meanwhile, events, tokens: [before.tokens, after.tokens], raw: expected.raw, history, gone };
    }, CAT.url);
    assert.deepEqual(found.failure, ["DEVICE_LOST", true]);
    assert.equal(found.meanwhile, "DEVICE_LOST");
    assert.deepEqual(found.events, ["lost DEVICE_LOST", "recovered "]);
    assert.deepEqual(found.tokens[0], found.tokens[1]);
    assert.deepEqual([found.raw, found.history, found.gone], [RAW, 4, "DISPOSED"]);
  });

  bed.pageTest("a driver that computes wrongly is found at load: GPU_INCORRECT", async (page) => {
    bed.handle = (path, response) => {
      if (path !== "/change.js") return serve(path, response);
      response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(IDLE_PRODUCTS);
      return true;
    };
    const found = await page.evaluate(async (thorough) => {
      const { QwenVL } = await import("qwen-vl-web");
      const load = (options) =>
        // The last kernels that a load tries.
        QwenVL.load("/checkpoints/mini-a-q4", { kernels: "plain", workerUrl: "/changed-worker.js", ...options }).then(
          (model) => model.dispose().then(() => "loaded"),
          ({ code, message }) => [code, message],
        );
      return [await load({}), ...(thorough ? [await load({ selfCheck: false })] : [])];
    }, bed.thorough);
    assert.equal(found[0][0], "GPU_INCORRECT", String(found[0]));
    assert.match(found[0][1], /self-check failed|not finite/);
    if (bed.thorough) assert.equal(found[1], "loaded");
  });
}
