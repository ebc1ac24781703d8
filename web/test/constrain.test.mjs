// The page's and the model's side of constraints, against a worker of constraints with a fake module and a fake engine.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { QwenVLModel } from "../dist/api/model.js";
import { serveConstraints } from "../dist/constrain/serve.js";
import { WorkerClient } from "../dist/wire/client.js";
import { RemoteConstraint } from "../dist/worker/constraint.js";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc");

const TOKENS = [new Uint8Array(), new Uint32Array(), new Uint32Array(), new Uint32Array()];
const ANSWER = { text: "x", raw: "x", tokens: [1], objects: [], finishReason: "stop", usage: {}, timings: {} };
const wait = (ms = 5) => new Promise((resolve) => setTimeout(resolve, ms));

/** Forms that were opened, and states of texts that were made and freed. */
let forms;
let made;
let freed;
/** Running workers of constraints. */
let workers;
/** Changes what the next workers do. */
let behaviour;

class FakeConstrainer {
  open(form) {
    forms.push(form);
    made++;
    return {
      next(token) {
        if (token === 13) throw new WebAssembly.RuntimeError("unreachable");
        return new Uint32Array([token ?? 0]);
      },
      free: () => void freed++,
    };
  }
}

class FakeWorker {
  constructor() {
    workers.add(this);
    const { module = async () => undefined, fails = false } = behaviour;
    if (fails) setTimeout(() => this.onerror({ preventDefault() {}, message: "no script" }));
    this.scope = { postMessage: (reply) => setTimeout(() => workers.has(this) && this.onmessage({ data: reply })) };
    serveConstraints(this.scope, { default: module, Constrainer: FakeConstrainer });
  }
  postMessage(message, transfer = []) {
    const data = structuredClone(message, { transfer });
    setTimeout(() => this.scope.onmessage({ data }));
  }
  terminate() {
    workers.delete(this);
  }
}
globalThis.Worker = FakeWorker;

/** A model's worker that asks for the tokens of `asked`, one after the other, and then answers. */
class FakeEngine {
  asked = [undefined];
  cancelled = [];
  tokens = async () => TOKENS;
  replies = [];

  postMessage(message, transfer = []) {
    const data = structuredClone(message, { transfer });
    const reply = (result) => setTimeout(() => this.onmessage({ data: { kind: "done", id: data.id, result } }));
    if (data.kind === "tokens") void this.tokens().then(reply);
    if (data.kind === "cancel") this.cancelled.push(data.id);
    if (data.kind === "dispose") reply(0);
    if (data.kind === "ask") void this.#ask(data, reply);
  }
  async #ask({ id, constraint }, reply) {
    const controller = new AbortController();
    const remote = constraint && new RemoteConstraint(constraint, controller.signal);
    try {
      if (remote) for (const token of this.asked) this.replies.push([...(await remote.next(token))]);
      reply({ answer: ANSWER, pictures: [] });
    } catch ({ code, message }) {
      setTimeout(() => this.onmessage({ data: { kind: "error", id, error: { code, message } } }));
    } finally {
      remote?.close();
    }
  }
  terminate() {}
}

function open() {
  const engine = new FakeEngine();
  const info = { family: "qwen3_vl", pictureTokens: { min: 1, max: 2 }, contextLength: 100 };
  const model = new QwenVLModel({ client: new WorkerClient(engine), info }, {}, {});
  const ask = (constraint, options = {}) => model.createSession().ask("A", { constraint, ...options });
  return { engine, model, ask };
}

const codeOf = (promise) =>
  Promise.resolve(promise).then(
    () => "fulfilled",
    (error) => (error instanceof DOMException ? error.name : error.code),
  );

beforeEach(() => {
  forms = [];
  [made, freed] = [0, 0];
  workers = new Set();
  behaviour = {};
});

test("one worker serves all answers, and the state of each text is freed", async () => {
  const { engine, ask, model } = open();
  engine.asked = [undefined, 5, 7];
  for (const constraint of [{ regex: /a/iu }, { regex: "a", lark: undefined }, { lark: "b" }, { jsonSchema: true }]) await ask(constraint);
  assert.deepEqual(forms, [
    { regex: { pattern: "a", flags: "iu" } },
    { regex: { pattern: "a", flags: "" } },
    { lark: "b" },
    { json_schema: "true" },
  ]);
  assert.deepEqual(engine.replies.slice(0, 3), [[0], [5], [7]]);
  await wait();
  assert.deepEqual([workers.size, made, freed], [1, 4, 4]);
  await model.dispose();
  assert.equal(workers.size, 0);
});

