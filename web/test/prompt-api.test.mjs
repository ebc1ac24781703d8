// The Prompt API: the steps of its specification, in Node with a model that records what it is asked. One word is one token.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { QwenVLModel } from "../dist/api/model.js";
import { Run } from "../dist/api/run.js";
import { createLanguageModel, installLanguageModel } from "../dist/prompt-api.js";
import { QwenVLError } from "../dist/wire/errors.js";
import { untilAborted } from "../dist/wire/abort.js";

globalThis.ProgressEvent ??= class extends Event {
  constructor(type, { loaded, total, lengthComputable }) {
    super(type);
    // As browsers do where the number is an integer.
    Object.assign(this, { loaded: Math.trunc(loaded), total, lengthComputable });
  }
};

const user = (content) => ({ role: "user", content });
const assistant = (content, prefix) => ({ role: "assistant", content, ...(prefix === undefined ? {} : { prefix }) });
const system = (content) => ({ role: "system", content });
const PNG = new Blob([new Uint8Array([0x89, 0x50, 0x4e, 0x47, 1, 2, 3])]);
const picture = { type: "image", value: PNG };
const IMAGE = { expectedInputs: [{ type: "image" }] };
const words = (count) => Array.from({ length: count }, () => "a").join(" ");

const tokensOf = (text) => text.split(/\s+/).filter(Boolean).length;
const partTokens = (parts) => parts.reduce((sum, part) => sum + ("text" in part ? tokensOf(part.text) : 10), 0);
/** Tokens around the texts: of the default system text, of a question, of an answer; and those before an answer. */
const [SYSTEM, QUESTION, ANSWER, BEGINNING] = [7, 2, 3, 1];

/** Length of a prompt, as a chat template makes it. */
function lengthOf({ system, history = [], query }) {
  const turns = history.reduce((sum, [question, answer]) => sum + QUESTION + partTokens(question) + ANSWER + tokensOf(answer), 0);
  const opening = system === undefined ? SYSTEM : 2 + tokensOf(system);
  return opening + turns + QUESTION + partTokens(query) + BEGINNING;
}

/** A model that answers "Yes", or what `answering` returns. */
function fakeModel({ family = "qwen3_vl", contextLength = 1000 } = {}) {
  const alive = () => {
    if (model.disposed) throw new QwenVLError("DISPOSED", "the model was disposed of");
  };
  const model = {
    info: { family, contextLength },
    imageView: { imageOrientation: "from-image", imageColors: "display" },
    asked: [],
    encoded: 0,
    objects: [],
    finishReason: "stop",
    disposed: false,
    dispose: async () => void (model.disposed = true),
    answering: async () => "Yes",
    encoding: () => undefined,
    async encode(_picture, _hold, { signal } = {}) {
      model.encoded += 1;
      await untilAborted(signal, Promise.resolve().then(model.encoding));
    },
    async count({ prompt }, { signal } = {}) {
      alive();
      return untilAborted(
        signal,
        Promise.resolve().then(() => lengthOf(prompt)),
      );
    },
    start: (prepare, options) =>
      new Run((emit) => {
        let cancel = () => undefined;
        const work = async () => {
          alive();
          const { prompt, pictures } = await prepare();
          model.asked.push({ prompt, pictures, options });
          const raw = await model.answering(prompt, options);
          const text = raw.replaceAll(/<[^>]*>/g, "");
          // As the engine does.
          const trimmed = (whole) => (options.constraint ? whole : options.prefix === undefined ? whole.trim() : whole.trimEnd());
          emit({ type: "text", delta: text.slice(0, 2), raw: raw.slice(0, 2) });
          emit({ type: "text", delta: text.slice(2), raw: raw.slice(2) });
          return {
            text: trimmed(text),
            raw: trimmed(raw),
            objects: model.objects,
            finishReason: model.finishReason,
            usage: { completionTokens: tokensOf(raw) },
          };
        };
        const cancelled = new Promise((resolve) => (cancel = () => resolve({ finishReason: "cancelled" })));
        return { answer: untilAborted(options.signal, Promise.race([work(), cancelled])), cancel };
      }),
  };
  return model;
}

/** A promise that the test settles. */
function gate() {
  const held = {};
  held.passed = new Promise((open, fail) => Object.assign(held, { open, fail }));
  return held;
}

async function open(options, model = fakeModel()) {
  const LanguageModel = createLanguageModel(model);
  return { LanguageModel, model, session: await LanguageModel.create(options) };
}

const named = (name, message) => (error) => {
  assert.ok(error instanceof DOMException, String(error));
  assert.equal(error.name, name, error.message);
  if (message) assert.match(error.message, message);
  return true;
};
/** Lets tasks that wait for each other run, also on a busy machine. */
async function settled() {
  for (let round = 0; round < 8; round += 1) await new Promise((resolve) => setTimeout(resolve));
}
async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
const latest = ({ asked }) => asked.at(-1).prompt;

test("Web IDL: what is not a list of messages is a text", async () => {
  const { model, session } = await open();
  for (const [input, text] of [
    ["Hi", "Hi"],
    [null, "null"],
    [undefined, "undefined"],
    [{}, "[object Object]"],
    [5, "5"],
    ["", ""],
    [[], ""],
    [[user([])], ""],
  ]) {
    assert.equal(await session.prompt(input), "Yes");
    assert.deepEqual(latest(model).query, [{ text }]);
  }
});

