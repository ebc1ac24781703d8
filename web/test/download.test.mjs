// The download against a server that misbehaves. Runs in Node.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, beforeEach, test } from "node:test";
import { download, downloadWhole } from "../dist/weights/download.js";
import { misbehavingServer } from "./misbehaving.mjs";

const BYTES = 300_000;
const file = Buffer.from(Uint8Array.from({ length: BYTES }, (_, index) => (index * 2654435761) >>> 24));
/** Bytes that a cut may lose while the reader keeps up: the chunk in flight, which the stream drops when it fails. */
const CHUNK = 65536;
/** Bytes that a cut may lose in addition after the first piece of a response: those of the unfinished piece. */
const PIECE = 50_000;

let server;
before(async () => {
  server = await misbehavingServer(async (path) => (path === "/shard" ? file : undefined));
});
beforeEach(() => {
  server.reset();
  server.linger = 100;
});
after(() => server.close());

/** Downloads the file. Returns its bytes and counts. */
async function fetchShard({ from = 0, retries = 3, signal = new AbortController().signal, ...more } = {}) {
  const counts = { retries: 0, refetched: 0 };
  const options = {
    fetch: (url, init) => fetch(url, init),
    retries,
    signal,
    backoffMs: 1,
    stallMs: 20_000,
    onRetry: () => counts.retries++,
    onRefetched: (bytes) => (counts.refetched += bytes),
    ...more,
  };
  const pieces = [];
  for await (const piece of download(`${server.origin}/shard`, BYTES, from, options)) pieces.push(piece.slice());
  return { bytes: Buffer.concat(pieces), ...counts };
}

const once = (fault) => (path, nth) => (nth === 0 ? fault : undefined);
const always = (fault) => () => fault;
const fails = (promise, expected) =>
  assert.rejects(promise, (error) => (assert.deepEqual({ ...expected, code: error.code }, expected), error.name === "QwenVLError"));

async function arrives(options) {
  const got = await fetchShard(options);
  assert.ok(got.bytes.equals(file.subarray(options?.from ?? 0)), "other bytes than the file's");
  return got;
}

test("a file arrives with one request", async () => {
  assert.deepEqual(await arrives().then(({ retries, refetched }) => [retries, refetched]), [0, 0]);
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].range, undefined);
});

test("a cut at any byte costs at most a chunk", async (context) => {
  for (const cut of [0, 1, 2, 3, 4095, 4096, 16383, 16384, 65535, 65536, 65537, 131072, 150001, 299_998, 299_999]) {
    await context.test(String(cut), async () => {
      server.reset();
      server.fault = once({ cut });
      await arrives();
      // Clients repeat a request automatically if a reused connection ends without a response.
      assert.equal(server.requests.length, 2);
      assert.ok(server.sent() - BYTES <= CHUNK, `${server.sent() - BYTES} bytes came twice`);
    });
  }
});

test("where pieces are handed on whole, a cut costs what came of one besides, and it arrives however often it is cut", async (context) => {
  for (const cut of [1, 49_999, 50_000, 50_001, 99_999, 100_000, 225_000, 299_999]) {
    await context.test(String(cut), async () => {
      server.reset();
      server.fault = once({ cut });
      await arrives({ pieceBytes: PIECE });
      const lost = cut < PIECE ? 0 : cut % PIECE;
      assert.ok(server.sent() - BYTES <= CHUNK + lost, `${server.sent() - BYTES} bytes came twice`);
      server.reset();
      server.fault = always({ cut: Math.max(cut, 10_000) });
      await arrives({ pieceBytes: PIECE, retries: 2 });
    });
  }
});

test("cuts in each of many answers end with the file as long as every answer brings something", async () => {
  server.fault = (path, nth) => (nth < 20 ? { cut: 10_000 } : undefined);
  const { retries } = await arrives({ retries: 2 });
  assert.ok(retries >= 20);
  assert.ok(server.sent() - BYTES <= 20 * 10_000);
});

