import assert from "node:assert/strict";

/** A picture of nano's world, and a question about it that the model answers. */
const SCENE = { image: "/sample/images/00002.png", question: "How many triangles are there?" };

/**
 * Tests the Prompt API over the trained model of the repository: that sessions answer as those of the package, and what only browsers have. The
 * steps of the specification are tested in `web/test/prompt-api.test.mjs`.
 */
export function promptApiTests(bed) {
  const test = (name, body, options) => bed.modelTest({ url: "/nano/", load: { backend: "webgpu" } }, `prompt api: ${name}`, body, options);

  test("answers, usage and objects are those of a session of the package", async (page) => {
    const { chat, session } = await page.evaluate(async ({ image, question }) => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const LanguageModel = createLanguageModel(window.model);
      const blob = await (await fetch(image)).blob();
      const session = await LanguageModel.create({ expectedInputs: [{ type: "image" }], samplingMode: "most-predictable" });
      const content = [
        { type: "image", value: blob },
        { type: "text", value: question },
      ];
      const before = session.contextUsage;
      const measured = await session.measureContextUsage([{ role: "user", content }]);
      const first = await session.prompt([{ role: "user", content }]);
      const used = session.contextUsage - measured - (await session.measureContextUsage(first));
      const chunks = [];
      const reader = session.promptStreaming("Where is the first one?").getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) chunks.push(next.value);
      const own = window.model.createSession({ generation: { greedy: true, maxTokens: 400 } });
      const one = await own.ask([{ image: blob }, question]);
      const two = await own.ask("Where is the first one?");
      const { contextUsage: usage, contextWindow: window_ } = session;
      return {
        session: {
          before,
          measured,
          used,
          first,
          second: chunks.join(""),
          objects: structuredClone(session.objects),
          usage,
          window: window_,
        },
        chat: {
          first: one.text,
          second: two.text,
          objects: structuredClone(two.objects),
          tokens: own.contextUsage,
          window: own.contextWindow,
        },
      };
    }, SCENE);
    assert.ok(chat.first.length > 0 && chat.second.length + chat.objects.length > 0);
    assert.deepEqual([session.first, session.second, session.objects], [chat.first, chat.second, chat.objects]);
    assert.ok(session.before === 0 && session.measured > 0);
    assert.ok(Math.abs(session.used) <= 5, `question and answer take ${session.used} tokens more than was measured`);
    // The window leaves out what the template adds once; what it adds to each message is in the usage.
    const left = [session.window - session.usage, chat.window - chat.tokens];
    assert.ok(Math.abs(left[0] - left[1]) <= 10, `${left[0]} tokens left, and in the other session ${left[1]}`);
  });

  test("pictures of every kind are seen alike", async (page) => {
    const answers = await page.evaluate(async ({ image, question }) => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const LanguageModel = createLanguageModel(window.model);
      const blob = await (await fetch(image)).blob();
      const bytes = new Uint8Array(await blob.arrayBuffer());
      const bitmap = await createImageBitmap(blob);
      const { width, height } = bitmap;
      const drawn = (canvas) => {
        Object.assign(canvas, { width, height });
        canvas.getContext("2d").drawImage(bitmap, 0, 0);
        return canvas;
      };
      const element = Object.assign(new Image(), { src: image });
      const vector = document.createElementNS("http://www.w3.org/2000/svg", "image");
      vector.setAttribute("href", image);
      const padded = new Uint8Array(bytes.length + 256);
      padded.set(bytes, 256);
      const kinds = {
        blob,
        "array buffer": bytes.buffer,
        view: new Uint8Array(padded.buffer, 256),
        bitmap,
        canvas: drawn(document.createElement("canvas")),
        "offscreen canvas": drawn(new OffscreenCanvas(1, 1)),
        "image data": drawn(new OffscreenCanvas(1, 1)).getContext("2d").getImageData(0, 0, width, height),
        "image element": element,
        "svg image": vector,
        "video frame": new VideoFrame(bitmap, { timestamp: 0 }),
      };
      const answers = {};
      for (const [kind, value] of Object.entries(kinds)) {
        const session = await LanguageModel.create({ expectedInputs: [{ type: "image" }], samplingMode: "most-predictable" });
        const content = [
          { type: "image", value },
          { type: "text", value: question },
        ];
        answers[kind] = await session.prompt([{ role: "user", content }]);
      }
      kinds["video frame"].close();
      const session = await LanguageModel.create({ expectedInputs: [{ type: "image" }] });
      const broken = [{ role: "user", content: [{ type: "image", value: new Uint8Array(padded.buffer, 200) }] }];
      answers.broken = await session.prompt(broken).catch(({ name, message }) => `${name}: ${message}`);
      return answers;
    }, SCENE);
    const { broken, ...seen } = answers;
    assert.match(broken, /^InvalidStateError: .*picture/);
    for (const [kind, answer] of Object.entries(seen)) assert.equal(answer, seen.blob, kind);
    assert.equal(Object.keys(seen).length, 10);
  });

  test("the conversation is kept, cloned, cut and ended", async (page) => {
    const found = await page.evaluate(async () => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const LanguageModel = createLanguageModel(window.model);
      const name = (promise) => promise.then(String, (error) => `${error instanceof DOMException} ${error.name}`);
      const system = { role: "system", content: "Be brief." };
      const session = await LanguageModel.create({ initialPrompts: [system], samplingMode: "most-predictable" });
      const initial = [session.contextUsage, await session.measureContextUsage([system])];

      // A prompt that fills the window leaves one token of the context, and one token more is refused.
      const empty = await LanguageModel.create();
      const filling = "7".repeat(empty.contextWindow - (await empty.measureContextUsage("")));
      const own = window.model.createSession();
      const room = [empty.contextWindow - (await empty.measureContextUsage(filling)), own.contextWindow - (await own.countTokens(filling))];
      const refused = await empty.prompt(`${filling}7`).catch(({ name, quota, requested }) => [name, quota, requested - quota]);

      const events = [];
      const long = await session.clone();
      long.oncontextoverflow = ({ type }) => events.push(type);
      await long.append(filling.slice(filling.length / 2));
      await long.append(filling.slice(filling.length / 2));
      const overflowed = [events.length, long.contextUsage <= long.contextWindow, long.contextUsage > session.contextUsage];

      const controller = new AbortController();
      const other = await session.clone();
      const aborted = name(session.prompt("What is there?", { signal: controller.signal }));
      const next = name(session.prompt("What is there?"));
      controller.abort();
      const twice = [await aborted, (await next) === (await name(other.prompt("What is there?")))];

      const reader = session.promptStreaming("Tell me more.").getReader();
      await reader.cancel();
      const pending = name(session.prompt("And then?"));
      session.destroy();
      const destroyed = [await pending, await name(session.prompt("Hello?")), await name(session.clone())];
      return { initial, room, refused, window: empty.contextWindow, overflowed, twice, destroyed };
    });
    assert.ok(found.initial[0] > 0 && found.initial[0] === found.initial[1], String(found.initial));
    assert.deepEqual(found.room, [0, 1]);
    assert.deepEqual(found.refused, ["QuotaExceededError", found.window, 1]);
    assert.deepEqual(found.overflowed, [1, true, true]);
    assert.deepEqual(found.twice, ["true AbortError", true]);
    assert.deepEqual(found.destroyed, Array(3).fill("true AbortError"));
  });

  test("a page loads the model with the first session and watches it", async (page) => {
    const found = await page.evaluate(async () => {
      const [{ QwenVL }, { installLanguageModel, createLanguageModel }] = await Promise.all([
        import("qwen-vl-web"),
        import("qwen-vl-web/prompt-api"),
      ]);
      let loaded;
      let loads = 0;
      const load = async (options) => {
        loads += 1;
        // A fraction, which some browsers round in their events.
        options.onProgress({ bytes: 1, totalBytes: 2 });
        return (loaded = await QwenVL.load("/nano/", { ...options, backend: "cpu", cache: "none", selfCheck: false }));
      };
      const LanguageModel = createLanguageModel({ load, check: () => QwenVL.check("/nano/", { cache: "none" }) });
      const before = await LanguageModel.availability();
      const events = [];
      const session = await LanguageModel.create({
        monitor: (monitor) => monitor.addEventListener("downloadprogress", (event) => events.push(event)),
      });
      const progress = events.map(({ loaded, total, lengthComputable }) => [loaded, total, lengthComputable]);
      const after = await LanguageModel.availability();
      const answer = await session.prompt("What is there?");
      await loaded.dispose();
      const disposed = await session.prompt("What is there?").catch(({ name }) => name);
      const gone = [await LanguageModel.availability(), await createLanguageModel(loaded).availability()];
      const initialPrompts = [{ role: "system", content: "Be brief." }];
      const again = [await LanguageModel.create({ initialPrompts }).then(({ contextUsage }) => contextUsage > 0), loads];
      await loaded.dispose();
      const native = window.LanguageModel;
      const installed = installLanguageModel(window.model);
      const same = installed === window.LanguageModel && (native === undefined || installed === native);
      if (!native) delete window.LanguageModel;
      return {
        before,
        progress,
        isEvent: events.every((event) => event instanceof ProgressEvent),
        after,
        answer,
        disposed,
        gone,
        again,
        same,
      };
    });
    assert.deepEqual([found.before, found.after, found.isEvent, found.same], ["downloadable", "available", true, true]);
    const fractions = found.progress.map(([loaded]) => loaded);
    assert.deepEqual([fractions[0], fractions[1], fractions.at(-1)], [0, 0.5, 1]);
    assert.ok(
      fractions.every((fraction, at) => at === 0 || fraction > fractions[at - 1]),
      String(fractions),
    );
    assert.ok(found.progress.every(([, total, computable]) => total === 1 && computable));
    assert.equal(typeof found.answer, "string");
    assert.equal(found.disposed, "InvalidStateError");
    assert.deepEqual(
      [found.gone, found.again],
      [
        ["downloadable", "unavailable"],
        [true, 2],
      ],
    );
  });

  test("an answer has the form of its constraint", async (page) => {
    const found = await page.evaluate(async () => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const LanguageModel = createLanguageModel(window.model);
      const session = await LanguageModel.create({ samplingMode: "most-predictable" });
      const ask = async (input, responseConstraint, options) =>
        (await session.clone()).prompt(input, { responseConstraint, ...options }).catch(({ name }) => name);
      const schema = { type: "object", required: ["count"], additionalProperties: false, properties: { count: { enum: [1, 2, 3] } } };
      const chunks = [];
      const reader = session.promptStreaming("Which?", { responseConstraint: /[ab]{3}/ }).getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) chunks.push(next.value);
      return {
        json: await ask("How many are there?", schema),
        omitted: await ask("How many are there?", schema, { omitResponseConstraintInput: true }),
        regex: await ask("How many are there?", /^(four|five) (cats|dogs)$/),
        streamed: chunks.join(""),
        spaced: await ask("How many are there?", /^ (- [ab]\n){2}$/),
        unsupported: await ask("How many are there?", { type: "soup" }),
      };
    });
    for (const json of [found.json, found.omitted]) assert.ok([1, 2, 3].includes(JSON.parse(json).count), json);
    assert.match(found.regex, /^(four|five) (cats|dogs)$/);
    assert.match(found.streamed, /^[ab]{3}$/);
    assert.match(found.spaced, /^ (- [ab]\n){2}$/);
    assert.equal(found.unsupported, "NotSupportedError");
  });

  test("an answer continues its prefix", async (page) => {
    const { whole, rest, own, next } = await page.evaluate(async ({ image }) => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const LanguageModel = createLanguageModel(window.model);
      const blob = await (await fetch(image)).blob();
      const [question, prefix, further] = ["Describe the picture.", "A blue circle at the top", "Where is it?"];
      const content = [
        { type: "image", value: blob },
        { type: "text", value: question },
      ];
      const session = await LanguageModel.create({ expectedInputs: [{ type: "image" }], samplingMode: "most-predictable" });
      const whole = await (await session.clone()).prompt([{ role: "user", content }]);
      const begun = [
        { role: "user", content },
        { role: "assistant", content: prefix, prefix: true },
      ];
      const rest = await session.prompt(begun);
      const generation = { greedy: true, maxTokens: 400 };
      const own = (await window.model.createSession({ generation }).ask([{ image: blob }, question], { prefix })).text;
      const history = [
        { role: "user", content: [{ image: blob }, question] },
        { role: "assistant", content: prefix + rest },
      ];
      const chat = window.model.createSession({ generation, history });
      return { whole, rest, own, next: [await session.prompt(further), (await chat.ask(further)).text] };
    }, SCENE);
    assert.ok(rest.length > 0 && rest !== whole, rest);
    assert.equal(rest, own);
    assert.ok(rest.startsWith(" "), rest);
    // The conversation holds the prefix, too.
    assert.equal(next[0], next[1]);
  });

  test("a constraint is that of the prefix and the answer together", async (page) => {
    const found = await page.evaluate(async () => {
      const { createLanguageModel } = await import("qwen-vl-web/prompt-api");
      const session = await createLanguageModel(window.model).create({ samplingMode: "most-predictable" });
      const ask = async (prefix, responseConstraint) => {
        const input = [
          { role: "user", content: "How many are there?" },
          { role: "assistant", content: prefix, prefix: true },
        ];
        return (await session.clone()).prompt(input, { responseConstraint }).catch(({ name }) => name);
      };
      const schema = { type: "object", required: ["count"], additionalProperties: false, properties: { count: { enum: [1, 2, 3] } } };
      return {
        json: await ask(`{"count": `, schema),
        regex: await ask("four", /^(four|five) (cats|dogs)$/),
        deviating: [await ask("invalid", schema), await ask("six", /^(four|five) (cats|dogs)$/)],
      };
    });
    assert.match(found.json, /^\s*[123]\s*\}$/);
    assert.match(found.regex, /^ (cats|dogs)$/);
    assert.deepEqual(found.deviating, ["NotSupportedError", "NotSupportedError"]);
  });
}