test("Web IDL: a wrong argument is a TypeError that names it", async () => {
  const { LanguageModel, session } = await open(IMAGE);
  for (const [input, message] of [
    [[5], /`input\[0\]` is 5, expected an object/],
    [[{ content: "A" }], /`input\[0\]\.role` is undefined, expected "system" or "user" or "assistant"/],
    [[user(undefined)], /`input\[0\]\.content` is undefined/],
    [[user([{ type: "soup", value: "A" }])], /content\[0\]\.type` is "soup", expected "text" or "image"/],
    [[user([{ type: "text" }])], /content\[0\]\.value` is undefined/],
    [[user([{ type: "text", value: PNG }])], /content\[0\]\.value` is an object \(Blob\), expected a string/],
    [[user([{ type: "image", value: "cat.png" }])], /content\[0\]\.value` is "cat.png", expected a Blob/],
    [[user([{ type: "image", value: {} }])], /content\[0\]\.value` is "\[object Object\]", expected a Blob/],
    [Symbol("a"), /`input` is Symbol\(a\), expected a string/],
  ]) {
    await assert.rejects(session.prompt(input), { name: "TypeError", message });
  }
  await assert.rejects(session.prompt(), { name: "TypeError", message: /prompt\(\) has no argument/ });
  await assert.rejects(session.prompt("A", 5), { name: "TypeError", message: /`options` is 5/ });
  await assert.rejects(session.prompt("A", { signal: null }), { name: "TypeError", message: /`signal` is null, expected an AbortSignal/ });
  await assert.rejects(LanguageModel.create({ monitor: {} }), { name: "TypeError", message: /`monitor` is/ });
  await assert.rejects(LanguageModel.create({ expectedInputs: {} }), { name: "TypeError", message: /`expectedInputs` is/ });
  await assert.rejects(LanguageModel.availability({ samplingMode: "wild" }), { name: "TypeError", message: /`samplingMode` is "wild"/ });
  await assert.rejects(LanguageModel.create({ expectedInputs: [{ type: "soup" }] }), {
    name: "TypeError",
    message: /`expectedInputs\[0\]\.type` is "soup"/,
  });
});

test("the class cannot be constructed, and its sessions are instances", async () => {
  const { LanguageModel, session } = await open();
  assert.throws(() => new LanguageModel(), { name: "TypeError", message: /Illegal constructor/ });
  assert.ok(session instanceof LanguageModel && session instanceof EventTarget && LanguageModel.name === "LanguageModel");
  assert.equal(Object.prototype.toString.call(session), "[object LanguageModel]");
  assert.deepEqual([LanguageModel.create.length, session.prompt.length], [0, 1]);
});

test("messages become a system text, turns and a question", async () => {
  const { model, session } = await open({ initialPrompts: [system("Be brief."), user("A"), assistant("B")] });
  await session.prompt("C");
  const { system: said, history, query, kind, overflow } = latest(model);
  assert.deepEqual([said, history, query, kind, overflow], ["Be brief.", [[[{ text: "A" }], "B"]], [{ text: "C" }], "chat", "error"]);
  await session.prompt("D");
  assert.deepEqual(latest(model).history.at(-1), [[{ text: "C" }], "Yes"]);
});

test("messages of one role in a row are joined, pictures stay in order", async () => {
  const { model, session } = await open(IMAGE);
  await session.append("A");
  await session.append([user([picture, { type: "text", value: "B" }])]);
  await session.prompt([user("C"), assistant("D"), assistant("E"), user([picture])]);
  const { history, query } = latest(model);
  const joined = [{ text: "A" }, { text: "\n" }, { image: "picture-1" }, { text: "B" }, { text: "\n" }, { text: "C" }];
  assert.deepEqual(history, [[joined, "D\nE"]]);
  assert.deepEqual(query, [{ image: "picture-2" }]);
  assert.equal(model.asked[0].pictures.length, 2);
});

test("after an answer the question is empty, and an answer can come first", async () => {
  const { model, session } = await open();
  await session.prompt([assistant("Hello."), user("A"), assistant("B")]);
  assert.deepEqual(latest(model).history, [
    [[], "Hello."],
    [[{ text: "A" }], "B"],
  ]);
  assert.deepEqual(latest(model).query, []);
});

test("texts of a message in a row become one", async () => {
  const { model, session } = await open(IMAGE);
  const text = (value) => ({ type: "text", value });
  await session.prompt([user([text("foo"), text("bar"), picture, text("A"), text("B")])]);
  assert.deepEqual(latest(model).query, [{ text: "foobar" }, { image: "picture-1" }, { text: "AB" }]);
  await session.prompt([user("A"), assistant([text("B"), text("C")]), user("D")]);
  assert.equal(latest(model).history.at(-1)[1], "BC");
});

test("a system message is only the first of a conversation", async () => {
  const { LanguageModel, model, session } = await open();
  for (const input of [
    [user("A"), system("B")],
    [system("A"), system("B")],
  ]) {
    for (const call of [session.prompt(input), session.append(input), LanguageModel.create({ initialPrompts: input })]) {
      await assert.rejects(call, { name: "TypeError", message: /\[1\]` is a system message/ });
    }
  }
  // Calls that are queued count, too.
  const first = session.prompt([system("Be kind."), user("A")]);
  await assert.rejects(session.prompt([system("C")]), { name: "TypeError" });
  await first;
  assert.equal(latest(model).system, "Be kind.");
  const { session: other } = await open({ initialPrompts: [user("A")] });
  await assert.rejects(other.prompt([system("B")]), { name: "TypeError", message: /`input\[0\]` is a system message/ });
});

