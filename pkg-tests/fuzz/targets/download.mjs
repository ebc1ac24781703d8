// Answers of a server to requests for a file: `web/ts/weights/download.ts`.

import fc from "fast-check";
import { download, downloadWhole } from "../../../web/dist/weights/download.js";
import { settled } from "../outcome.mjs";

const FILE = Uint8Array.from({ length: 64 }, (_, at) => at);
const header = (...values) => fc.option(fc.oneof(fc.constantFrom(...values), fc.string({ maxLength: 6 })), { nil: undefined });
const answer = fc.record({
  status: fc.oneof(fc.constantFrom(200, 206, 206, 206, 416, 429, 503, 404, 302), fc.integer({ min: 200, max: 599 })),
  from: fc.integer({ min: -2, max: 70 }),
  to: fc.integer({ min: 0, max: 80 }),
  pieces: fc.integer({ min: 1, max: 30 }),
  breaks: fc.boolean(),
  range: header("bytes 0-63/64", "bytes 8-63/64", "bytes 99999999999999999999-/*", "bytes -1-2/3"),
  etag: header('"a"', '"b"', 'W/"a"'),
  encoding: header("gzip", "identity"),
  type: header("text/html", "application/octet-stream"),
  retry: header("0", "-1", "1e9", "Thu, 01 Jan 1970 00:00:00 GMT"),
});
export const seeds = 0;
export const input = fc.record({
  answers: fc.array(answer, { minLength: 1, maxLength: 4 }),
  from: fc.integer({ min: 0, max: 64 }),
  exact: fc.boolean(),
});

/** A download has exactly the bytes that it lacks, or fails. Bytes that an honest server sends are at their places. */
export async function check({ answers, from, exact }) {
  let requests = 0;
  const fetch = async () => {
    const { status, from, to, pieces, breaks, range, etag, encoding, type, retry } = answers[requests++ % answers.length];
    if (requests > 1000) throw new Error("the download does not end");
    const headers = new Headers();
    const all = { "content-range": range, etag, "content-encoding": encoding, "content-type": type, "retry-after": retry };
    for (const [name, value] of Object.entries(all)) if (value !== undefined && /^[\x20-\x7e]*$/.test(value)) headers.set(name, value);
    const bytes = FILE.slice(Math.max(from, 0), to);
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += pieces) controller.enqueue(bytes.slice(at, at + pieces));
        if (breaks) controller.error(new Error("broken"));
        else controller.close();
      },
    });
    return new Response([204, 205, 304].includes(status) ? null : body, { status, headers });
  };
  const options = { fetch, retries: 2, backoffMs: 0, signal: AbortSignal.timeout(200), exactRange: exact };
  const timeout = (error) => {
    // `Retry-After` is obeyed.
    if (error instanceof DOMException && error.name === "TimeoutError") return "waits";
    throw error;
  };
  const kind = (call) => settled(call).catch(timeout);
  const partial = await kind(async () => {
    let length = from;
    for await (const piece of download("https://example.org/a", FILE.length, from, options)) length += piece.byteLength;
    if (length !== FILE.length) throw new Error(`${length} bytes of ${FILE.length}`);
  });
  requests = 0;
  return `${partial}, ${await kind(() => downloadWhole("https://example.org/a", { ...options, exactRange: false }))}`;
}
