// Operations on stored models, in Node: what they find, what they discard, and what they do while a tab is loading.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { createHash } from "node:crypto";
import { CacheOutput } from "../dist/convert/output.js";
import { WeightCache } from "../dist/weights/cache.js";
import { loadWeights } from "../dist/weights/load.js";
import { withConversionLock } from "../dist/weights/locks.js";
import { maintain } from "../dist/weights/maintain.js";
import { ProgressCounter } from "../dist/weights/progress.js";
import { FolderSource } from "../dist/weights/source.js";
import { MemoryLocks } from "./locks.mjs";
import { makeModel, MemorySink, MemoryStore } from "./memory.mjs";

const signal = new AbortController().signal;
const models = { plain: makeModel(1), pieces: makeModel(3, { pieceBytes: 65_536 }) };
const url = "https://example.org/model/manifest.json";
const checks = {
  checkManifest() {},
  newHash() {
    const hash = createHash("sha256");
    return { update: (bytes) => hash.update(bytes), finish: () => hash.digest("hex") };
  },
};
const nodeNavigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
let store;
let locks;
before(() => {
  locks = new MemoryLocks();
  Object.defineProperty(globalThis, "navigator", { value: { locks }, configurable: true });
});
after(() => {
  if (nodeNavigator) Object.defineProperty(globalThis, "navigator", nodeNavigator);
  else delete globalThis.navigator;
});
beforeEach(() => {
  store = new MemoryStore();
});

const filesOf = (model) => [...model.files].map(([name, bytes]) => new File([bytes], name));

/** Loads a model into the store. `hold` runs when the load has begun to write. */
function load(model, { address = url, hold } = {}) {
  const source = new FolderSource(filesOf(model), address);
  const read = source.read.bind(source);
  if (hold) {
    source.read = async function* (entry, from, hooks) {
      await hold();
      yield* read(entry, from, hooks);
    };
  }
  const makeSink = async (manifest) => new MemorySink(manifest);
  const progress = new ProgressCounter(() => undefined);
  return loadWeights({ source, cache: new WeightCache(store), makeSink, progress, concurrency: 2, whenBusy: "wait", signal });
}

const contents = (operation) => maintain(operation, store, checks, new ProgressCounter(() => undefined), signal);

/** Returns the models that an operation concerns. */
const run = async (operation) => (await contents(operation)).models;

/** Makes the bytes of a file behind offset `from` unreadable. */
function breakFile(name, from) {
  const open = store.open.bind(store);
  store.open = async (opened, create) => {
    const file = await open(opened, create);
    if (!file || opened !== name) return file;
    const read = file.read;
    file.read = (at, length) => (at >= from ? Promise.reject(new Error("input/output error")) : read(at, Math.min(length, from - at)));
    return file;
  };
  return () => (store.open = open);
}

for (const [name, model] of Object.entries(models)) {
  const shard = model.manifest.shards[1];

  test(`verify discards a changed file, ${name}`, async () => {
    await load(model);
    assert.equal((await run({ kind: "verify", url }))[0].complete, true);
    store.files.get(shard.sha256)[140_000] ^= 1;
    const [{ complete, storedBytes }] = await run({ kind: "verify", url });
    assert.deepEqual([complete, storedBytes], [false, model.bytes - shard.bytes]);
  });

  test(`verify of a file that cannot be read: the model is not complete, and the next load fetches the file, ${name}`, async () => {
    for (const from of [0, 70_000, shard.bytes - 1]) {
      store = new MemoryStore();
      await load(model);
      const mend = breakFile(shard.sha256, from);
      const [{ complete }] = await run({ kind: "verify", url });
      assert.equal(complete, false, `unreadable from ${from}`);
      assert.ok(!store.files.has(`${shard.sha256}.complete`), "the record is still there");
      mend();
      await load(model);
      assert.equal((await run({ kind: "list" }))[0].complete, true);
    }
  });

  test(`verify keeps the valid beginning of a download, ${name}`, async () => {
    await load(model);
    store.files.set(shard.sha256, store.files.get(shard.sha256).subarray(0, 100_000));
    store.files.delete(`${shard.sha256}.complete`);
    const [{ complete, storedBytes }] = await run({ kind: "verify", url });
    assert.deepEqual([complete, storedBytes], [false, model.bytes - shard.bytes + 100_000]);
  });
}