test("`prefix` begins the answer, and the conversation holds both", async () => {
  const { model, session } = await open();
  model.answering = () => " potato";
  assert.equal(await session.prompt([user("A"), assistant("One", true)]), " potato");
  assert.deepEqual([model.asked[0].options.prefix, latest(model).history], ["One", []]);
  await session.prompt("B");
  assert.deepEqual(latest(model).history, [[[{ text: "A" }], "One potato"]]);
  assert.equal("prefix" in model.asked[1].options, false);
  assert.equal(model.asked[0].options.maxTokens, model.info.contextLength);
  for (const input of [[{ ...user("A"), prefix: true }], [assistant("A", true), user("B")], [{ ...system("A"), prefix: true }]]) {
    await assert.rejects(session.prompt(input), named("SyntaxError", /prefix` is true: only the last message/));
  }
});

test("a picture needs `expectedInputs` and a user; audio, and pictures elsewhere, are refused", async () => {
  const { session } = await open();
  await assert.rejects(session.prompt([user([picture])]), named("NotSupportedError", /expectedInputs: \[\{ type: "image" \}\]/));
  const { LanguageModel, session: seeing, model } = await open(IMAGE);
  for (const type of ["audio", "tool-call", "tool-response"]) {
    await assert.rejects(seeing.prompt([user([{ type, value: PNG }])]), named("NotSupportedError", new RegExp(type)));
  }
  await assert.rejects(seeing.prompt([assistant([picture])]), named("NotSupportedError", /assistant is text/));
  await assert.rejects(seeing.prompt([system([picture])]), named("NotSupportedError", /system message is text/));
  await assert.rejects(LanguageModel.create({ initialPrompts: [user([picture])] }), named("NotSupportedError"));
  assert.equal(model.asked.length, 0);
  for (const value of [PNG, new ArrayBuffer(8), new Uint8Array(8), new DataView(new ArrayBuffer(8))]) {
    assert.equal(await seeing.prompt([user([{ type: "image", value }])]), "Yes");
  }
});

test("`append` encodes the pictures of messages and adds them without an answer", async () => {
  const { model, session } = await open(IMAGE);
  assert.equal(await session.append([user([picture])]), undefined);
  assert.deepEqual([model.encoded, model.asked.length], [1, 0]);
  await session.prompt("What is it?");
  assert.deepEqual(latest(model).query, [{ image: "picture-1" }, { text: "What is it?" }]);
});

test("language tags are checked and made canonical", async () => {
  const { LanguageModel } = await open();
  const expecting = (...languages) => ({ expectedInputs: [{ type: "text", languages }] });
  for (const call of [LanguageModel.availability, LanguageModel.create]) {
    const signal = AbortSignal.abort();
    await assert.rejects(call.call(LanguageModel, { ...expecting("en-abc-invalid"), signal }), { name: "RangeError" });
  }
  for (const tags of [["EN"], ["en-US", "zh-Hant-TW", "ja", "es"], []]) {
    assert.equal(await LanguageModel.availability(expecting(...tags)), "available");
    await LanguageModel.create(expecting(...tags));
  }
  for (const options of [expecting("en", "unk"), { expectedOutputs: [{ type: "text", languages: ["unk"] }] }]) {
    assert.equal(await LanguageModel.availability(options), "unavailable");
    await assert.rejects(LanguageModel.create(options), named("NotSupportedError", /languages` has "unk"/));
  }
  const old = createLanguageModel(fakeModel({ family: "qwen_vl" }));
  assert.equal(await old.availability(expecting("en", "zh")), "available");
  assert.equal(await old.availability(expecting("ja")), "unavailable");
});

test("types that no model has, and tools, are unavailable", async () => {
  const { LanguageModel } = await open();
  const tool = { name: "add", description: "Adds.", inputSchema: { type: "object" }, execute: async () => "2" };
  for (const [options, message] of [
    [{ expectedInputs: [{ type: "audio" }] }, /`expectedInputs\[0\]\.type` is "audio", expected "text" or "image"/],
    [{ expectedInputs: [{ type: "text" }, { type: "tool-response" }] }, /`expectedInputs\[1\]\.type`/],
    [{ expectedOutputs: [{ type: "image" }] }, /`expectedOutputs\[0\]\.type` is "image", expected "text"/],
    [{ tools: [tool] }, /`tools` are not supported/],
  ]) {
    assert.equal(await LanguageModel.availability(options), "unavailable");
    await assert.rejects(LanguageModel.create(options), named("NotSupportedError", message));
  }
  for (const [wrong, message] of [
    [{ ...tool, inputSchema: null }, /`tools\[0\]\.inputSchema` is null/],
    [{ ...tool, execute: undefined }, /`tools\[0\]\.execute` is undefined/],
    [{ ...tool, name: undefined }, /`tools\[0\]\.name` is undefined/],
    [{ ...tool, description: undefined }, /`tools\[0\]\.description` is undefined/],
  ]) {
    await assert.rejects(LanguageModel.create({ tools: [wrong] }), { name: "TypeError", message });
  }
  assert.equal(await LanguageModel.availability({ tools: [], expectedInputs: [{ type: "image" }] }), "available");
});

test("availability says whether the model is loaded, is being loaded, and can run", async () => {
  const loading = gate();
  const source = { load: () => loading.passed };
  const LanguageModel = createLanguageModel(source);
  assert.equal(await LanguageModel.availability(), "downloadable");
  const session = LanguageModel.create();
  await settled();
  assert.equal(await LanguageModel.availability(), "downloading");
  assert.equal(await LanguageModel.availability({ expectedInputs: [{ type: "audio" }] }), "unavailable");
  loading.open(fakeModel());
  await session;
  assert.equal(await LanguageModel.availability(), "available");

  const checked = (check) => createLanguageModel({ ...source, check: async () => check() });
  assert.equal(await checked(() => ({ status: "unsupported" })).availability(), "unavailable");
  assert.equal(await checked(() => ({ status: "slow", bytes: { download: 5 } })).availability(), "downloadable");
  assert.equal(await checked(() => ({ status: "ok", bytes: { download: 0 } })).availability(), "available");
  assert.equal(await checked(() => ({ status: "unsupported" })).params(), null);
  await assert.rejects(checked(() => ({ status: "unsupported" })).create(), named("NotSupportedError", /cannot run here/));
  const broken = checked(() => {
    throw new Error("no answer");
  });
  await assert.rejects(broken.availability(), named("UnknownError"));
  await assert.rejects(broken.create(), named("UnknownError"));
});