test("a connection that is cut before anything comes fails after the retries", async () => {
  server.fault = always({ cut: 0 });
  await fails(fetchShard({ retries: 4 }), { code: "DOWNLOAD" });
  assert.ok(server.requests.length >= 5);
});

test("a stalled answer is given up and resumed", async () => {
  server.fault = once({ stall: 100_000 });
  const { retries } = await arrives({ stallMs: 2000 });
  assert.equal(retries, 1);
  assert.equal(server.requests[1].range, 100_000);
});

test("a download begins in the middle", async () => {
  await arrives({ from: 123_456 });
  assert.equal(server.sent(), BYTES - 123_456);
});

test("a server without ranges is read from the start and the known part skipped", async () => {
  server.fault = (path, nth) => ({ noRange: true, ...(nth === 0 ? { cut: 100_000 } : {}) });
  const { refetched } = await arrives();
  assert.ok(refetched > 0 && refetched <= 100_000);
});

test("a server without ranges that always cuts at the same byte fails", async () => {
  server.fault = always({ noRange: true, cut: 100_000 });
  await fails(fetchShard({ retries: 2 }), { code: "DOWNLOAD" });
});

test("status 416 to a range: read again from the start", async () => {
  server.fault = (path, nth, range) => (range === undefined ? undefined : { status: 416 });
  const { refetched } = await arrives({ from: 1000 });
  assert.equal(refetched, 1000);
});

test("a shorter file on the server fails with both lengths, with ranges and without", async () => {
  for (const noRange of [false, true]) {
    server.fault = always({ body: file.subarray(0, 200_000), noRange });
    await assert.rejects(fetchShard({ retries: 9 }), ({ code, details }) => {
      assert.deepEqual([code, details.expected, details.found], ["INTEGRITY", BYTES, 200_000]);
      return true;
    });
    assert.ok(server.requests.length < 9);
  }
});

test("a longer file on the server gives only the bytes asked for", async () => {
  server.fault = always({ body: Buffer.concat([file, file]) });
  await arrives();
});

test("a range that begins earlier than asked for is trimmed", async () => {
  server.fault = once({ early: 10 });
  const { refetched } = await arrives({ from: 5000 });
  assert.equal(refetched, 10);
});

test("a range without Content-Range is taken as asked for", async () => {
  server.fault = always({ hideRange: true });
  await arrives({ from: 5000 });
});

test("a declared length that is too large or too small", async (context) => {
  for (const declare of [1, 1000, -1, -1000]) {
    await context.test(String(declare), async () => {
      server.reset();
      server.fault = once({ declare });
      await arrives();
      assert.ok(server.sent() - BYTES <= CHUNK);
    });
  }
});

test("compressed answers are never resumed by ranges", async () => {
  server.fault = (path, nth) => ({ gzip: true, ...(nth === 0 ? { cut: 200 } : {}) });
  await arrives();
  server.reset();
  server.fault = (path, nth, range) => ({ gzip: range !== undefined });
  await arrives({ from: 1000 });
});

test("bursts of 408, 425, 429, 500, 502, 503 pass", async (context) => {
  for (const status of [408, 425, 429, 500, 502, 503]) {
    await context.test(String(status), async () => {
      server.reset();
      server.fault = (path, nth) => (nth < 3 ? { status } : undefined);
      assert.equal((await arrives()).retries, 3);
    });
  }
});

test("a server that stays busy fails with its status", async () => {
  server.fault = always({ status: 503 });
  await assert.rejects(fetchShard({ retries: 2 }), (error) => {
    assert.deepEqual([error.code, error.details.status, error.details.attempts], ["DOWNLOAD", 503, 3]);
    return error.retryable;
  });
});

test("Retry-After is kept to, in seconds and as a date", async (context) => {
  const inTwoSeconds = () => new Date(Date.now() + 2500).toUTCString();
  for (const [name, value, least] of [
    ["seconds", () => "1", 990],
    ["date", inTwoSeconds, 1000],
  ]) {
    await context.test(name, async () => {
      server.reset();
      server.fault = (path, nth) => (nth === 0 ? { status: 429, headers: { "retry-after": value() } } : undefined);
      await arrives();
      const waited = server.requests[1].at - server.requests[0].at;
      assert.ok(waited >= least, `waited ${waited} ms`);
    });
  }
});

