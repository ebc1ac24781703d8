// Files of stores whose disk fails: they are closed, because an open file can be locked, and no failure is taken for success.

import assert from "node:assert/strict";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { DiskStore } from "../dist/node/disk.js";
import { OpfsStore } from "../dist/weights/opfs.js";
import { renameFile } from "../dist/weights/store.js";
import { MemoryStore } from "./memory.mjs";

const failure = () => {
  throw new DOMException("the disk failed", "UnknownError");
};

/** Runs `work` with a private file system whose only file has these methods. */
async function withFile(methods, work) {
  const handle = { getSize: () => 0, flush: () => undefined, closed: 0, close: () => void (handle.closed += 1), ...methods };
  const folder = { getFileHandle: async () => ({ createSyncAccessHandle: async () => handle }) };
  const storage = { getDirectory: async () => ({ getDirectoryHandle: async () => folder }) };
  const own = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { storage }, configurable: true });
  try {
    await work(await OpfsStore.create(), handle);
  } finally {
    if (own) Object.defineProperty(globalThis, "navigator", own);
    else delete globalThis.navigator;
  }
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
