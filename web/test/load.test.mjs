// Loading with a cache: what is fetched and stored, and what happens when either fails. Runs in Node.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, beforeEach, test } from "node:test";
import { WeightCache } from "../dist/weights/cache.js";
import { loadWeights } from "../dist/weights/load.js";
import { PHASES, ProgressCounter } from "../dist/weights/progress.js";
import { droppedFiles } from "../dist/weights/dropped.js";
import { FolderSource, UrlSource } from "../dist/weights/source.js";
import { errorData } from "../dist/wire/errors.js";
import { makeModel, MemoryStore, MemorySink } from "./memory.mjs";
import { misbehavingServer } from "./misbehaving.mjs";

const CHUNK = 65536;
const model = makeModel(1);
const newer = makeModel(2);
const pieced = makeModel(3, { pieceBytes: 65_536 });
let served = model;
let lastSink;
let store;
let server;
before(async () => {
  server = await misbehavingServer(async (path) => served.files.get(path.slice("/model/".length)));
});
beforeEach(() => {
  server.reset();
  served = model;
  store = new MemoryStore();
});
after(() => server.close());

/** Loads the model that is served and checks every event and every byte. */
async function load({ source, cache = store, signal = new AbortController().signal, onProgress, want = served, ...more } = {}) {
  const events = [];
  const progress = new ProgressCounter((event) => {
    events.push(event);
    onProgress?.(event);
  });
  const weightCache = cache && new WeightCache(cache, (problem) => progress.cacheProblem(errorData(problem)));
  const fetchNow = (url, init) => fetch(url, init);
  source ??= new UrlSource(`${server.origin}/model/manifest.json`, { fetch: fetchNow, requestInit: {}, retries: 2 });
  const makeSink = async (manifest) => (lastSink = new MemorySink(manifest));
  try {
    const { sink, vocabulary } = await loadWeights({
      source,
      cache: weightCache,
      makeSink,
      progress,
      concurrency: 3,
      whenBusy: "wait",
      signal,
      ...more,
    });
    want.manifest.shards.forEach(({ file }, index) => assert.ok(sink.shards[index].equals(want.files.get(file)), file));
    assert.ok(want.files.get("qwen.tiktoken").equals(vocabulary));
  } finally {
    events.reduce((before, event) => {
      for (const key of ["bytes", "restoredBytes", "refetchedBytes", "shard", "retries"])
        assert.ok(event[key] >= before[key], `${key} went back`);
      assert.ok(PHASES.indexOf(event.phase) >= PHASES.indexOf(before.phase), `${before.phase} before ${event.phase}`);
      assert.ok(event.bytes <= event.totalBytes);
      return event;
    });
  }
  const last = events.at(-1);
  assert.equal(last.bytes, want.bytes);
  assert.equal(last.shard, last.shards);
  return last;
}

/** Without the manifest and the licence, which a load only keeps. */
const shardBytesSent = () => server.requests.filter(({ path }) => /shard|tiktoken/.test(path)).reduce((sum, { sent }) => sum + sent, 0);
const shardHash = (index) => served.manifest.shards[index].sha256;
const cacheOf = () => new WeightCache(store);

test("a model is fetched once and then comes from the cache", async () => {
  const first = await load();
  assert.equal(first.restoredBytes, 0);
  assert.equal(shardBytesSent(), model.bytes);
  server.reset();
  const second = await load();
  assert.equal(second.restoredBytes, model.bytes);
  assert.deepEqual(
    server.requests.map(({ path }) => path),
    ["/model/manifest.json"],
  );
});

test("without a cache it is fetched each time", async () => {
  await load({ cache: null });
  await load({ cache: null });
  assert.equal(shardBytesSent(), 2 * model.bytes);
});

test("it loads without a connection once it is in the cache", async () => {
  await load();
  const source = new UrlSource(`${server.origin}/model/manifest.json`, {
    fetch: () => Promise.reject(new TypeError("offline")),
    requestInit: {},
    retries: 9,
  });
  assert.equal((await load({ source })).restoredBytes, model.bytes);
});

test("without a connection and without a cache it says so", async () => {
  const source = new UrlSource("http://127.0.0.1:1/manifest.json", {
    fetch: () => Promise.reject(new TypeError("offline")),
    requestInit: {},
    retries: 0,
  });
  await assert.rejects(load({ source }), { code: "DOWNLOAD" });
});