test("sampling: modes, or `topK` and `temperature` within their ranges", async () => {
  const { LanguageModel, model } = await open();
  const sampled = async (options) => {
    const session = await LanguageModel.create(options);
    await session.prompt("A");
    const { greedy, temperature, topK, topP } = model.asked.at(-1).options;
    return { session, asked: { greedy, temperature, topK, topP } };
  };
  const none = { greedy: undefined, temperature: undefined, topK: undefined, topP: undefined };
  const balanced = await sampled();
  assert.deepEqual(balanced.asked, none);
  assert.deepEqual([balanced.session.samplingMode, balanced.session.topK], ["balanced", 20]);
  assert.deepEqual((await sampled({ samplingMode: "most-predictable" })).asked, { ...none, greedy: true });
  const heat = [];
  for (const mode of ["predictable", "slightly-predictable", "slightly-creative", "creative", "most-creative"]) {
    const { session, asked } = await sampled({ samplingMode: mode });
    assert.equal(session.samplingMode, mode);
    assert.equal((await session.clone()).samplingMode, mode);
    heat.push(asked.temperature);
  }
  assert.deepEqual(
    heat,
    heat.toSorted((a, b) => a - b),
  );

  const { session, asked } = await sampled({ topK: 1.5, temperature: 0.8 });
  assert.deepEqual(asked, { ...none, topK: 1, temperature: 0.8 });
  assert.deepEqual([session.topK, session.temperature, session.samplingMode], [1, Math.fround(0.8), null]);
  const { maxTopK, maxTemperature, defaultTopK, defaultTemperature } = await LanguageModel.params();
  const clamped = await sampled({ topK: Infinity, temperature: Infinity });
  assert.deepEqual(clamped.asked, { ...none, topK: maxTopK, temperature: maxTemperature });
  assert.deepEqual([defaultTopK, defaultTemperature], [balanced.session.topK, balanced.session.temperature]);
  for (const wrong of [{ topK: 0 }, { topK: -2 }, { topK: NaN }, { temperature: -0.5 }]) {
    await assert.rejects(LanguageModel.create(wrong), { name: "RangeError", message: /expected a number from/ });
    assert.equal(await LanguageModel.availability(wrong), "available");
  }
  for (const both of [{ topK: 3 }, { temperature: 0.5 }]) {
    for (const call of [LanguageModel.availability, LanguageModel.create]) {
      await assert.rejects(call.call(LanguageModel, { ...both, samplingMode: "balanced" }), { name: "TypeError", message: /samplingMode/ });
    }
  }
});

/** A lazy model, whose load the test reports and ends. */
function lazy() {
  const loads = [];
  const load = (options) => {
    const held = gate();
    // A report before the load returns.
    options.onProgress({ bytes: 1, totalBytes: 65_536 });
    loads.push({ ...options, ...held, report: (bytes, totalBytes = 100) => options.onProgress({ bytes, totalBytes }) });
    return untilAborted(options.signal, held.passed);
  };
  return { loads, LanguageModel: createLanguageModel(load) };
}

test("`downloadprogress` has fractions from 0 to 1, each once, before the session", async () => {
  const { loads, LanguageModel } = lazy();
  const events = [];
  let handled = 0;
  const monitor = (target) => {
    target.ondownloadprogress = () => (handled += 1);
    target.addEventListener("downloadprogress", ({ loaded, total, lengthComputable }) => {
      assert.deepEqual([total, lengthComputable], [1, true]);
      events.push(loaded);
    });
  };
  const session = LanguageModel.create({ monitor });
  await settled();
  assert.deepEqual(events, [0, 1 / 65_536]);
  const [{ report, open }] = loads;
  for (const bytes of [0, 1, 1, 50, 40, 100]) report(bytes);
  report(0, 0);
  open(fakeModel());
  await session;
  assert.deepEqual(events, [0, 1 / 65_536, Math.floor(0.01 * 65_536) / 65_536, 0.5, 1]);
  assert.equal(handled, 5);

  // Without a download there are two.
  events.length = 0;
  await LanguageModel.create({ monitor });
  assert.deepEqual(events, [0, 1]);
});

test("a monitor that throws ends the creation, and an abort ends the events", async () => {
  const { loads, LanguageModel } = lazy();
  const error = new Error("the monitor's own");
  await assert.rejects(
    LanguageModel.create({
      monitor: () => {
        throw error;
      },
    }),
    (thrown) => thrown === error,
  );
  assert.equal(loads.length, 0);
  for (const at of [0, 0.5, 1]) {
    const controller = new AbortController();
    const events = [];
    const monitor = (target) =>
      target.addEventListener("downloadprogress", ({ loaded }) => {
        events.push(loaded);
        if (loaded === at) controller.abort(error);
      });
    const created = LanguageModel.create({ monitor, signal: controller.signal });
    created.catch(() => undefined);
    await settled();
    loads.at(-1).report(50);
    loads.at(-1).report(75);
    await settled();
    loads.at(-1).open(fakeModel());
    await assert.rejects(created, (thrown) => thrown === error);
    await settled();
    assert.equal(events.at(-1), at);
    if (at === 1) assert.equal(await LanguageModel.availability(), "available");
  }
});

test("sessions share a load, which ends when nobody waits for it", async () => {
  const { loads, LanguageModel } = lazy();
  const [first, second] = [new AbortController(), new AbortController()];
  const [one, two] = [first, second].map(({ signal }) => LanguageModel.create({ signal }));
  await settled();
  first.abort();
  await assert.rejects(one, named("AbortError"));
  assert.deepEqual([loads.length, loads[0].signal.aborted], [1, false]);
  second.abort();
  await assert.rejects(two, named("AbortError"));
  assert.equal(loads[0].signal.aborted, true);
  await settled();
  assert.equal(await LanguageModel.availability(), "downloadable");
  const again = LanguageModel.create();
  await settled();
  loads[1].open(fakeModel());
  await again;
  await LanguageModel.create();
  assert.equal(loads.length, 2);
});

test("a load that fails rejects by its reason, and the next session loads again", async () => {
  const { loads, LanguageModel } = lazy();
  for (const [error, name] of [
    [new QwenVLError("DOWNLOAD", "no connection"), "NetworkError"],
    [new QwenVLError("INTEGRITY", "wrong bytes"), "NetworkError"],
    [new QwenVLError("NO_ADAPTER", "no GPU"), "NotSupportedError"],
    [new QwenVLError("UNSUPPORTED_MODEL", "another model"), "NotSupportedError"],
    [new QwenVLError("INTERNAL", "a bug"), "OperationError"],
    [new Error("the page's own"), "OperationError"],
  ]) {
    const created = LanguageModel.create();
    await settled();
    loads.at(-1).fail(error);
    await assert.rejects(created, (thrown) => {
      assert.equal(thrown.cause, error);
      return named(name)(thrown);
    });
  }
});