test("a schema that JSON cannot write is refused", async () => {
  const { ask } = open();
  const cyclic = {};
  cyclic.self = cyclic;
  for (const jsonSchema of [cyclic, { toJSON: () => undefined }]) {
    await assert.rejects(Promise.resolve(ask({ jsonSchema })), {
      code: "INVALID_ARGUMENT",
      message: /`constraint.jsonSchema` cannot be written as JSON/,
    });
  }
  assert.equal(workers.size, 0);
});

test("an answer that is aborted or cancelled while its constraint opens leaves nothing behind", async () => {
  const { engine, ask } = open();
  await ask({ regex: "a" });
  const controller = new AbortController();
  const aborted = codeOf(ask({ regex: "a" }, { signal: controller.signal }));
  await wait(0);
  controller.abort();
  assert.equal(await aborted, "AbortError");
  const cancelled = ask({ regex: "a" });
  await wait(0);
  cancelled.cancel();
  assert.equal((await cancelled).finishReason, "cancelled");
  await wait(50);
  assert.deepEqual([made, freed], [3, 3]);
  // The aborted run was never sent.
  assert.equal(engine.cancelled.length, 1);
});

test("a model that is disposed of while the module loads ends the run and the worker", async () => {
  behaviour = { module: () => new Promise(() => undefined) };
  const { ask, model } = open();
  const run = codeOf(ask({ regex: "a" }));
  await wait();
  assert.equal(workers.size, 1);
  await model.dispose();
  assert.equal(await run, "DISPOSED");
  assert.equal(workers.size, 0);
});

test("a worker that fails to start is tried again with the next answer", async () => {
  const { ask, model } = open();
  behaviour = { module: () => Promise.reject(new Error("404")) };
  await assert.rejects(Promise.resolve(ask({ regex: "a" })), {
    code: "DOWNLOAD",
    message: /the wasm file of constraints could not be loaded/,
  });
  assert.equal(workers.size, 0);
  behaviour = {};
  await ask({ regex: "a" });
  assert.equal(workers.size, 1);
  await model.dispose();
});

test("a worker that fails late does not displace its successor", async () => {
  const { engine, ask, model } = open();
  behaviour = { fails: true };
  let give;
  engine.tokens = () => new Promise((resolve) => (give = () => resolve(TOKENS)));
  const first = codeOf(ask({ regex: "a" }));
  await wait(20);
  engine.tokens = async () => TOKENS;
  behaviour = {};
  await ask({ regex: "b" });
  give();
  assert.equal(await first, "INTERNAL");
  await ask({ regex: "c" });
  assert.equal(workers.size, 1);
  await model.dispose();
  assert.equal(workers.size, 0);
});

test("a trap of the module fails the answer and ends the worker", async () => {
  const { engine, ask } = open();
  engine.asked = [undefined, 13];
  assert.equal(await codeOf(ask({ regex: "a" })), "INTERNAL");
  await wait(20);
  assert.deepEqual([workers.size, freed], [0, 1]);
  engine.asked = [undefined];
  await ask({ regex: "a" });
  assert.equal(workers.size, 1);
});

test("a model does not wait for a worker that is gone once its answer is aborted", { timeout: 60_000 }, async (context) => {
  for (const before of [true, false]) {
    context.mock.timers.enable({ apis: ["setTimeout"] });
    const { port1, port2 } = new MessageChannel();
    port1.close();
    const controller = new AbortController();
    const remote = new RemoteConstraint(port2, controller.signal);
    if (before) controller.abort();
    const next = remote.next(5);
    if (!before) controller.abort();
    context.mock.timers.tick(10_000);
    await assert.rejects(next, { code: "INTERNAL", message: "the worker of constraints does not answer" });
    context.mock.timers.reset();
    port2.close();
  }
});

test("runs with a constraint are not kept", async () => {
  const { ask } = open();
  const runs = [];
  for (let index = 0; index < 20; index++) {
    await (async () => {
      const run = ask({ regex: "a" });
      runs.push(new WeakRef(run));
      await run;
    })();
  }
  for (let round = 0; round < 5; round++) {
    await wait();
    collect();
  }
  const alive = runs.filter((run) => run.deref()).length;
  assert.ok(alive <= 2, `${alive} of 20 runs are alive`);
});