test("an aborted load resumes where it ended", async (context) => {
  for (const stop of [1, 50_000, 210_000, 400_000, model.bytes - 1]) {
    await context.test(`after ${stop} bytes`, async () => {
      store = new MemoryStore();
      server.reset();
      const controller = new AbortController();
      const reason = new Error("enough");
      const onProgress = ({ bytes }) => bytes >= stop && controller.abort(reason);
      const aborted = load({ signal: controller.signal, onProgress });
      await assert.rejects(aborted, (error) => error === reason);
      const stored = (await cacheOf().models())[0]?.storedBytes ?? 0;
      // Let the requests of the aborted load end, so that they are not counted below.
      await sleep(50);
      server.reset();
      const { restoredBytes } = await load();
      assert.equal(restoredBytes, stored);
      assert.equal(shardBytesSent(), model.bytes - stored);
    });
  }
});

test("every shard may be cut at the same time", async () => {
  server.fault = (path, nth) => (path.includes("shard") && nth < 2 ? { cut: 30_000 } : undefined);
  const { retries } = await load();
  assert.ok(retries >= 4);
  assert.ok(shardBytesSent() - model.bytes <= retries * CHUNK);
});

test("a shard with the wrong hash is fetched again, alone", async () => {
  const wrong = Buffer.from(model.files.get("shard-1"));
  wrong[1000] ^= 1;
  server.fault = (path, nth) => (path === "/model/shard-1" && nth === 0 ? { body: wrong } : undefined);
  const { refetchedBytes } = await load();
  assert.equal(refetchedBytes, wrong.length);
  assert.equal(shardBytesSent(), model.bytes + wrong.length);
  server.reset();
  assert.equal((await load()).restoredBytes, model.bytes);
});

test("a shard and a vocabulary that stay wrong fail with INTEGRITY and are not kept", async (context) => {
  for (const file of ["shard-1", "qwen.tiktoken"]) {
    await context.test(file, async () => {
      server.reset();
      const wrong = Buffer.from(model.files.get(file));
      wrong[7] ^= 1;
      server.fault = (path) => (path === `/model/${file}` ? { body: wrong } : undefined);
      await assert.rejects(load(), { code: "INTEGRITY" });
      assert.equal(server.requests.filter(({ path }) => path === `/model/${file}`).length, 2);
      server.fault = () => undefined;
      await load();
    });
  }
});

test("a model that is replaced during the load fails, and loads as the new one afterwards", async () => {
  server.fault = (path) => {
    if (path.includes("shard-1")) served = newer;
    return undefined;
  };
  await assert.rejects(load({ concurrency: 1 }), { code: "INTEGRITY" });
  server.reset();
  const before = store.files.size;
  assert.equal((await load()).restoredBytes, 0);
  // The old model's files are gone.
  assert.deepEqual(
    (await cacheOf().models()).map(({ source, complete }) => [source, complete]),
    [["model 2", true]],
  );
  assert.ok(before > 0);
  assert.ok(!store.files.has(model.manifest.shards[0].sha256));
});

test("a stored file that lost bytes, changed or vanished is fetched again, alone", async (context) => {
  const damages = {
    shorter: (name) => store.files.set(name, store.files.get(name).subarray(0, 100_000)),
    longer: (name) => store.files.set(name, Buffer.concat([store.files.get(name), Buffer.alloc(1)])),
    "a changed bit": (name) => (store.files.get(name)[5000] ^= 4),
    gone: (name) => store.files.delete(name),
    "without its record": (name) => store.files.delete(`${name}.complete`),
    "with a broken record": (name) => store.files.set(`${name}.complete`, Buffer.from("2")),
  };
  for (const [name, damage] of Object.entries(damages)) {
    await context.test(name, async () => {
      store = new MemoryStore();
      await load();
      server.reset();
      damage(shardHash(1));
      await load();
      assert.deepEqual(
        server.requests.map(({ path }) => path).filter((path) => !["/model/manifest.json", "/model/shard-1"].includes(path)),
        [],
      );
      server.reset();
      await load();
      assert.equal(shardBytesSent(), 0);
    });
  }
});

test("a manifest record that was cut off counts as none", async () => {
  await load();
  const [record] = [...store.files.keys()].filter((name) => name.endsWith(".model"));
  store.files.set(record, store.files.get(record).subarray(0, 50));
  assert.deepEqual(await cacheOf().models(), []);
  assert.equal((await load()).restoredBytes, model.bytes);
  assert.equal((await cacheOf().models()).length, 1);
});

