// The life of a model from load to disposal, in Node: the client and the server of the package over a stand-in for the wasm edge.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { QwenVL, QwenVLError } from "../dist/index.js";
import { errorData } from "../dist/wire/errors.js";
import { WorkerClient } from "../dist/wire/client.js";
import { engineImages } from "../dist/worker/images.js";
import { FakeEdge, fakeWorker, gate, modelFiles, settled } from "./fake-edge.mjs";

before(() => {
  globalThis.isSecureContext = true;
});

const pixels = { width: 1, height: 1, data: new Uint8ClampedArray(4) };
globalThis.ImageData ??= class ImageData {};
const picture = Object.assign(Object.create(ImageData.prototype), pixels);

async function load(edge, options = {}) {
  return QwenVL.load(modelFiles(), { worker: fakeWorker(edge), ...options });
}

/** The code of a rejection, or its message if it is not one of the package. */
const failure = (promise) =>
  promise.then(
    () => "fulfilled",
    (error) => error.code ?? error.message,
  );

test("a question that fails at once does not let the next one overtake the earlier one", async () => {
  for (const fails of [{ queue: false }, { signal: AbortSignal.abort() }]) {
    const edge = new FakeEdge();
    const chat = (await load(edge)).createSession();
    const first = gate();
    edge.answering = (query) => (query === "A" ? first.passed : undefined);
    const a = chat.ask("A");
    await assert.rejects(async () => chat.ask("B", fails));
    const c = chat.ask("C");
    await settled();
    assert.equal(edge.asked.length, 1);
    first.open();
    await a;
    await c;
    assert.deepEqual(
      edge.asked.map(({ prompt }) => [prompt.query, prompt.history]),
      [
        ["A", []],
        ["C", [["A", "answer to A"]]],
      ],
    );
  }
});

test("an abort of a question that waits takes effect at once", async () => {
  const edge = new FakeEdge();
  const model = await load(edge);
  const chat = model.createSession();
  const first = gate();
  edge.answering = (query) => (query === "A" ? first.passed : undefined);
  const a = chat.ask("A");
  const controller = new AbortController();
  const b = failure(chat.ask("B", { signal: controller.signal }));
  const count = failure(chat.countTokens("C", { signal: controller.signal }));
  await settled();
  controller.abort(new Error("enough"));
  assert.equal(await b, "enough");
  assert.equal(await count, "enough");
  first.open();
  assert.equal((await a).raw, "answer to A");
  assert.equal((await chat.ask("D")).raw, "answer to D");
  assert.deepEqual(
    edge.asked.map(({ prompt }) => prompt.query),
    ["A", "D"],
  );
});

test("cancelling a question that waits ends it at once, in the same conversation and in another", async () => {
  const edge = new FakeEdge();
  const model = await load(edge);
  const chat = model.createSession();
  const first = gate();
  edge.answering = (query) => (query === "A" ? first.passed : undefined);
  const a = chat.ask("A");
  const waiting = [chat.ask("B"), model.createSession().ask("C")];
  const events = [];
  const iterating = (async () => {
    for await (const event of waiting[1]) events.push(event.type);
  })();
  await settled();
  for (const run of waiting) run.cancel();
  for (const run of waiting) {
    const { raw, finishReason, usage } = await run;
    assert.deepEqual([raw, finishReason, usage.promptTokens], ["", "cancelled", 0]);
  }
  await iterating;
  first.open();
  assert.equal((await a).raw, "answer to A");
  assert.equal((await chat.ask("D")).raw, "answer to D");
  await settled();
  // The request of the other conversation had been sent; nothing of its late answer is reported.
  assert.deepEqual(
    edge.asked.map(({ prompt }) => [prompt.query, prompt.history.length]),
    [
      ["A", 0],
      ["C", 0],
      ["D", 1],
    ],
  );
  assert.deepEqual(events, ["done"]);
  assert.equal(chat.history.length, 4);
});

test("a load that fails while a picture is being encoded reports its own error at once, and frees the engine", async () => {
  const edge = new FakeEdge();
  const started = gate();
  // A picture that takes for ever.
  edge.encoding = () => {
    started.open();
    return gate().passed;
  };
  let drains = 0;
  // The second time, the upload of all weights.
  edge.drained = async () => {
    drains += 1;
    if (drains < 2) return;
    await started.passed;
    throw Object.assign(new Error("shard-3 is damaged"), { code: "INTEGRITY" });
  };
  const loading = QwenVL.load(modelFiles(), { worker: fakeWorker(edge) });
  const reference = failure(loading.encodeImage(picture));
  assert.equal(await failure(loading), "INTEGRITY");
  assert.equal(await reference, "INTEGRITY");
  await settled();
  assert.deepEqual(edge.log, ["created", "encoding", "loader destroyed", "destroyed", "released", "terminated"]);
});

