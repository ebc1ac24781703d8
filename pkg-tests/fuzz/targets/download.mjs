// Answers of a server to requests for a file: `web/ts/weights/download.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { download, downloadWhole } from "../../../web/dist/weights/download.js";
import { asserting, settled } from "../outcome.mjs";

export const FILE = Uint8Array.from({ length: 64 }, (_, at) => at);
const URL = "https://example.org/a";
const header = (...values) => fc.option(fc.oneof(fc.constantFrom(...values), fc.string({ maxLength: 6 })), { nil: undefined });
const pieces = fc.integer({ min: 1, max: 30 });
/** An answer of a server that has the file. */
const honest = fc.record({
  // Mostly it has no fault: it is busy, or its connection breaks after some bytes.
  busy: fc.oneof({ weight: 6, arbitrary: fc.constant(false) }, fc.constant(true)),
  breaks: fc.oneof({ weight: 2, arbitrary: fc.constant(Infinity) }, fc.nat(40)),
  // It answers with the whole file in place of a range, with a range that begins earlier, or does not name the range.
  form: fc.constantFrom("exact", "exact", "whole", "gzip", "early", "hidden"),
  pieces,
  etag: fc.constantFrom(undefined, '"a"', 'W/"b"'),
});
const lie = fc.record({
  status: fc.oneof(fc.constantFrom(200, 206, 206, 206, 416, 429, 503, 404, 302), fc.integer({ min: 200, max: 599 })),
  from: fc.integer({ min: -2, max: 70 }),
  to: fc.integer({ min: 0, max: 80 }),
  pieces,
  breaks: fc.boolean(),
  range: header("bytes 0-63/64", "bytes 8-63/64", "bytes 99999999999999999999-/*", "bytes -1-2/3"),
  etag: header('"a"', '"b"', 'W/"a"'),
  encoding: header("gzip", "identity"),
  type: header("text/html", "application/octet-stream"),
  retry: header("0", "-1", "1e9", "9".repeat(400), "Thu, 01 Jan 1970 00:00:00 GMT"),
});
const answers = (answer) => fc.array(answer, { minLength: 1, maxLength: 4 });
export const seeds = 0;
export const input = fc.record({
  answers: fc.oneof({ weight: 2, arbitrary: answers(honest) }, answers(fc.oneof(honest, lie))),
  from: fc.integer({ min: 0, max: 64 }),
  exact: fc.boolean(),
});

/**
 * A download has exactly the bytes that it lacks, or fails. Bytes of a server that is honest are those of the file at their places, also if the
 * download fails after them.
 *
 * @param file the bytes that the server sends, for the test of this target
 */
export async function check({ answers, from, exact }, file = FILE) {
  let [requests, lied] = [0, false];
  const server = asserting(async (url, { headers }) => {
    const answer = answers[requests++ % answers.length];
    assert.ok(requests <= 1000, "the download does not end");
    if (answer.form) return honestly(answer, file, headers.get("range"));
    lied = true;
    return answerWith(answer, file);
  });
  const signal = answers.some(({ retry }) => retry !== undefined) ? AbortSignal.timeout(200) : new AbortController().signal;
  const options = { fetch: server.fetch, retries: 2, backoffMs: 0, signal, exactRange: exact };
  const timeout = (error) => {
    // `Retry-After` is obeyed.
    if (error instanceof DOMException && error.name === "TimeoutError") return "waits";
    throw error;
  };
  const kind = async (call) => {
    [requests, lied] = [0, false];
    const end = await settled(call).catch(timeout);
    return `${lied ? "lies" : "honest"} ${end}`;
  };
  const partial = await kind(async () => {
    let at = from;
    for await (const piece of download(URL, FILE.length, from, options)) {
      assert.ok(at + piece.length <= FILE.length, `${at + piece.length} bytes of ${FILE.length}`);
      if (!lied) assert.deepEqual(piece.slice(), FILE.slice(at, at + piece.length), `bytes from ${at} on`);
      at += piece.length;
    }
    assert.equal(at, FILE.length);
  });
  const whole = await kind(async () => {
    const bytes = await downloadWhole(URL, { ...options, exactRange: false });
    if (!lied) assert.deepEqual(bytes, FILE);
  });
  server.check();
  return `${partial}, ${whole}`;
}

function honestly({ busy, breaks, form, pieces, etag }, file, requested) {
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(requested ?? "") ?? [];
  const headers = etag ? { etag } : {};
  if (busy) return new Response(null, { status: 503 });
  if (first === undefined || form === "whole" || form === "gzip") {
    return new Response(bodyOf(file, pieces, breaks), { headers: form === "gzip" ? { ...headers, "content-encoding": "gzip" } : headers });
  }
  const begin = Math.max(Number(first) - (form === "early" ? 5 : 0), 0);
  const bytes = file.slice(begin, last ? Number(last) + 1 : undefined);
  const range = form === "hidden" ? {} : { "content-range": `bytes ${begin}-${begin + bytes.length - 1}/${file.length}` };
  return new Response(bodyOf(bytes, pieces, breaks), { status: 206, headers: { ...headers, ...range } });
}

function answerWith({ status, from, to, pieces, breaks, range, etag, encoding, type, retry }, file) {
  const headers = new Headers();
  const all = { "content-range": range, etag, "content-encoding": encoding, "content-type": type, "retry-after": retry };
  for (const [name, value] of Object.entries(all)) if (value !== undefined && /^[\x20-\x7e]*$/.test(value)) headers.set(name, value);
  const bytes = file.slice(Math.max(from, 0), to);
  const body = bodyOf(bytes, pieces, breaks ? bytes.length : Infinity);
  return new Response([204, 205, 304].includes(status) ? null : body, { status, headers });
}

/** Returns a body that breaks after this number of bytes. */
function bodyOf(bytes, pieces, breaks) {
  const end = Math.min(breaks, bytes.length);
  const all = Array.from({ length: Math.ceil(end / pieces) }, (_, at) => bytes.slice(at * pieces, Math.min((at + 1) * pieces, end)));
  return new ReadableStream({
    // A piece at a time: what waits in the stream is lost when it breaks.
    pull(controller) {
      const piece = all.shift();
      if (piece) controller.enqueue(piece);
      else if (breaks === Infinity) controller.close();
      else controller.error(new Error("broken"));
    },
  });
}