test("full storage does not end a load, and is reported", async () => {
  store.capacity = 260_000;
  const { cacheProblem: problem } = await load({ concurrency: 1 });
  assert.equal(problem.code, "QUOTA_EXCEEDED");
  store.capacity = Infinity;
  server.reset();
  const { restoredBytes } = await load();
  assert.ok(restoredBytes >= 200_000, `${restoredBytes} bytes were kept`);
});

test("a store that fails altogether does not end a load", async () => {
  store.open = () => Promise.reject(new Error("broken"));
  const { cacheProblem: problem } = await load();
  assert.equal(problem.code, "STORAGE");
  assert.match(problem.message, /broken/);
});

test("a store that cannot be read any more does not end a load", async () => {
  await load();
  const open = store.open.bind(store);
  store.open = async (name, create) => {
    const file = await open(name, create);
    if (file && name === shardHash(0)) {
      const read = file.read;
      file.read = (at, length) => (at === 0 ? read(0, Math.min(length, 1000)) : Promise.reject(new Error("unreadable")));
    }
    return file;
  };
  await load();
  store.open = open;
  server.reset();
  await load();
  assert.equal(shardBytesSent(), 200_000);
});

test("a read that fails once discards nothing, and nothing is fetched again", async () => {
  await load();
  const open = store.open.bind(store);
  let failures = 0;
  store.open = async (name, create) => {
    const file = await open(name, create);
    if (file && name === shardHash(0)) {
      const read = file.read;
      file.read = (at, length) => (failures++ === 0 ? Promise.reject(new Error("input/output error")) : read(at, length));
    }
    return file;
  };
  server.reset();
  await load();
  assert.ok(failures > 1, "the file was not read again");
  assert.equal(shardBytesSent(), 0);
  assert.ok(store.files.has(`${shardHash(0)}.complete`));
});

test("an empty record counts as none, and a conversion that ends with the same file replaces it", async () => {
  await load();
  const cache = cacheOf();
  const entry = model.manifest.shards[0];
  store.files.set(`${entry.sha256}.complete`, Buffer.alloc(0));
  assert.equal((await cache.models())[0].complete, false);
  store.files.set("convert-1-0", store.files.get(entry.sha256));
  await cache.adopt("convert-1-0", entry);
  assert.equal((await cache.models())[0].complete, true);
  assert.equal(Buffer.from(store.files.get(`${entry.sha256}.complete`)).toString(), String(entry.bytes));
  assert.ok(!store.files.has("convert-1-0"));
});

test("models are listed and deleted; shared files stay while another model has them", async () => {
  await load();
  const folder = [...model.files].map(([name, bytes]) => new File([bytes], name));
  await load({ source: new FolderSource(folder, "folder:1"), want: model });
  const url = `${server.origin}/model/manifest.json`;
  const cache = cacheOf();
  assert.deepEqual(
    (await cache.models()).map(({ url, source, bytes, storedBytes, complete }) => [url, source, bytes, storedBytes, complete]),
    [
      [url, "model 1", model.bytes, model.bytes, true],
      ["folder:1", "model 1", model.bytes, model.bytes, true],
    ],
  );
  assert.equal(await cache.delete(url), true);
  assert.equal((await cache.models())[0].complete, true);
  assert.equal(await cache.delete(url), false);
  assert.equal(await cache.delete("folder:1"), true);
  assert.deepEqual(await store.list(), []);
});

test("files and folders that are wrong say what is wrong with them", async () => {
  const folder = [...model.files].map(([name, bytes]) => new File([bytes], name));
  const from = (files) => load({ source: new FolderSource(files, "folder:"), cache: null });
  await assert.rejects(from(folder.filter(({ name }) => name !== "manifest.json")), { code: "MANIFEST_INVALID" });
  await assert.rejects(
    from(folder.filter(({ name }) => name !== "shard-2")),
    (error) => error.code === "INTEGRITY" && error.details.shard === "shard-2",
  );
  const short = folder.map((file) => (file.name === "shard-0" ? new File([file.slice(0, 1000)], file.name) : file));
  await assert.rejects(from(short), (error) => error.details.expected === 200_000 && error.details.found === 1000);
});