test("a model that was disposed of is loaded again for the next session", async () => {
  const { loads, LanguageModel } = lazy();
  const created = LanguageModel.create();
  await settled();
  const model = fakeModel();
  loads[0].open(model);
  const session = await created;
  await session.prompt("A");
  for (const [options, uses] of [
    [{}, true],
    [{}, false],
    [{ initialPrompts: [user("A")] }, false],
  ]) {
    const { length } = loads;
    await (await loads.at(-1).passed).dispose();
    if (uses) await assert.rejects(session.prompt("A"), named("InvalidStateError", /disposed of/));
    assert.equal(await LanguageModel.availability(), "downloadable");
    const [one, two] = [LanguageModel.create(options), LanguageModel.create(options)];
    await settled();
    assert.equal(loads.length, length + 1);
    loads.at(-1).open(fakeModel());
    assert.equal(await (await one).prompt("A"), "Yes");
    await two;
  }
  await assert.rejects(session.prompt("A"), named("InvalidStateError", /disposed of/));
});

test("a loaded model that was disposed of is unavailable", async () => {
  const { LanguageModel, model } = await open();
  await model.dispose();
  assert.equal(await LanguageModel.availability(), "unavailable");
  await assert.rejects(LanguageModel.create(), named("NotSupportedError", /disposed of/));

  // The class of the package says so without its worker.
  const calls = [];
  const client = { call: (kind, _, { signal }) => ({ result: calls.push([kind, signal.aborted]) && Promise.reject(signal.reason) }) };
  const own = new QwenVLModel({ client: { ...client, shutDown: async () => 0 }, info: { family: "qwen3_vl" } }, "", {});
  const { availability } = createLanguageModel(own);
  assert.equal(await availability(), "available");
  await own.dispose();
  assert.equal(await availability(), "unavailable");
  assert.deepEqual(calls, [["count", true]]);
});

test("a load that ignores its abort is disposed of", async () => {
  const loads = [];
  const LanguageModel = createLanguageModel(() => {
    loads.push(gate());
    return loads.at(-1).passed;
  });
  const controller = new AbortController();
  const left = LanguageModel.create({ signal: controller.signal });
  await settled();
  controller.abort();
  await assert.rejects(left, named("AbortError"));
  const next = LanguageModel.create();
  await settled();
  const [late, model] = [fakeModel(), fakeModel()];
  loads[0].open(late);
  await settled();
  loads[1].open(model);
  await (await next).prompt("A");
  assert.deepEqual([late.disposed, model.disposed, late.asked.length, model.asked.length], [true, false, 0, 1]);
});

test("`signal` of `create` aborts it at once, and afterwards destroys the session", async () => {
  const { LanguageModel, model } = await open();
  const reason = new Error("the page's own");
  const aborted = AbortSignal.abort(reason);
  await assert.rejects(LanguageModel.create({ signal: aborted }), (thrown) => thrown === reason);
  const during = new AbortController();
  const created = LanguageModel.create({ signal: during.signal });
  during.abort(reason);
  await assert.rejects(created, (thrown) => thrown === reason);

  // While the pictures of the initial prompts are encoded.
  const encoding = gate();
  model.encoding = () => encoding.passed;
  const late = new AbortController();
  const slow = LanguageModel.create({ ...IMAGE, initialPrompts: [user([picture])], signal: late.signal });
  await settled();
  late.abort(reason);
  await assert.rejects(slow, (thrown) => thrown === reason);

  const after = new AbortController();
  const session = await LanguageModel.create({ signal: after.signal });
  model.answering = () => gate().passed;
  const prompt = session.prompt("A");
  after.abort(reason);
  await assert.rejects(prompt, (thrown) => thrown === reason);
  await assert.rejects(session.clone(), (thrown) => thrown === reason);
});