test("verify of a file that cannot be opened: its record is gone, and the problem is reported", async () => {
  await load(models.plain);
  const { sha256 } = models.plain.manifest.shards[0];
  const open = store.open.bind(store);
  store.open = (name, create) => (name === sha256 ? Promise.reject(new Error("input/output error")) : open(name, create));
  await assert.rejects(run({ kind: "verify", url }), { code: "STORAGE", message: /input\/output error/ });
  store.open = open;
  const [{ complete }] = await run({ kind: "list" });
  assert.equal(complete, false);
});

test("verify of a store that fails in an unexpected way throws, and discards nothing", async () => {
  await load(models.plain);
  const before = store.files.size;
  const broken = { ...checks, newHash: () => ({ update: () => { throw new TypeError("no memory"); }, finish: () => "" }) }; // prettier-ignore
  await assert.rejects(maintain({ kind: "verify", url }, store, broken, new ProgressCounter(() => undefined), signal), /no memory/);
  assert.equal(store.files.size, before);
  assert.equal((await run({ kind: "list" }))[0].complete, true);
});

test("export of a file that cannot be opened fails with the reason", async () => {
  await load(models.plain);
  const { sha256 } = models.plain.manifest.shards[1];
  const open = store.open.bind(store);
  store.open = (name, create) => (name === sha256 ? Promise.reject(new Error("input/output error")) : open(name, create));
  const folder = memoryFolder();
  await assert.rejects(run({ kind: "export", url, folder }), { code: "STORAGE", message: /input\/output error/ });
  assert.ok(!folder.files.has("manifest.json"));
});

/** A folder to export to. `files` holds what was closed. */
function memoryFolder() {
  const files = new Map();
  return {
    files,
    async removeEntry(name) {
      if (!files.delete(name)) throw new DOMException(name, "NotFoundError");
    },
    async getFileHandle(name) {
      const pieces = [];
      return {
        createWritable: async () => ({
          write: async (piece) => void pieces.push(Buffer.from(piece)),
          close: async () => void files.set(name, Buffer.concat(pieces)),
          abort: async () => undefined,
        }),
      };
    },
  };
}

test("export writes all files, the manifest last", async () => {
  await load(models.plain);
  const folder = memoryFolder();
  await run({ kind: "export", url, folder });
  assert.equal([...folder.files.keys()].at(-1), "manifest.json");
  for (const [name, bytes] of models.plain.files) assert.ok(bytes.equals(folder.files.get(name)), name);
});

test("export of a file that cannot be read fails, and writes no manifest", async () => {
  await load(models.plain);
  breakFile(models.plain.manifest.shards[1].sha256, 1000);
  const folder = memoryFolder();
  await assert.rejects(run({ kind: "export", url, folder }), { code: "STORAGE", message: /shard-1.*repair/ });
  assert.ok(!folder.files.has("manifest.json") && !folder.files.has("shard-1"));
});

const record = {
  name: "owner/name",
  source: "hf:owner/name@0123",
  url: "hf:owner/name",
  bytes: 1000,
  settings: { scheme: "q8", keep: ["vision=f16"] },
};

/** Writes what a conversion has after two shards, the second of them unfinished. */
async function beginConversion(id) {
  await new WeightCache(store).rememberConversion(id, record);
  for (const [name, length] of Object.entries({ 0: 300, "0.done": 50, 1: 100, "1.part": 2 }))
    store.files.set(`convert-${id}-${name}`, Buffer.alloc(length));
}

test("unfinished conversions are listed with what is needed to resume them, and deleted one by one", async () => {
  await load(models.plain);
  await beginConversion("aa");
  await beginConversion("aab");
  const { models: listed, conversions } = await contents({ kind: "list" });
  assert.deepEqual(
    conversions.sort((a, b) => a.id.length - b.id.length),
    ["aa", "aab"].map((id) => ({ id, ...record, storedBytes: 400 })),
  );
  assert.deepEqual([listed.length, listed[0].complete], [1, true]);
  // Neither a model's deletion nor that of another conversion touches it.
  await run({ kind: "delete", url });
  await run({ kind: "deleteConversion", id: "aa" });
  assert.deepEqual(
    [...store.files.keys()].sort(),
    ["", "0", "0.done", "1", "1.part"].map((end) => `convert-aab-${end || ".conversion"}`).sort(),
  );
  await run({ kind: "deleteConversion", id: "aab" });
  assert.equal(store.files.size, 0);
});

