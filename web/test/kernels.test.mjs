// The kernels that a load has measured: their key, their record, and which loads read and write it. Runs in Node.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { QwenVL } from "../dist/index.js";
import { WeightCache } from "../dist/weights/cache.js";
import { KernelRecords, kernelKey } from "../dist/weights/kernels.js";
import { isSoftware } from "../dist/wire/adapter.js";
import { FakeEdge, fakeWorker, modelFiles } from "./fake-edge.mjs";
import { MemoryStore } from "./memory.mjs";

const info = { vendor: "nvidia", architecture: "ampere", device: "", description: "driver 1" };
const adapter = { info, features: new Set(["shader-f16", "subgroups"]) };
const key = kernelKey(adapter, "f32", "Browser/1");

let store;
beforeEach(() => {
  store = new MemoryStore();
});
const records = () => new KernelRecords(store);
const names = () => [...store.files.keys()];

test("a record is found by the same key alone", async () => {
  await records().write(key, "lanes 128");
  assert.equal(await records().read(key), "lanes 128");
  // The order of the features says nothing.
  assert.equal(await records().read(kernelKey({ info, features: ["subgroups", "shader-f16"] }, "f32", "Browser/1")), "lanes 128");
  const others = [
    ...["vendor", "architecture", "device", "description"].map((fact) =>
      kernelKey({ ...adapter, info: { ...info, [fact]: "?" } }, "f32", "Browser/1"),
    ),
    kernelKey({ info, features: ["subgroups"] }, "f32", "Browser/1"),
    kernelKey(adapter, "f16", "Browser/1"),
    kernelKey(adapter, "f32", "Browser/2"),
    kernelKey({ features: [] }, "f32", ""),
  ];
  for (const other of others) assert.equal(await records().read(other), undefined, JSON.stringify(other));
});

test("each adapter has one record, which a new driver or browser replaces", async () => {
  await records().write(key, "old");
  await records().write(kernelKey({ ...adapter, info: { ...info, description: "driver 2" } }, "f32", "Browser/2"), "new");
  assert.equal(names().length, 1);
  assert.equal(await records().read(key), undefined);
  await records().write(kernelKey({ ...adapter, info: { ...info, architecture: "ada" } }, "f32", "Browser/1"), "other");
  assert.equal(names().length, 2);
});

test("damaged and foreign content counts as no record", async () => {
  await records().write(key, "lanes 128");
  const [name] = names();
  const whole = store.files.get(name);
  const record = (value) => Buffer.from(JSON.stringify({ version: key.version, record: value }));
  const contents = [
    whole.subarray(0, whole.length - 1),
    Buffer.alloc(0),
    Buffer.from("null"),
    Buffer.from([255, 0, 7]),
    record(7),
    record({}),
  ];
  for (const content of contents) {
    store.files.set(name, content);
    assert.equal(await records().read(key), undefined, String(content));
  }
  // The next load replaces it.
  await records().write(key, "lanes 64");
  assert.equal(await records().read(key), "lanes 64");
});

test("a store that fails has no records, and no load fails for it", async () => {
  const broken = () => Promise.reject(new Error("gone"));
  const failing = new KernelRecords({ kind: "broken", open: broken, list: broken, delete: broken });
  await failing.write(key, "lanes 128");
  assert.equal(await failing.read(key), undefined);
  store.capacity = 10;
  await records().write(key, "lanes 128");
  assert.equal(await records().read(key), undefined);
});

test("deleting a model keeps the records, clearing the cache does not", async () => {
  await records().write(key, "lanes 128");
  const cache = new WeightCache(store);
  await cache.delete("https://example.org/model/manifest.json");
  assert.equal(await records().read(key), "lanes 128");
  await cache.clear();
  assert.deepEqual(names(), []);
});

test("adapters are software by the browser's flag or by their name, or unknown", () => {
  assert.equal(isSoftware({ info: { ...info, isFallbackAdapter: false } }), false);
  assert.equal(isSoftware({ info: { isFallbackAdapter: true } }), true);
  assert.equal(isSoftware({ info: {}, isFallbackAdapter: true }), true);
  assert.equal(isSoftware({ info: { vendor: "google", architecture: "swiftshader" } }), true);
  assert.equal(isSoftware({ info }), undefined);
  assert.equal(isSoftware({}), undefined);
});

// A page's ends of the channels to a store close with its worker. Node's would keep this process alive.
const channels = [];
globalThis.MessageChannel = class extends MessageChannel {
  constructor() {
    super();
    channels.push(this);
  }
};

const nodeNavigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
afterEach(() => {
  for (const { port1 } of channels.splice(0)) port1.close();
  if (nodeNavigator) Object.defineProperty(globalThis, "navigator", nodeNavigator);
  else delete globalThis.navigator;
});

/** Loads a model on an adapter. Returns the options that the engine gets. `measured` is the record of the kernels that it measures, `null` if it measures none. */
async function load(options, { software = false, measured = "lanes 128" } = {}) {
  const requestAdapter = async () => ({ ...adapter, info: { ...info, isFallbackAdapter: software } });
  Object.defineProperty(globalThis, "navigator", { value: { gpu: { requestAdapter }, userAgent: "Browser/1" }, configurable: true });
  globalThis.isSecureContext = true;
  const edge = new FakeEdge();
  edge.kernelRecord = measured ?? undefined;
  const model = await QwenVL.load(modelFiles(), { worker: fakeWorker(edge, "webgpu"), ...options });
  await model.dispose();
  const { subgroups, software: told, kernelRecord } = edge.loaded;
  return { subgroups, software: told, kernelRecord };
}
const kept = () => names().filter((name) => name.startsWith("kernels-"));

test("the second load gets the record of the first", async () => {
  assert.deepEqual(await load({ cache: store }), { subgroups: true, software: false, kernelRecord: undefined });
  assert.equal(kept().length, 1);
  assert.equal((await load({ cache: store }, { measured: null })).kernelRecord, "lanes 128");
  // It has measured nothing, so the record stays.
  assert.equal((await load({ cache: store })).kernelRecord, "lanes 128");
  assert.equal((await load({ cache: store, precision: "f16" })).kernelRecord, undefined);
});

test("without tuning, with given kernels and without a cache no record is read or written", async () => {
  for (const options of [{ tuning: false }, { kernels: "plain" }]) {
    await load({ cache: store, ...options });
    assert.deepEqual(kept(), []);
  }
  await load({ cache: store });
  for (const options of [{ cache: store, tuning: false }, { cache: store, kernels: "plain" }, { cache: "none" }, {}])
    assert.equal((await load(options)).kernelRecord, undefined, JSON.stringify(Object.keys(options)));
});

test("kernels that fail their check are not kept", async () => {
  const requestAdapter = async () => adapter;
  Object.defineProperty(globalThis, "navigator", { value: { gpu: { requestAdapter } }, configurable: true });
  const edge = new FakeEdge();
  edge.kernelRecord = "lanes 128";
  edge.checking = () => Promise.reject(Object.assign(new Error("wrong"), { code: "GPU_INCORRECT" }));
  await assert.rejects(QwenVL.load(modelFiles(), { worker: fakeWorker(edge, "webgpu"), cache: store }), { code: "GPU_INCORRECT" });
  assert.deepEqual(kept(), []);
});

test("the engine learns that an adapter is software", async () => {
  assert.equal((await load({ cache: store }, { software: true, measured: null })).software, true);
  assert.deepEqual(kept(), []);
});
