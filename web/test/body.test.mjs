// Reading bodies, from streams that the tests fill. Runs in Node.

import assert from "node:assert/strict";
import { after, before, mock, test } from "node:test";
import { readBody } from "../dist/weights/body.js";

const wait = (work) => work;
/** The time that the reader sees. Only the tests change it. */
let clock = 0;
before(() => mock.method(performance, "now", () => clock));
after(() => mock.restoreAll());

/** A stream of bytes and the functions that fill it. The value of a byte is its offset in the file. */
function bytes(at = 0) {
  let controller;
  const stream = new ReadableStream({ type: "bytes", start: (given) => void (controller = given) });
  return {
    stream,
    give(count) {
      controller.enqueue(Uint8Array.from({ length: count }, () => at++ % 251));
    },
    end() {
      controller.close();
      controller.byobRequest?.respond(0);
    },
    fail: (error) => controller.error(error),
  };
}

/** Reads the next bytes. Returns `undefined` if the body has yielded none so far. */
async function next(body) {
  const none = Symbol();
  const pending = (body.pending ??= body.next());
  const result = await Promise.race([pending, new Promise((resolve) => setTimeout(resolve, 20, none))]);
  if (result === none) return undefined;
  body.pending = undefined;
  return result.done ? "end" : [result.value[0], result.value.byteLength];
}

test("the first piece is handed on as it comes, those after it whole", async () => {
  const source = bytes();
  const body = readBody(source.stream, { at: 0, bytes: 1000, pieceBytes: 100, wait });
  source.give(30);
  assert.deepEqual(await next(body), [0, 30]);
  source.give(90);
  assert.deepEqual(await next(body), [30, 70]);
  assert.equal(await next(body), undefined);
  source.give(60);
  assert.equal(await next(body), undefined);
  source.give(30);
  assert.deepEqual(await next(body), [100, 100]);
  source.give(95);
  assert.deepEqual(await next(body), [200, 100]);
});

test("pieces are those of the file, wherever the body begins, and the last may be shorter", async () => {
  const source = bytes(170);
  const body = readBody(source.stream, { at: 170, bytes: 350, pieceBytes: 100, wait });
  source.give(180);
  assert.deepEqual(await next(body), [170, 30]);
  assert.deepEqual(await next(body), [200, 100]);
  assert.deepEqual(await next(body), [300 % 251, 50]);
  source.end();
  assert.equal(await next(body), "end");
});

test("a file without bytes ends at once, and one that should be empty has its bytes", async () => {
  const empty = bytes();
  const body = readBody(empty.stream, { at: 0, bytes: 0, wait });
  empty.end();
  assert.equal(await next(body), "end");
  const longer = bytes();
  const other = readBody(longer.stream, { at: 0, bytes: 0, pieceBytes: 100, wait });
  longer.give(30);
  assert.deepEqual(await next(other), [0, 30]);
});

test("what came of a piece is handed on when the body ends in the middle of it", async () => {
  const source = bytes();
  const body = readBody(source.stream, { at: 0, bytes: 1000, pieceBytes: 100, wait });
  source.give(150);
  assert.deepEqual(await next(body), [0, 100]);
  assert.equal(await next(body), undefined);
  source.end();
  assert.deepEqual(await next(body), [100, 50]);
  assert.equal(await next(body), "end");
});

test("a broken body loses what came of a piece, and nothing before it", async () => {
  const source = bytes();
  const body = readBody(source.stream, { at: 0, bytes: 1000, pieceBytes: 100, wait });
  source.give(250);
  assert.deepEqual(await next(body), [0, 100]);
  assert.deepEqual(await next(body), [100, 100]);
  const broken = assert.rejects(body.next(), /broken/);
  source.fail(new Error("broken"));
  await broken;
});

test("after a slow piece bytes are handed on as they come, until they come fast again", async () => {
  const source = bytes();
  const body = readBody(source.stream, { at: 0, bytes: 1000, pieceBytes: 100, wait });
  source.give(100);
  assert.deepEqual(await next(body), [0, 100]);
  source.give(50);
  assert.equal(await next(body), undefined);
  clock += 300;
  source.give(50);
  assert.deepEqual(await next(body), [100, 100]);
  source.give(10);
  assert.deepEqual(await next(body), [200, 10]);
  source.give(90);
  assert.deepEqual(await next(body), [210, 90]);
  source.give(10);
  assert.equal(await next(body), undefined);
});

test("all of a body is read into the same memory", async () => {
  const source = bytes();
  const body = readBody(source.stream, { at: 0, bytes: 1000, pieceBytes: 100, wait });
  source.give(300);
  const { value: first } = await body.next();
  const { value: second } = await body.next();
  assert.equal(first.buffer.byteLength, 0);
  assert.equal(second.buffer.byteLength, 100);
});

test("a stream that is not one of bytes is handed on as it is", async () => {
  const chunks = [new Uint8Array(3), new Uint8Array(200)];
  const body = readBody(new ReadableStream({ start: (to) => (chunks.forEach((chunk) => to.enqueue(chunk)), to.close()) }), {
    at: 0,
    bytes: 1000,
    pieceBytes: 100,
    wait,
  });
  const got = [];
  for await (const chunk of body) got.push(chunk);
  assert.ok(got.length === 2 && got.every((chunk, index) => chunk === chunks[index]));
});

test("who stops reading cancels the stream", async () => {
  for (const type of ["bytes", undefined]) {
    let cancelled = false;
    const stream = new ReadableStream({ type, start: (to) => to.enqueue(new Uint8Array(10)), cancel: () => void (cancelled = true) });
    for await (const _ of readBody(stream, { at: 0, bytes: 1000, wait })) break;
    assert.ok(cancelled);
  }
});