test("a conversion whose record is damaged is not listed, and can be deleted", async () => {
  const { name, source, url, bytes, settings } = record;
  const damaged = [
    "",
    "{",
    "null",
    "[]",
    '"text"',
    ...[
      { source, url, bytes, settings },
      { name: 1, source, url, bytes, settings },
      { name, source: {}, url, bytes, settings },
      { name, source, bytes, settings },
      { name, source, url, bytes: "1000", settings },
      { name, source, url, bytes: 1.5, settings },
      { name, source, url, bytes, settings: null },
      { name, source, url, bytes, settings: "q4" },
    ].map((value) => JSON.stringify(value)),
  ];
  for (const text of damaged) {
    await beginConversion("aa");
    store.files.set("convert-aa-.conversion", Buffer.from(text));
    assert.deepEqual((await contents({ kind: "list" })).conversions, [], text);
    await run({ kind: "deleteConversion", id: "aa" });
    assert.equal(store.files.size, 0, text);
  }
  // The source of a folder of this machine has no address.
  await new WeightCache(store).rememberConversion("aa", { name, url, bytes, settings });
  assert.deepEqual((await contents({ kind: "list" })).conversions, [{ id: "aa", name, url, bytes, settings, storedBytes: 0 }]);
});

test("a conversion's record is replaced only if it changes, and deleted last", async () => {
  await beginConversion("aa");
  const { open, delete: remove } = store;
  const written = [];
  store.open = async (name, create) => {
    if (create) written.push(name);
    return open.call(store, name, create);
  };
  const cache = new WeightCache(store);
  await cache.rememberConversion("aa", record);
  assert.deepEqual(written, []);
  await cache.rememberConversion("aa", { ...record, url: "https://example.org/mine/manifest.json" });
  assert.deepEqual(written, ["convert-aa-.conversion"]);
  const deleted = [];
  store.delete = async (name) => {
    deleted.push(name);
    return remove.call(store, name);
  };
  await cache.deleteConversion("aa");
  assert.equal(deleted.length, 5);
  assert.equal(deleted.at(-1), "convert-aa-.conversion");
});

/** Makes the N-th operation of a store and of its files reject. Returns the number of operations so far. */
function failAt(at) {
  let count = 0;
  const guard =
    (work) =>
    async (...values) => {
      count += 1;
      if (count === at) throw new Error("input/output error");
      return work(...values);
    };
  const { open } = store;
  for (const name of ["list", "delete", "rename"]) if (store[name]) store[name] = guard(store[name].bind(store));
  store.open = guard(async (...values) => {
    const file = await open.apply(store, values);
    if (file) for (const name of ["append", "truncate", "close"]) file[name] = guard(file[name].bind(file));
    return file;
  });
  return () => count;
}

test("the end of a conversion that fails at any operation: the next run, or a load, completes it and leaves nothing else", async () => {
  const { plain } = models;
  const { files, shards } = plain.manifest;
  const small = files.filter(({ file }) => plain.files.has(file)).map(({ file }) => [file, plain.files.get(file)]);
  const about = { ...record, url };
  const finish = () => new CacheOutput(store, "aa", about).finish(JSON.stringify(plain.manifest), small);
  const begin = async () => {
    store = new MemoryStore();
    await new WeightCache(store).rememberConversion("aa", about);
    for (const [index, { file, sha256, bytes }] of shards.entries()) {
      store.files.set(`convert-aa-${index}`, Buffer.from(plain.files.get(file)));
      store.files.set(`convert-aa-${index}.done`, Buffer.from(JSON.stringify({ sha256, bytes })));
    }
  };
  const names = () => [...store.files.keys()].sort();
  await begin();
  await finish();
  const whole = names();
  assert.equal((await run({ kind: "list" }))[0].complete, true);
  let [at, loads] = [1, 0];
  for (; ; at += 1) {
    await begin();
    const { files } = store;
    const count = failAt(at);
    const failed = await finish().then(
      () => false,
      () => true,
    );
    if (count() < at) break;
    const left = new Map(files);
    const stored = async () => {
      store = new MemoryStore();
      for (const [name, bytes] of left) store.files.set(name, bytes);
      return (await run({ kind: "list" })).length === 1;
    };
    if (await stored()) {
      loads += 1;
      await load(plain);
      assert.deepEqual(names(), whole, `operation ${at}, a load`);
    }
    await stored();
    // A conversion that has ended is not run again.
    if (failed) await finish();
    assert.deepEqual(names(), whole, `operation ${at}, the next run`);
    assert.equal((await run({ kind: "list" }))[0].complete, true);
  }
  assert.ok(at > 30 && loads > 3, `${at} operations, ${loads} after the model was stored`);
});

