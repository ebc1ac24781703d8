// Files of stores whose disk fails: they are closed, because an open file can be locked, and no failure is taken for success.

import assert from "node:assert/strict";
import { mkdtemp, open, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FolderOutput } from "../dist/convert/output.js";
import { DiskRanges, DiskStore } from "../dist/node/disk.js";
import { WeightCache } from "../dist/weights/cache.js";
import { CacheApiStore } from "../dist/weights/cache-api.js";
import { collect } from "../dist/weights/download.js";
import { OpfsStore } from "../dist/weights/opfs.js";
import { readText, renameFile } from "../dist/weights/store.js";
import { MemoryStore } from "./memory.mjs";

const failure = () => {
  throw new DOMException("the disk failed", "UnknownError");
};

/** Runs `work` with a private file system whose only file has these methods. */
async function withFile(methods, work) {
  const handle = { getSize: () => 0, flush: () => undefined, closed: 0, close: () => void (handle.closed += 1), ...methods };
  const folder = { getFileHandle: async () => ({ createSyncAccessHandle: async () => handle }) };
  const storage = { getDirectory: async () => ({ getDirectoryHandle: async () => folder }) };
  await withGlobal("navigator", { storage }, async () => work(await OpfsStore.create(), handle));
}

/** Runs `work` with another value of a global name. */
async function withGlobal(name, value, work) {
  const own = Object.getOwnPropertyDescriptor(globalThis, name);
  Object.defineProperty(globalThis, name, { value, configurable: true });
  try {
    await work();
  } finally {
    if (own) Object.defineProperty(globalThis, name, own);
    else delete globalThis[name];
  }
}

/** Runs `work` with a Cache API store, and the responses of its cache by address. */
async function withCache(work) {
  const responses = new Map();
  const cache = {
    keys: async () => [...responses.keys()].map((url) => ({ url })),
    match: async (url) => responses.get(url)?.clone(),
    put: async (url, response) => void responses.set(url, response),
    delete: async (url) => responses.delete(url),
  };
  await withGlobal("caches", { open: async () => cache }, async () => work(await CacheApiStore.create(), responses));
}

/** Makes a store return each piece as `change` does. A piece that is asked for without end fails. */
function reading(store, change) {
  let reads = 0;
  const real = store.open.bind(store);
  store.open = async (...values) => {
    const file = await real(...values);
    if (!file) return undefined;
    const { read } = file;
    file.read = async (at, length) => {
      if (++reads > 1000) throw new Error("the file is read for ever");
      return change(at, length, (at, length) => read.call(file, at, length));
    };
    return file;
  };
  return store;
}

test("a file of the private file system is closed if its size cannot be read", async () => {
  await withFile({ getSize: failure }, async (store, handle) => {
    await assert.rejects(store.open("a", true), /the disk failed/);
    assert.equal(handle.closed, 1);
  });
});

test("a file of the private file system is closed if its bytes cannot be made durable", async () => {
  await withFile({ flush: failure }, async (store, handle) => {
    const file = await store.open("a", true);
    await assert.rejects(async () => file.close(), /the disk failed/);
    assert.equal(handle.closed, 1);
  });
});

test("a file that is renamed by copying is closed if the new one cannot be made", async () => {
  const store = new MemoryStore();
  store.files.set("a", Buffer.from("bytes"));
  const real = store.open.bind(store);
  store.open = async (name, create) => (name === "b" ? failure() : real(name, create));
  await assert.rejects(renameFile(store, "a", "b"), /the disk failed/);
  await (await store.open("a", false)).close();
  assert.equal(store.files.get("a").toString(), "bytes");
});

test("a file on the disk whose bytes cannot be made durable reports it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "stores-"));
  const probe = await open(folder);
  const prototype = Object.getPrototypeOf(probe);
  await probe.close();
  const { sync } = prototype;
  try {
    const store = new DiskStore(folder);
    const file = await store.open("a", true);
    await file.append(Buffer.from("bytes"));
    prototype.sync = async () => failure();
    await assert.rejects(file.close(), /the disk failed/);
    // Some systems refuse it for a file that is open to be read.
    await (await store.open("a", false)).close();
  } finally {
    prototype.sync = sync;
    await rm(folder, { recursive: true });
  }
});

test("a file that cannot be read to its end is not renamed by copying", async () => {
  const store = reading(new MemoryStore(), (at, length, read) => (at < 3 ? read(at, Math.min(length, 3 - at)) : Buffer.alloc(0)));
  store.files.set("a", Buffer.from("bytes"));
  const lost = {
    code: "STORAGE",
    message: /^could not rename `a` in the storage `.+`: it has 5 bytes, and those from byte 3 on cannot be read$/,
  };
  await assert.rejects(renameFile(store, "a", "b"), lost);
  assert.equal(store.files.get("a").toString(), "bytes");
  for (const name of ["a", "b"]) await (await store.open(name, false)).close();
});

test("a response that is evicted while a file is open is not taken for its end", async () => {
  await withCache(async (store, responses) => {
    const file = await store.open("a", true);
    for (let piece = 0; piece < 3; piece++) await file.append(new Uint8Array(4 << 20).fill(piece));
    await file.close();
    const real = store.open.bind(store);
    store.open = async (...values) => {
      const opened = await real(...values);
      responses.delete([...responses.keys()][1]);
      return opened;
    };
    await assert.rejects(
      renameFile(
        reading(store, (at, length, read) => read(at, length)),
        "a",
        "b",
      ),
      { code: "STORAGE" },
    );
  });
});