test("a session that was destroyed does not listen to the `signal` of `create`", async () => {
  const { LanguageModel } = await open();
  const { signal } = new AbortController();
  const session = await LanguageModel.create({ signal });
  assert.equal(getEventListeners(signal, "abort").length, 1);
  session.destroy();
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("`initialPrompts` count, and fail if they alone are too long", async () => {
  const { LanguageModel, session } = await open();
  assert.deepEqual([session.contextUsage, (await LanguageModel.create({ initialPrompts: [] })).contextUsage], [0, 0]);
  for (const initialPrompts of [[system("A B C")], [user("A"), assistant("B")], [system("A"), user("B C D")]]) {
    const { contextUsage } = await LanguageModel.create({ initialPrompts });
    assert.equal(contextUsage, await session.measureContextUsage(initialPrompts));
    const texts = initialPrompts.map(({ content }) => content).join(" ");
    assert.ok(contextUsage > tokensOf(texts));
  }
  const initialPrompts = [system(words(1000))];
  const requested = await session.measureContextUsage(initialPrompts);
  await assert.rejects(LanguageModel.create({ initialPrompts }), (error) => {
    assert.deepEqual([error.name, error.requested, error.quota], ["QuotaExceededError", requested, session.contextWindow]);
    return true;
  });
});

test("usage grows by what was measured and by the answer, and the window fits the prompt", async () => {
  const { model, session } = await open();
  model.answering = () => "One two three";
  const first = await session.measureContextUsage("A B");
  await session.append("A B");
  assert.equal(session.contextUsage, first);
  await session.prompt([user("C"), assistant("D"), user("E")]);
  const answered = session.contextUsage;
  await session.prompt("F G");
  assert.equal(session.contextUsage - answered, 2 + QUESTION + 3 + ANSWER);
  // The prompt that is asked next has this length at most.
  const used = session.contextUsage + (await session.measureContextUsage("H"));
  await session.prompt("H");
  assert.ok(lengthOf(latest(model)) <= model.info.contextLength - 1 - (session.contextWindow - used));
  const { inputUsage, contextUsage, inputQuota, contextWindow } = session;
  assert.deepEqual([inputUsage, inputQuota], [contextUsage, contextWindow]);
  assert.equal(await session.measureInputUsage("A B"), first);
});

test("a prompt that fills the window leaves one token for the answer, and one token more fails", async () => {
  const { LanguageModel, model, session } = await open(undefined, fakeModel({ contextLength: 60 }));
  const fits = session.contextWindow - QUESTION;
  await session.prompt(words(fits));
  assert.equal(lengthOf(latest(model)), 59);
  const other = await LanguageModel.create();
  await assert.rejects(other.prompt(words(fits + 1)), (error) => {
    assert.deepEqual([error.name, error.requested, error.quota], ["QuotaExceededError", session.contextWindow + 1, session.contextWindow]);
    return error instanceof DOMException;
  });
  await assert.rejects(other.append(words(fits + 1)), { name: "QuotaExceededError" });
  assert.equal(other.contextUsage, 0);
});

test("the class of the browser is used for `QuotaExceededError`", async () => {
  const { QuotaExceededError } = globalThis;
  const { session } = await open(undefined, fakeModel({ contextLength: 60 }));
  globalThis.QuotaExceededError = class extends DOMException {
    constructor(message, numbers) {
      super(message, "QuotaExceededError");
      Object.assign(this, numbers);
    }
  };
  try {
    await assert.rejects(session.prompt(words(100)), globalThis.QuotaExceededError);
  } finally {
    if (QuotaExceededError) globalThis.QuotaExceededError = QuotaExceededError;
    else delete globalThis.QuotaExceededError;
  }
});

test("an overflow leaves out the oldest exchanges, never the initial prompts, and is reported", async () => {
  const initialPrompts = [system("S"), user("initial"), assistant("B")];
  const { model, session } = await open({ initialPrompts }, fakeModel({ contextLength: 80 }));
  const events = [];
  session.oncontextoverflow = () => events.push("replaced");
  session.oncontextoverflow = ({ type }) => events.push(type);
  session.onquotaoverflow = ({ type }) => events.push(type);
  await session.prompt(`first ${words(10)}`);
  await session.prompt(`second ${words(10)}`);
  assert.deepEqual(events, []);
  await session.prompt(`third ${words(25)}`);
  assert.deepEqual(events, ["contextoverflow", "quotaoverflow"]);
  const { history, system: said } = latest(model);
  const questions = history.map(([question]) => question[0].text.split(" ")[0]);
  assert.deepEqual([said, questions], ["S", ["initial", "second"]]);
  assert.ok(session.contextUsage <= session.contextWindow);
  // Nothing is left out for what does not fit anyway.
  const before = session.contextUsage;
  await assert.rejects(session.prompt(words(70)), { name: "QuotaExceededError", requested: before + 72 });
  assert.deepEqual([session.contextUsage, events.length], [before, 2]);
  session.oncontextoverflow = null;
  assert.equal(session.oncontextoverflow, null);
  await session.append(words(50));
  assert.deepEqual(events.slice(2), ["quotaoverflow"]);
});

test("exchanges are left out for the answer, too, and a system text of the first prompt stays", async () => {
  const { model, session } = await open(undefined, fakeModel({ contextLength: 180 }));
  const overflow = new Promise((resolve) => session.addEventListener("contextoverflow", resolve));
  await session.prompt([system("Be kind."), user(words(60))]);
  await session.prompt(words(session.contextWindow - session.contextUsage - QUESTION - 5));
  await overflow;
  assert.deepEqual([latest(model).system, latest(model).history], ["Be kind.", []]);
});

test("prompts of a session are answered in order; an abort removes a prompt and its answer", async () => {
  const { model, session } = await open();
  const gates = [gate(), gate(), gate()];
  model.answering = () => gates[model.asked.length - 1].passed;
  const [first, second, third] = [new AbortController(), new AbortController(), new AbortController()];
  const asked = ["A", "B", "C"].map((text, at) => session.prompt(text, { signal: [first, second, third][at].signal }));
  asked.forEach((promise) => promise.catch(() => undefined));
  await settled();
  assert.equal(model.asked.length, 1);
  assert.equal(session.contextUsage, await session.measureContextUsage("A"));
  // One that waits, and one that is being answered.
  second.abort(new Error("second"));
  await assert.rejects(asked[1], /second/);
  first.abort();
  await assert.rejects(asked[0], named("AbortError"));
  assert.equal(session.contextUsage, 0);
  await settled();
  assert.deepEqual([model.asked.length, latest(model).history, latest(model).query], [2, [], [{ text: "C" }]]);
  gates[1].open("Done");
  assert.equal(await asked[2], "Done");
  third.abort();
  gates[2].open("Yes");
  await session.prompt("D");
  assert.deepEqual(latest(model).history, [[[{ text: "C" }], "Done"]]);
});

test("an aborted signal rejects before the messages are checked", async () => {
  const { session } = await open();
  const reason = new Error("the page's own");
  const options = { signal: AbortSignal.abort(reason) };
  const wrong = [assistant([picture])];
  for (const call of [session.prompt(wrong, options), session.append(wrong, options), session.measureContextUsage(wrong, options)]) {
    await assert.rejects(call, (thrown) => thrown === reason);
  }
  await assert.rejects(session.clone(options), (thrown) => thrown === reason);
  assert.throws(
    () => session.promptStreaming(wrong, options),
    (thrown) => thrown === reason,
  );
});

test("a stream has the text in pieces", async () => {
  const { model, session } = await open();
  model.answering = () => "A <ref>cat</ref> sat";
  const stream = session.promptStreaming("A");
  assert.ok(stream instanceof ReadableStream);
  assert.deepEqual(await read(stream), ["A ", "cat sat"]);
  assert.ok(session.contextUsage > 0);
  await session.prompt("B");
  assert.equal(latest(model).history[0][1], "A <ref>cat</ref> sat");
});

test("a stream throws for wrong arguments, and errors for messages that are refused", async () => {
  const { model, session } = await open();
  assert.throws(() => session.promptStreaming(), { name: "TypeError" });
  assert.throws(() => session.promptStreaming([5]), { name: "TypeError" });
  await assert.rejects(read(session.promptStreaming([user([picture])])), named("NotSupportedError"));
  await assert.rejects(read(session.promptStreaming([user("A"), system("B")])), { name: "TypeError" });
  await assert.rejects(read(session.promptStreaming("A", { omitResponseConstraintInput: true })), { name: "TypeError" });
  model.answering = () => {
    throw new QwenVLError("INTERNAL", "a bug");
  };
  await assert.rejects(read(session.promptStreaming("A")), named("UnknownError", /a bug/));
});

test("an abort errors a stream at once; leaving it ends the run", async () => {
  const { model, session } = await open();
  let ended;
  model.answering = (_, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject((ended = signal.reason))));
  const reason = new Error("the page's own");
  const controller = new AbortController();
  const chunks = read(session.promptStreaming("A", { signal: controller.signal }));
  controller.abort(reason);
  await assert.rejects(chunks, (thrown) => thrown === reason);

  const reader = session.promptStreaming("B").getReader();
  await settled();
  await reader.cancel();
  await settled();
  assert.equal(ended.name, "AbortError");
  model.answering = () => "Yes";
  assert.equal(await session.prompt("C"), "Yes");
  assert.deepEqual(latest(model).history, []);
});

test("`measureContextUsage` does not depend on the conversation, and takes any role", async () => {
  const { session } = await open();
  const messages = [system("A"), user("B"), assistant("C")];
  const before = await session.measureContextUsage(messages);
  await session.prompt("D");
  assert.equal(await session.measureContextUsage(messages), before);
  assert.equal(await session.measureContextUsage("A B C"), 3 + QUESTION);
  await assert.rejects(session.measureContextUsage("A", { omitResponseConstraintInput: true }), { name: "TypeError" });
  const { session: seeing, model } = await open(IMAGE);
  assert.equal(await seeing.measureContextUsage([user([picture])]), 10 + QUESTION);
  assert.equal(model.asked.length, 0);
});

test("`responseConstraint` reaches the engine, and is described to the model unless it is left out", async () => {
  const { model, session } = await open();
  const schema = { type: "object", properties: { rating: { type: "number" } } };
  model.answering = () => `{"rating": 3, "bbox_2d": "<b>"}`;
  assert.equal(await session.prompt("A", { responseConstraint: schema }), `{"rating": 3, "bbox_2d": "<b>"}`);
  assert.deepEqual(model.asked[0].options.constraint, { jsonSchema: schema });
  const query = latest(model)
    .query.map(({ text }) => text)
    .join("");
  assert.ok(query.startsWith("A\n") && query.includes(JSON.stringify(schema)));
  const measured = await session.measureContextUsage("A", { responseConstraint: schema });
  assert.ok(measured > (await session.measureContextUsage("A")));
  assert.ok(measured > (await session.measureContextUsage("A", { responseConstraint: schema, omitResponseConstraintInput: true })));
  await session.prompt("B", { responseConstraint: schema, omitResponseConstraintInput: true });
  assert.deepEqual(latest(model).query, [{ text: "B" }]);

  model.answering = () => "-5";
  assert.equal(await session.prompt("C", { responseConstraint: /^-?\d$/g }), "-5");
  const { regex } = model.asked.at(-1).options.constraint;
  assert.deepEqual([regex.source, regex.flags], ["^-?\\d$", ""]);
  model.answering = () => "1 <b>2</b>";
  assert.deepEqual(await read(session.promptStreaming("D", { responseConstraint: /\d <b>\d<.b>/ })), ["1 ", "<b>2</b>"]);
});

test("an answer with a constraint keeps the white space at its ends", async () => {
  const { model, session } = await open();
  for (const [raw, responseConstraint] of [
    ["- a\n- b\n", /^(- \w\n){2}$/],
    [" yes", /^ yes$/],
    ["  \n 5 ", { type: "integer" }],
  ]) {
    model.answering = () => raw;
    assert.equal(await session.prompt("A", { responseConstraint }), raw);
    assert.equal((await read(session.promptStreaming("B", { responseConstraint }))).join(""), raw);
    await session.prompt("C");
    assert.deepEqual(
      latest(model)
        .history.slice(-2)
        .map(([, answer]) => answer),
      [raw, raw],
    );
    const begun = [user("D"), assistant("4", true)];
    assert.equal(await session.prompt(begun, { responseConstraint: /^4\s*[^]*$/ }), raw);
  }
  model.answering = () => " yes <b>\n";
  assert.equal(await session.prompt("E"), "yes");
  assert.equal(await session.prompt([user("F"), assistant("Oh", true)]), " yes");
  assert.equal((await read(session.promptStreaming([user("F"), assistant("Oh", true)]))).join("").trimEnd(), " yes");
  await session.prompt("G");
  assert.equal(latest(model).history.at(-1)[1], "Oh yes <b>");
});

test("a constraint of another kind is refused, and an answer that does not fit is a SyntaxError", async () => {
  const { model, session } = await open();
  for (const wrong of [5, "text", null, [], () => undefined]) {
    await assert.rejects(session.prompt("A", { responseConstraint: wrong }), { name: "TypeError", message: /`responseConstraint` is/ });
  }
  await assert.rejects(session.prompt("A", { omitResponseConstraintInput: true }), { name: "TypeError", message: /give both or neither/ });
  const circular = {};
  circular.self = circular;
  for (const unwritten of [circular, { toJSON: () => undefined }]) {
    await assert.rejects(session.prompt("A", { responseConstraint: unwritten }), named("NotSupportedError", /cannot be written as JSON: /));
  }
  assert.equal(model.asked.length, 0);
  model.answering = () => {
    throw new QwenVLError("INVALID_ARGUMENT", "jsonSchema: `soup` is not a type");
  };
  await assert.rejects(session.prompt("A", { responseConstraint: { type: "soup" } }), named("NotSupportedError", /soup/));
  model.answering = () => `{"rating": `;
  await assert.rejects(session.prompt("A", { responseConstraint: { type: "object" } }), named("SyntaxError", /not JSON/));
  await assert.rejects(session.prompt("A", { responseConstraint: /^\d+$/ }), named("SyntaxError", /does not match/));
  assert.equal(session.contextUsage, 0);
  // The constraint is that of the whole answer, with its given beginning.
  model.answering = () => "3}";
  const begun = [user("A"), assistant(`{"rating": `, true)];
  assert.equal(await session.prompt(begun, { responseConstraint: { type: "object" } }), "3}");
});

test("an answer that ends early is a SyntaxError, even if it fits, and a RegExp is that of the whole text", async () => {
  const { model, session } = await open();
  const ask = (raw, responseConstraint, finishReason = "stop") => {
    Object.assign(model, { answering: () => raw, finishReason });
    return session.prompt("A", { responseConstraint });
  };
  for (const finishReason of ["context", "loop", "length"]) {
    for (const constraint of [{ type: "integer" }, /\d+/]) {
      await assert.rejects(
        ask("12", constraint, finishReason),
        named("SyntaxError", new RegExp(`before it was complete \\("${finishReason}"\\)`)),
      );
    }
  }
  assert.equal(session.contextUsage, 0);
  for (const [raw, regex] of [
    ["1 or 2", /\d/],
    ["ab", /a|b/],
    ["1\nx", /^\d$/m],
    ["x\n1", /^\d$/m],
    ["12", /\d/y],
  ]) {
    await assert.rejects(ask(raw, regex), named("SyntaxError", /does not match/), `${regex}`);
  }
  for (const [raw, regex] of [
    // One character of two UTF-16 units.
    ["😀", /^.$/],
    ["😀", /^.$/u],
    ["ab", /a|ab/],
    ["1\n2", /^\d$\n^\d$/m],
    ["YES", /^yes$/gi],
    // Not valid with the flag `u`.
    ["-a", new RegExp("^\\-a$")],
  ]) {
    assert.equal(await ask(raw, regex), raw, `${regex}`);
  }
});

test("`objects` are those of the latest answer", async () => {
  const { model, session } = await open();
  assert.deepEqual(session.objects, []);
  const cat = { kind: "box", ref: "cat", norm: [1, 2, 3, 4], range: [0, 3] };
  model.objects = [cat];
  await session.prompt("Where is the cat?");
  assert.deepEqual(session.objects, [cat]);
  model.objects = [];
  await session.prompt("And the dog?");
  assert.deepEqual(session.objects, []);
});

test("a clone continues separately, without what is being answered", async () => {
  const { LanguageModel, model, session } = await open({ initialPrompts: [system("S")], topK: 3 });
  await session.prompt("A");
  const held = gate();
  model.answering = () => held.passed;
  const pending = session.prompt("B");
  await settled();
  const clone = await session.clone();
  held.open("Yes");
  await pending;
  model.answering = () => "Yes";
  assert.ok(clone instanceof LanguageModel && clone !== session);
  assert.deepEqual([clone.topK, clone.contextWindow], [session.topK, session.contextWindow]);
  await clone.prompt("C");
  assert.deepEqual([latest(model).system, latest(model).history], ["S", [[[{ text: "A" }], "Yes"]]]);
  session.destroy();
  assert.equal(await clone.prompt("D"), "Yes");
  const controller = new AbortController();
  const aborted = clone.clone({ signal: controller.signal });
  controller.abort();
  await assert.rejects(aborted, named("AbortError"));
});

test("`destroy` rejects calls in progress and later ones, and leaves the attributes", async () => {
  const { model, session } = await open();
  model.answering = () => gate().passed;
  const calls = () => [session.prompt("A"), session.append("B"), session.measureContextUsage("C"), session.clone()];
  const before = calls();
  before.push(read(session.promptStreaming("D")));
  assert.equal(session.destroy(), undefined);
  for (const call of [...before, ...calls()]) await assert.rejects(call, named("AbortError", /the session was destroyed/));
  assert.throws(() => session.promptStreaming("A"), named("AbortError"));
  for (const name of ["contextUsage", "contextWindow", "inputUsage", "inputQuota", "topK", "temperature"]) {
    assert.equal(typeof session[name], "number");
  }
});

test("failures of the engine have the names of the specification", async () => {
  const { model, session } = await open(IMAGE);
  for (const [error, name, part] of [
    [new QwenVLError("IMAGE_DECODE", "not a picture"), "InvalidStateError", "encoding"],
    [new QwenVLError("IMAGE_TOO_LARGE", "too large"), "InvalidStateError", "encoding"],
    [new QwenVLError("DEVICE_LOST", "lost"), "UnknownError", "answering"],
    [new QwenVLError("CONTEXT_OVERFLOW", "too long", { details: { used: 9, limit: 5 } }), "QuotaExceededError", "answering"],
    [new Error("a bug"), "UnknownError", "answering"],
  ]) {
    model[part] = () => {
      throw error;
    };
    for (const call of [() => session.prompt([user([picture])]), () => read(session.promptStreaming([user([picture])]))]) {
      await assert.rejects(call(), named(name));
    }
    model.encoding = () => undefined;
  }
  assert.equal(session.contextUsage, 0);
});

test("`installLanguageModel` keeps the browser's own", async () => {
  assert.equal("LanguageModel" in globalThis, false);
  try {
    const installed = installLanguageModel(fakeModel());
    assert.equal(globalThis.LanguageModel, installed);
    assert.equal(Object.keys(globalThis).includes("LanguageModel"), false);
    assert.equal(installLanguageModel(fakeModel()), installed);
    assert.equal(await (await globalThis.LanguageModel.create()).prompt("A"), "Yes");
  } finally {
    delete globalThis.LanguageModel;
  }
});