test("the records of a conversion stay if the stored model is another one, or work is left", async () => {
  await load(models.plain);
  const { shards } = models.plain.manifest;
  const begin = async () => {
    await new WeightCache(store).rememberConversion("aa", { ...record, url });
    for (const [index, entry] of shards.entries()) store.files.set(`convert-aa-${index}.done`, Buffer.from(JSON.stringify(entry)));
  };
  const kept = async (change) => {
    await begin();
    change();
    const before = store.files.size;
    await load(models.plain);
    const isKept = store.files.size === before;
    for (const name of store.files.keys()) if (name.startsWith("convert-")) store.files.delete(name);
    return isKept;
  };
  assert.equal(await kept(() => undefined), false);
  assert.ok(await kept(() => store.files.delete("convert-aa-0.done")));
  assert.ok(await kept(() => store.files.set("convert-aa-0", Buffer.from("begun anew"))));
  assert.ok(await kept(() => store.files.set("convert-aa-0.done", Buffer.from(JSON.stringify({ ...shards[0], sha256: "0".repeat(64) })))));
  assert.equal(await kept(() => store.files.delete("convert-aa-.conversion")), false);
  // A crash can lose the record while it is written again.
  const lost = () => store.files.delete("convert-aa-.conversion") && store.files.set("convert-aa-0", Buffer.from("a shard"));
  assert.ok(await kept(lost));
});

test("a conversion that a tab is running is not deleted", async () => {
  await beginConversion("aa");
  await withConversionLock("aa", () => assert.rejects(run({ kind: "deleteConversion", id: "aa" }), { code: "BUSY" }));
  assert.equal((await contents({ kind: "list" })).conversions.length, 1);
  await run({ kind: "deleteConversion", id: "aa" });
  assert.equal(store.files.size, 0);
});

test("clear, delete and verify fail with BUSY while a tab loads, and delete nothing", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  let reached;
  const loading = new Promise((resolve) => (reached = resolve));
  const load1 = load(models.plain, {
    async hold() {
      reached();
      await held;
    },
  });
  await loading;
  await load(models.pieces, { address: "https://example.org/other/manifest.json" });
  const before = [...store.files.keys()].sort();
  for (const operation of [{ kind: "clear" }, { kind: "delete", url }, { kind: "verify", url }]) {
    await assert.rejects(run(operation), { code: "BUSY" }, operation.kind);
  }
  assert.deepEqual([...store.files.keys()].sort(), before);
  release();
  await load1;
  await run({ kind: "clear" });
  assert.equal(store.files.size, 0);
  assert.deepEqual(locks.held, []);
});

test("an operation returns the model as it was before another tab deletes it", async () => {
  const fill = { kind: "fill", source: { kind: "folder", folder: filesOf(models.plain), url } };
  for (const operation of [fill, { kind: "verify", url }, { kind: "export", url, folder: memoryFolder() }, { kind: "delete", url }]) {
    store = new MemoryStore();
    await load(models.plain);
    const request = locks.request.bind(locks);
    // The other tab gets the lock when the operation releases it.
    locks.request = async (name, options, work) => {
      const result = await request(name, options, work);
      if (name === `qwen-vl-web ${models.plain.manifest.shards[0].sha256}`) store.files.clear();
      return result;
    };
    try {
      const found = await run(operation);
      assert.deepEqual(
        found.map(({ url, complete }) => [url, complete]),
        [[url, true]],
        operation.kind,
      );
      assert.equal(store.files.size, 0, "the other tab has deleted the model");
    } finally {
      locks.request = request;
    }
  }
});

test("an operation finds that another tab has deleted or replaced the model before it got the lock", async () => {
  const deletion = () => store.files.clear();
  const newer = () => load(models.pieces);
  for (const kind of ["verify", "delete"]) {
    for (const [change, expected] of [
      [deletion, []],
      [newer, "BUSY"],
    ]) {
      store = new MemoryStore();
      await load(models.plain);
      const request = locks.request.bind(locks);
      locks.request = async (...parameters) => {
        locks.request = request;
        await change();
        return request(...parameters);
      };
      const operation = run({ kind, url });
      if (expected === "BUSY") await assert.rejects(operation, { code: "BUSY" }, kind);
      else assert.deepEqual(await operation, expected, kind);
      assert.equal(store.files.size > 0, change === newer, kind);
    }
  }
});

test("a load that starts while the cache is cleared waits, and then stores the model", async () => {
  await load(models.plain);
  let release;
  const list = store.list.bind(store);
  store.list = async () => {
    store.list = list;
    await new Promise((resolve) => (release = resolve));
    return list();
  };
  const cleared = run({ kind: "clear" });
  const loaded = load(models.plain);
  await new Promise((resolve) => setTimeout(resolve, 20));
  release();
  await cleared;
  await loaded;
  assert.equal((await run({ kind: "list" }))[0].complete, true);
});