test("responses of other scripts do not disturb the files of the Cache API", async () => {
  await withCache(async (store, responses) => {
    const own = await store.open("a", true);
    await own.append(Buffer.from("bytes"));
    await own.close();
    const base = [...responses.keys()][0].replace("a/0/5", "");
    const others = [`${base}%zz/0/5`, `${base}a/0/x`, `${base}a`, base, "https://example.org/a/0/5"];
    for (const url of others) responses.set(url, new Response("other"));
    assert.deepEqual(await store.list(), [{ name: "a", bytes: 5 }]);
    assert.equal(await readText(store, "a"), "bytes");
    await store.delete("a");
    assert.deepEqual([...responses.keys()], others);
  });
});

test("a store may return fewer bytes than it is asked for", async () => {
  const store = reading(new MemoryStore(), (at, length, read) => read(at, Math.min(length, 100)));
  const cache = new WeightCache(store);
  const manifest = { processor: { tokenizer_file: "a" }, provenance: { source: "x".repeat(500) }, files: [], shards: [] };
  await cache.remember("https://example.org/manifest.json", JSON.stringify(manifest));
  assert.deepEqual(
    (await cache.models()).map(({ source }) => source),
    [manifest.provenance.source],
  );
  store.files.set("a", Buffer.from("bytes".repeat(100)));
  await renameFile(store, "a", "b");
  assert.equal(store.files.get("b").toString(), "bytes".repeat(100));
});

test("a shard of a conversion is not left open if its record cannot be read", async () => {
  const store = new MemoryStore();
  const output = new FolderOutput(store, "1", ["shard-0"], []);
  const real = store.open.bind(store);
  store.open = async (name, create) => (name.endsWith(".part") ? failure() : real(name, create));
  await assert.rejects(output.begin(0), { code: "STORAGE", message: /the disk failed/ });
  store.open = real;
  await (await output.begin(0)).abandon();
});

test("a record of a conversion that names no number of bytes counts as none", async () => {
  const store = new MemoryStore();
  const output = new FolderOutput(store, "1", ["shard-0"], []);
  for (const [bytes, stored] of [
    [3, 3],
    [9, 5],
    [-1, 0],
    [1.5, 0],
    ["3", 0],
    [null, 0],
  ]) {
    store.files.set("shard-0", Buffer.from("bytes"));
    store.files.set(".1-0.part", Buffer.from(JSON.stringify({ bytes })));
    const file = await output.begin(0);
    assert.equal(file.stored, stored, `${bytes}`);
    await file.abandon();
  }
});

/** Runs `work` with a folder that has a file. `opened` has the files that it reads. */
async function withDisk(work) {
  const folder = await mkdtemp(join(tmpdir(), "ranges-"));
  await writeFile(join(folder, "a"), "bytes");
  const probe = await open(folder);
  const prototype = Object.getPrototypeOf(probe);
  await probe.close();
  const { read } = prototype;
  const opened = new Set();
  prototype.read = function (...values) {
    opened.add(this);
    return read.apply(this, values);
  };
  try {
    await work(folder, opened);
  } finally {
    prototype.read = read;
    await rm(folder, { recursive: true });
  }
}

test("a file of a checkpoint on the disk is closed after each read", async () => {
  await withDisk(async (folder, opened) => {
    const ranges = new DiskRanges(folder);
    const [file] = (await ranges.list()).files;
    const stop = new AbortController();
    const read = (start, end) => ranges.read(file, start, end, { signal: stop.signal });
    const isClosed = (reads) =>
      assert.deepEqual(
        [...opened].map(({ fd }) => fd),
        Array(reads).fill(-1),
      );
    assert.equal(String(Buffer.from(await collect(read(1, 4)))), "yte");
    isClosed(1);
    for await (const _ of read(0, 5)) break;
    isClosed(2);
    await assert.rejects(collect(read(0, 6)), { code: "INTEGRITY", message: /became shorter/ });
    isClosed(3);
    await assert.rejects(
      async () => {
        for await (const _ of read(0, 6)) stop.abort();
      },
      { name: "AbortError" },
    );
    isClosed(4);
  });
});

test("a file of a checkpoint on the disk that could not be opened is opened again, and one that changed is refused", async () => {
  await withDisk(async (folder) => {
    const path = join(folder, "a");
    const ranges = new DiskRanges(folder);
    const [file] = (await ranges.list()).files;
    const read = () => collect(ranges.read(file, 0, 5, { signal: new AbortController().signal }));
    await rename(path, `${path}-away`);
    await assert.rejects(read(), { code: "INTEGRITY", message: /^could not read .*a \(ENOENT.*\): convert again$/ });
    await rename(`${path}-away`, path);
    assert.equal(String(Buffer.from(await read())), "bytes");
    await writeFile(path, "other");
    await utimes(path, 1, 1);
    await assert.rejects(read(), { code: "INTEGRITY", message: /it changed/ });
  });
});

test("a folder of the disk that does not exist has no files, and one that cannot be read reports it", async () => {
  await withDisk(async (folder) => {
    assert.deepEqual(await new DiskStore(join(folder, "none")).list(), []);
    await assert.rejects(new DiskStore(join(folder, "a")).list(), { code: "ENOTDIR" });
  });
});