test("Retry-After of an hour, or of more digits than a number has, fails at once", async () => {
  for (const [value, millis] of [
    ["3600", 3_600_000],
    ["9".repeat(400), Infinity],
  ]) {
    server.reset();
    server.fault = always({ status: 429, headers: { "retry-after": value } });
    await assert.rejects(fetchShard(), (error) => error.code === "DOWNLOAD" && error.details.retryAfterMs === millis);
    assert.equal(server.requests.length, 1);
  }
});

test("status 404 and web pages fail at once", async () => {
  server.fault = always({ status: 404 });
  await fails(fetchShard(), { code: "DOWNLOAD" });
  server.fault = always({ html: true });
  await fails(fetchShard(), { code: "DOWNLOAD" });
  assert.equal(server.requests.length, 2);
});

test("a file that is replaced in the middle is noticed by its ETag", async () => {
  const other = Buffer.alloc(BYTES, 7);
  server.fault = (path, nth) => (nth === 0 ? { cut: 100_000, headers: { etag: '"a"' } } : { body: other, headers: { etag: '"b"' } });
  await fails(fetchShard(), { code: "INTEGRITY" });
});

test("abort ends a request, a stalled body and a wait, with the signal's reason", async (context) => {
  const faults = { request: { cut: 0 }, stalled: { stall: 1000 }, wait: { status: 429, headers: { "retry-after": "60" } } };
  for (const [name, fault] of Object.entries(faults)) {
    await context.test(name, async () => {
      server.reset();
      server.fault = always(fault);
      const controller = new AbortController();
      const reason = new Error("enough");
      setTimeout(() => controller.abort(reason), 100);
      const started = performance.now();
      await assert.rejects(
        fetchShard({ signal: controller.signal, retries: 1000, stallMs: 10_000, backoffMs: 20 }),
        (error) => error === reason,
      );
      assert.ok(performance.now() - started < 1000);
    });
  }
});

test("an abort between two reads ends a body that does not hear of it", async () => {
  const body = new ReadableStream({ start: (to) => to.enqueue(new Uint8Array(10)) });
  const controller = new AbortController();
  const reason = new Error("enough");
  const pieces = download("memory:", BYTES, 0, { fetch: async () => new Response(body), retries: 0, signal: controller.signal });
  assert.equal((await pieces.next()).value.byteLength, 10);
  controller.abort(reason);
  await assert.rejects(pieces.next(), (error) => error === reason);
});

test("a reader that stops early ends the request", async () => {
  const options = { fetch: (url, init) => fetch(url, init), retries: 0, signal: new AbortController().signal };
  for await (const piece of download(`${server.origin}/shard`, BYTES, 0, options)) {
    assert.ok(piece.byteLength > 0);
    break;
  }
});

test("a small file whose size is not known arrives whole, also after failures", async () => {
  server.fault = (path, nth) => [{ status: 503 }, { cut: 1000 }, { gzip: true }][nth];
  const options = { fetch: (url, init) => fetch(url, init), retries: 3, backoffMs: 1, signal: new AbortController().signal };
  const got = await downloadWhole(`${server.origin}/shard`, options);
  assert.equal(createHash("sha256").update(got).digest("hex"), createHash("sha256").update(file).digest("hex"));
});

test("an error names the file, however long its address is", async () => {
  const options = { fetch: (url, init) => fetch(url, init), retries: 0, backoffMs: 1, signal: new AbortController().signal };
  const long = `${server.origin}/${"f".repeat(150)}/model-00001-of-00003.safetensors`;
  for (const url of [long, `${long}?Signature=${"s".repeat(150)}`])
    await assert.rejects(downloadWhole(url, options), ({ message }) => {
      assert.match(message, /status 404: http:\/\/127\.0\.0\.1:\d+\/f+…\/model-00001-of-00003\.safetensors$/);
      return message.length < 160;
    });
});