/** A folder as browsers drop it. Its readers fail if `error` is given. */
function droppedFolder(files, error) {
  const entries = files.map((file) => ({ isFile: true, fullPath: `/folder/${file.name}`, file: (resolve) => resolve(file) }));
  const createReader = () => {
    const batches = [entries, []];
    return { readEntries: (resolve, reject) => (error ? reject(error) : resolve(batches.shift())) };
  };
  const folder = { isFile: false, fullPath: "/folder", createReader };
  return { items: [{ webkitGetAsEntry: () => folder }] };
}

test("a folder with more files than a call takes arguments can be dropped", async () => {
  // Not bytes of each: only the list matters.
  const files = Array.from({ length: 200_000 }, (_, index) => ({ name: String(index) }));
  assert.equal((await droppedFiles(droppedFolder(files))).length, files.length);
});

test("a dropped folder that cannot be read fails with INTEGRITY", async () => {
  const gone = new DOMException("A requested file or directory could not be found", "NotFoundError");
  await assert.rejects(droppedFiles(droppedFolder([], gone)), { code: "INTEGRITY", message: /could not read `folder` \(NotFoundError/ });
});

test("a web page, a missing shard and a busy server fail with DOWNLOAD", async () => {
  for (const fault of [{ html: true }, { status: 404 }, { status: 503 }]) {
    server.reset();
    server.fault = (path) => (path === "/model/shard-2" ? fault : undefined);
    await assert.rejects(load({ cache: null }), { code: "DOWNLOAD" });
  }
});

test("shards that are hashed in pieces are checked piece by piece, from the server and from the cache", async () => {
  served = pieced;
  const shardBytes = pieced.manifest.shards.reduce((sum, { bytes }) => sum + bytes, 0);
  assert.equal((await load()).phase, "verify");
  assert.equal(lastSink.checkedBytes, shardBytes);
  server.reset();
  assert.equal((await load()).restoredBytes, pieced.bytes);
  assert.equal(lastSink.checkedBytes, shardBytes);
  store.files.get(shardHash(1))[140_000] ^= 1;
  await load();
  assert.equal(server.sent("/model/shard-1"), 150_001);
  assert.equal(server.sent("/model/shard-0"), 0);
});

test("no byte of a wrong piece is let pass, and the shard is fetched again once", async () => {
  served = pieced;
  const wrong = Buffer.from(pieced.files.get("shard-0"));
  wrong[70_000] ^= 1;
  server.fault = (path) => (path === "/model/shard-0" ? { body: wrong } : undefined);
  await assert.rejects(load(), (error) => error.code === "INTEGRITY" && error.details.shard === "shard-0");
  assert.ok(wrong.subarray(0, 65_536).equals(lastSink.shards[0]), `${lastSink.shards[0].length} bytes came through`);
  assert.equal(server.requests.filter(({ path }) => path === "/model/shard-0").length, 2);
  server.reset();
  await load();
});

test("a load of pieces that was cut and aborted resumes where it ended", async () => {
  served = pieced;
  server.fault = (path, nth) => (path.includes("shard") && nth === 0 ? { cut: 100_000 } : undefined);
  const controller = new AbortController();
  const onProgress = ({ bytes }) => bytes >= 250_000 && controller.abort(new Error("enough"));
  await assert.rejects(load({ signal: controller.signal, onProgress }), /enough/);
  const stored = (await cacheOf().models())[0].storedBytes;
  await sleep(50);
  server.reset();
  assert.equal((await load()).restoredBytes, stored);
  assert.equal(shardBytesSent(), pieced.bytes - stored);
});

test("a load waits for the licence as long as it may; a repair waits until it is there", async () => {
  const { sha256 } = model.manifest.files.find(({ file }) => file === "LICENSE");
  let release;
  server.fault = (path) => (path === "/model/LICENSE" ? new Promise((resolve) => (release = resolve)) : undefined);
  await load({ noticesMs: 100 });
  assert.equal(store.files.has(`${sha256}.complete`), false);
  release();
  let done = false;
  release = undefined;
  const repair = load().then(() => (done = true));
  while (!release) await sleep(10);
  await sleep(50);
  assert.equal(done, false);
  release();
  await repair;
  assert.ok(store.files.get(sha256).equals(model.files.get("LICENSE")));
  assert.equal(store.files.get(`${sha256}.complete`).toString(), "100");
});
