// `QwenVL.check` reports, whatever the server and the machine do, and rejects only if it is aborted. In Node, with a stand-in for the engine.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { QwenVL } from "../dist/index.js";
import { WeightCache } from "../dist/weights/cache.js";
import { inspectModel } from "../dist/weights/inspect.js";
import { loadWeights } from "../dist/weights/load.js";
import { ProgressCounter } from "../dist/weights/progress.js";
import { FolderSource, UrlSource } from "../dist/weights/source.js";
import { FakeEdge, fakeWorker } from "./fake-edge.mjs";
import { makeModel, MemorySink, MemoryStore } from "./memory.mjs";
import { misbehavingServer } from "./misbehaving.mjs";

const model = makeModel(1);
const GPU = {
  info: { vendor: "v", architecture: "a" },
  features: new Set(["subgroups"]),
  limits: { maxBufferSize: 5000, maxStorageBufferBindingSize: 4000 },
};
let server;
let edge;
let machine;
const nodeNavigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
before(async () => {
  server = await misbehavingServer(async (path) => model.files.get(path.slice("/model/".length)));
  Object.defineProperty(globalThis, "navigator", { get: () => machine, configurable: true });
  globalThis.isSecureContext = true;
  globalThis.Worker = class {
    constructor() {
      return fakeWorker(edge);
    }
  };
});
after(() => {
  server.close();
  delete globalThis.Worker;
  if (nodeNavigator) Object.defineProperty(globalThis, "navigator", nodeNavigator);
  else delete globalThis.navigator;
});
beforeEach(() => {
  server.reset();
  edge = new FakeEdge();
  machine = {
    storage: { estimate: async () => ({ quota: 10_000_000, usage: 1000 }), persisted: async () => false },
    gpu: { requestAdapter: async () => GPU },
  };
});

const check = (options, path = "/model/") => QwenVL.check(server.origin + path, { cache: "none", ...options });
const codes = ({ reasons }) => reasons.map(({ code }) => code);

test("a model that runs here", async () => {
  const { bytes } = model;
  assert.deepEqual(await check(), {
    status: "ok",
    reasons: [],
    storage: { quota: 10_000_000, free: 9_999_000, persisted: false },
    bytes: { total: bytes, cached: 0, download: bytes, gpu: 1000 },
    adapter: {
      vendor: "v",
      architecture: "a",
      isFallback: false,
      f16: false,
      subgroups: true,
      maxBufferBytes: 5000,
      maxBindingBytes: 4000,
    },
  });
  // Nothing but the manifest is fetched, and the worker ends.
  assert.deepEqual(
    server.requests.map(({ path }) => path),
    ["/model/manifest.json"],
  );
  assert.deepEqual(edge.log, ["terminated"]);
});

const fetched = {
  "{}": { fault: { body: Buffer.from("{}") }, code: "MANIFEST_INVALID", message: /shards/ },
  "[]": { fault: { body: Buffer.from("[]") }, code: "MANIFEST_INVALID", message: /shards/ },
  null: { fault: { body: Buffer.from("null") }, code: "MANIFEST_INVALID", message: /shards/ },
  "a number": { fault: { body: Buffer.from("5") }, code: "MANIFEST_INVALID", message: /shards/ },
  "nothing at all": { fault: { body: Buffer.alloc(0) }, code: "MANIFEST_INVALID", message: /manifest\.json/ },
  "a text": { fault: { body: Buffer.from("hello") }, code: "MANIFEST_INVALID", message: /manifest\.json/ },
  "a web page": { fault: { html: true }, code: "DOWNLOAD", message: /the server answered with a web page: http:.*\/model\/manifest\.json/ },
  "status 404": { fault: { status: 404 }, code: "DOWNLOAD", message: /status 404: http:.*manifest\.json/ },
  "status 403": { fault: { status: 403 }, code: "DOWNLOAD", message: /status 403/ },
  "status 503": { fault: { status: 503 }, code: "DOWNLOAD", message: /status 503/ },
  "a connection that breaks": { fault: { cut: 0 }, code: "DOWNLOAD", message: /connection|response/ },
};
for (const [name, { fault, code, message }] of Object.entries(fetched)) {
  test(`a server that answers with ${name}: a report with ${code}`, async () => {
    server.fault = () => fault;
    const report = await check();
    assert.equal(report.status, "unsupported");
    assert.deepEqual(codes(report), [code]);
    assert.match(report.reasons[0].message, message);
    assert.ok(report.reasons[0].hint.length > 10);
    // The machine is checked anyway.
    assert.equal(report.bytes, undefined);
    assert.equal(report.adapter.vendor, "v");
  });
}

test("a server that fails once is asked again", async () => {
  server.fault = (_, nth) => (nth === 0 ? { status: 503 } : undefined);
  assert.equal((await check()).status, "ok");
});