test("an abort during the check of the kernels rejects at once; the check ends before the worker does", async () => {
  const edge = new FakeEdge();
  edge.checking = () => gate().passed;
  const controller = new AbortController();
  const onProgress = ({ phase }) => phase === "warmup" && controller.abort(new Error("enough"));
  assert.equal(await failure(load(edge, { signal: controller.signal, onProgress })), "enough");
  await settled();
  assert.deepEqual(edge.log, ["created", "loader destroyed", "destroyed", "released", "terminated"]);
});

test("a load that fails before the engine is made destroys the loader", async () => {
  for (const fail of [
    (edge) => (edge.drained = () => Promise.reject(new Error("out of memory"))),
    (edge) => {
      edge.engineMaking = () => {
        throw new Error("not a vocabulary");
      };
    },
  ]) {
    const edge = new FakeEdge();
    fail(edge);
    assert.equal(await failure(load(edge)), "INTERNAL");
    await settled();
    assert.deepEqual(edge.log, ["created", "loader destroyed", "terminated"]);
  }
});

test("a model that is disposed of during an answer is freed at once, and no call stays pending", async () => {
  const edge = new FakeEdge();
  const model = await load(edge);
  // An answer that takes for ever.
  edge.answering = () => gate().passed;
  const pending = failure(model.createSession().ask("A"));
  const waiting = failure(model.createSession().ask("B"));
  await settled();
  await model.dispose();
  assert.deepEqual([await pending, await waiting], ["DISPOSED", "DISPOSED"]);
  assert.deepEqual(edge.log.slice(1), ["loader destroyed", "destroyed", "released", "terminated"]);
});

test("a worker that does not answer is terminated, and what is pending rejects", async () => {
  const edge = new FakeEdge();
  const worker = fakeWorker(edge);
  const model = await QwenVL.load(modelFiles(), { worker });
  worker.postMessage = () => undefined;
  const pending = failure(model.createSession().ask("A"));
  assert.equal(await model.disposeCounting?.(), undefined);
  assert.equal(await pending, "DISPOSED");
  assert.ok(worker.terminated);
});

test("pending calls reject before the worker is terminated, whatever happens then", async () => {
  const worker = {
    postMessage: () => undefined,
    terminate() {
      throw new Error("cannot be terminated");
    },
  };
  const client = new WorkerClient(worker);
  const pending = failure(client.call("count", { prompt: { kind: "raw", text: "A" } }).result);
  assert.throws(() => client.end(new QwenVLError("DISPOSED", "over")), /cannot be terminated/);
  assert.equal(await pending, "DISPOSED");
});

test("shutting down leaves no timer behind", async () => {
  const model = await load(new FakeEdge());
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
  const before = timers();
  await model.dispose();
  assert.equal(timers(), before);
});

test("a worker of the page serves one load: recover() and another load reject with DISPOSED", async () => {
  const edge = new FakeEdge();
  const worker = fakeWorker(edge);
  const model = await QwenVL.load(modelFiles(), { worker });
  worker.onmessage({ data: { kind: "lost", error: { code: "DEVICE_LOST", message: "gone" } } });
  await assert.rejects(model.recover(), ({ code, message }) => code === "DISPOSED" && /own worker ended with it/.test(message));
  await assert.rejects(QwenVL.load(modelFiles(), { worker }), ({ code, message }) => code === "DISPOSED" && /new Worker/.test(message));
});

test("tasks are greedy, unless an option asks for sampling", async () => {
  const edge = new FakeEdge();
  const model = await load(edge);
  const greedy = async (options) => {
    await model.caption(picture, options);
    return edge.asked.at(-1).generation.greedy;
  };
  assert.equal(await greedy({}), true);
  assert.equal(await greedy({ seed: 1 }), true);
  for (const option of [{ temperature: 0.5 }, { topP: 0.5 }, { topK: 5 }]) assert.equal(await greedy(option), undefined);
  assert.equal(await greedy({ temperature: 0.5, greedy: true }), true);
});

test("an error with a code of another library is INTERNAL", () => {
  for (const code of ["toString", "constructor", "ENOENT", 3]) {
    assert.equal(errorData(Object.assign(new Error("no"), { code })).code, "INTERNAL");
  }
});

test("the bitmaps of a request are closed, also if a picture is missing", async () => {
  const edge = new FakeEdge();
  const closed = [];
  globalThis.OffscreenCanvas = class {
    getContext = () => ({ drawImage() {}, getImageData: () => ({ width: 1, height: 1, data: new Uint8ClampedArray(4) }) });
  };
  const bitmap = (name) => ({ kind: "bitmap", bitmap: { width: 1, height: 1, close: () => closed.push(name) } });
  const engine = { keepsImage: () => false };
  assert.equal(await engineImages(edge, engine, [bitmap("a"), { kind: "kept", id: "x" }, bitmap("b")]), undefined);
  assert.deepEqual([closed, edge.log], [["a", "b"], ["images freed"]]);
  assert.ok(await engineImages(edge, engine, [bitmap("c")]));
  assert.deepEqual(closed, ["a", "b", "c"]);
});