test("arguments of other shapes are reported", async () => {
  for (const [source, options, message] of [
    ["http://[", {}, /not an address: http:\/\/\[/],
    [5, {}, /the model is 5, expected/],
    [undefined, { contextLength: NaN }, /`contextLength` is NaN, expected/],
    [undefined, { probeMemory: 1 }, /`probeMemory` is 1, expected/],
    [server.origin, { cache: false }, /`cache` is false, expected/],
    [server.origin, { retries: "5" }, /`retries` is "5", expected/],
  ]) {
    const report = await QwenVL.check(source, options);
    assert.deepEqual([report.status, codes(report)], ["unsupported", ["INVALID_ARGUMENT"]]);
    assert.match(report.reasons[0].message, message);
  }
});

test("an abort rejects with the signal's reason, before and during the check", async () => {
  const reason = new Error("enough");
  await assert.rejects(check({ signal: AbortSignal.abort(reason) }), (error) => error === reason);
  const controller = new AbortController();
  server.fault = () => (controller.abort(reason), { stall: 10 });
  await assert.rejects(check({ signal: controller.signal }), (error) => error === reason);
});

test("machines that lack something, or fail", async () => {
  const failing = () => Promise.reject(new Error("broken"));
  for (const [name, change, status, expected, message] of [
    ["no WebGPU", () => delete machine.gpu, "slow", ["WEBGPU_UNAVAILABLE"], /no WebGPU/],
    ["no adapter", () => (machine.gpu.requestAdapter = async () => null), "slow", ["NO_ADAPTER"], /offers no GPU$/],
    ["an adapter that fails", () => (machine.gpu.requestAdapter = failing), "slow", ["NO_ADAPTER"], /offers no GPU: Error: broken/],
    [
      "no WebGPU, a large model",
      () => (delete machine.gpu, (edge.estimated.cpu.fits = false)),
      "unsupported",
      ["WEBGPU_UNAVAILABLE"],
      /no WebGPU/,
    ],
    [
      "small limits",
      () => (edge.estimated.gpu.largestBinding = 4001),
      "unsupported",
      ["INSUFFICIENT_LIMITS"],
      /needs 4001 bytes in one buffer, the GPU allows 4000/,
    ],
    [
      "little storage",
      () => (machine.storage.estimate = async () => ({ quota: 1000, usage: 0 })),
      "slow",
      ["QUOTA_EXCEEDED"],
      /allows 1000 more/,
    ],
    ["storage that fails", () => (machine.storage.estimate = failing), "ok", []],
    ["storage that fails halfway", () => (machine.storage.persisted = failing), "ok", []],
    ["no storage", () => delete machine.storage, "ok", []],
    ["no wasm file", () => (edge.default = failing), "unsupported", ["DOWNLOAD"], /wasm file/],
  ]) {
    edge = new FakeEdge();
    machine = {
      storage: { estimate: async () => ({ quota: 10_000_000, usage: 0 }), persisted: async () => false },
      gpu: { requestAdapter: async () => GPU },
    };
    change();
    const report = await check();
    assert.deepEqual([report.status, codes(report)], [status, expected], name);
    if (message) assert.match(report.reasons[0].message, message, name);
  }
});

test("memory is probed on request", async () => {
  const device = (failure) => ({ pushErrorScope() {}, popErrorScope: async () => failure, createBuffer() {}, destroy() {} });
  for (const [requestDevice, expected] of [
    [async () => device(null), []],
    [async () => device({ message: "" }), ["GPU_OUT_OF_MEMORY"]],
    [() => Promise.reject(new Error("no device")), ["GPU_OUT_OF_MEMORY"]],
  ]) {
    machine.gpu.requestAdapter = async () => ({ ...GPU, requestDevice });
    assert.deepEqual(codes(await check({ probeMemory: true })), expected);
    assert.deepEqual(codes(await check()), []);
  }
});

test("a stored model is known without a connection", async () => {
  const store = new MemoryStore();
  const cache = new WeightCache(store);
  const signal = new AbortController().signal;
  const source = new FolderSource(
    [...model.files].map(([name, bytes]) => new File([bytes], name)),
    "https://example.org/manifest.json",
  );
  const makeSink = async (manifest) => new MemorySink(manifest);
  const progress = new ProgressCounter(() => undefined);
  await loadWeights({ source, cache, makeSink, progress, concurrency: 1, whenBusy: "wait", signal });
  const offline = new UrlSource(source.url, { fetch: () => Promise.reject(new TypeError("offline")), requestInit: {}, retries: 0 });
  const estimate = (manifest) => edge.estimate(manifest);
  assert.deepEqual(await inspectModel(offline, cache, estimate, signal), {
    totalBytes: model.bytes,
    missingBytes: 0,
    estimate: edge.estimated,
  });
  store.list = () => Promise.reject(new Error("broken"));
  await assert.rejects(inspectModel(offline, cache, estimate, signal), { code: "DOWNLOAD" });
  assert.equal((await inspectModel(source, cache, estimate, signal)).missingBytes, model.bytes);
});
