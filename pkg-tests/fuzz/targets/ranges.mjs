// A checkpoint in a folder of a server without a listing: `web/ts/weights/ranges.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { collect } from "../../../web/dist/weights/download.js";
import { UrlRanges } from "../../../web/dist/weights/ranges.js";
import { nearly, textOf } from "../inputs.mjs";
import { asserting, settled } from "../outcome.mjs";

/** Addresses of folders, and the addresses that their files have. */
const FOLDERS = {
  "https://models.test/a/": "https://models.test/a/",
  "https://models.test/": "https://models.test/",
  "https://models.test/a/config.json": "https://models.test/a/",
  "https://models.test/a/?q=../x#y": "https://models.test/a/",
  "https://models.test/a/../b c/%2e%2e/%zz/": "https://models.test/%zz/",
  "https://name:secret@models.test:8443/a/": "https://name:secret@models.test:8443/a/",
};
const INDEX = "model.safetensors.index.json";
/** Files of an ordinary checkpoint. */
const ORDINARY = ["config.json", "model.safetensors", "tokenizer.json", "README.md"];
const NAMES = [
  "model-1.safetensors",
  "model-2.safetensors",
  "config.json",
  "a b#c?d",
  "e\u0301\u{1f600}",
  "..",
  ".",
  "",
  "../secret",
  "/etc/x",
  "//stranger.test/x",
  "https://stranger.test/x",
  "javascript:x",
  "%2e%2e",
  "..%2fx",
  "..\\x",
  "\ud800.safetensors",
  "a\udc00",
  "a\0",
];
/** The bytes from which every file is cut. */
const BYTES = Uint8Array.from({ length: 64 }, (_, at) => 100 + at);
const MANY = ["9007199254740991", "9007199254740992", "99999999999999999999", "9".repeat(400)];

const name = fc.oneof(fc.constantFrom(...NAMES), textOf(["a", "/", ".", "%", "\\", "\ud800", "?", "#"], 5));
const header = (...values) => fc.oneof(fc.constant(undefined), fc.constantFrom(...values), fc.string({ maxLength: 6 }));
/** An answer with a file of `bytes` bytes to the range that was asked for, or with all of it. */
const honest = fc.record({
  bytes: fc.integer({ min: 1, max: BYTES.length }),
  whole: fc.boolean(),
  etag: fc.constantFrom(undefined, '"a"'),
});
const lie = fc.record({
  bytes: fc.nat(BYTES.length),
  status: fc.constantFrom(200, 206, 206, 206, 404, 410, 416, 403, 500, 204),
  range: header(
    "bytes 0-0/10",
    "bytes 0-0/*",
    "bytes 0-0/-1",
    "bytes 5-5/10",
    "bytes 0-0/1e3",
    ...MANY.map((total) => `bytes 0-0/${total}`),
  ),
  length: header("0", "10", "-1", "1e3", " 7 ", "0x10", ...MANY),
  encoding: header("gzip", "identity"),
  type: header("text/html", "application/json"),
  etag: header('"a"', '"b"', 'W/"a"'),
});

const hooks = { signal: new AbortController().signal };
// A request listens for its end, and there are many at a time.
setMaxListeners(0, hooks.signal);

export const seeds = 1;
export const input = fc.record({
  folder: fc.constantFrom(...Object.keys(FOLDERS)),
  files: fc.oneof(
    { weight: 2, arbitrary: fc.constant(ORDINARY) },
    fc.subarray(ORDINARY).map((some) => ["config.json", ...some]),
    fc.subarray(ORDINARY),
  ),
  // Names in an index, or any other JSON in its place.
  index: fc.option(
    fc.oneof(
      { weight: 3, arbitrary: fc.record({ names: fc.array(name, { maxLength: 8 }) }) },
      fc.record({ value: nearly([{ weight_map: { a: "model-1.safetensors", b: "../x" }, metadata: {} }]) }),
    ),
    { nil: undefined },
  ),
  answer: honest,
  // Answers in place of the ordinary one, by the number of the request. Mostly there are none.
  lies: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, fc.array(fc.tuple(fc.nat(40), lie), { maxLength: 3 })),
});

/**
 * No address outside of the folder is asked for, and none that is not of a file. A listing has sizes and versions of files, each once. If no
 * answer lies, it has every file that the server has, and their bytes.
 */
export async function check({ folder, files, index, answer, lies }) {
  const base = FOLDERS[folder];
  const served = new Map(files.map((name) => [name, BYTES.slice(0, answer.bytes)]));
  if (index) {
    const value = index.names ? { weight_map: Object.fromEntries(index.names.map((name, at) => [`t${at}`, name])) } : index.value;
    served.set(INDEX, Buffer.from(JSON.stringify(value) ?? "null"));
  }
  const names = (index?.names ?? []).filter((name) => !name.includes("/") && !/^\.{0,2}$/.test(name) && name.isWellFormed());
  for (const name of names) if (!served.has(name)) served.set(name, BYTES.slice(0, answer.bytes));
  let [requests, lied] = [0, false];
  const server = asserting(async (url, { headers }) => {
    assert.ok(requests < 1000, "the requests do not end");
    const { href } = new URL(url);
    const rest = href.slice(base.length);
    assert.ok(href.startsWith(base) && /^[^/?#\\]+$/.test(rest) && !/^(\.|%2e){1,2}$/i.test(rest), `${href} is not a file of ${base}`);
    const [, chosen] = lies.find(([at]) => at === requests) ?? [];
    requests += 1;
    if (chosen) {
      lied = true;
      return answerWith(chosen);
    }
    const bytes = served.get(decodeURIComponent(rest));
    return bytes ? ranged(bytes, headers, answer) : new Response("", { status: 404 });
  });
  const options = { fetch: server.fetch, retries: 1, backoffMs: 0 };
  const ranges = new UrlRanges(folder, options);
  let listing;
  const end = await settled(async () => (listing = await ranges.list(hooks)));
  server.check();
  if (!listing) {
    assert.ok(lied || !files.includes("config.json"), `a folder is refused: ${end}`);
    return end;
  }
  assert.ok(listing.name.length > 0 && !listing.name.includes("/"), listing.name);
  assert.equal(new Set(listing.files.map(({ path }) => path)).size, listing.files.length, "a file is listed twice");
  for (const { path, bytes, version } of listing.files) {
    assert.ok(Number.isSafeInteger(bytes) && bytes >= 0 && typeof version === "string", JSON.stringify({ path, bytes, version }));
    if (!lied) assert.equal(bytes, served.get(path)?.length, path);
  }
  const isListed = (name) => listing.files.some(({ path }) => path === name);
  if (!lied)
    assert.deepEqual(
      [...served.keys()].filter((name) => !isListed(name)),
      [],
    );
  // Another worker reads what this one has listed.
  const other = new UrlRanges(folder, options);
  other.adopt(structuredClone(listing));
  const read = new Set();
  for (const file of listing.files.slice(0, 4)) {
    const size = Math.min(file.bytes, 16);
    const start = Math.min(2, size);
    const found = await settled(async () => {
      const bytes = await collect(other.read(file, start, size, hooks));
      assert.equal(bytes.length, size - start, file.path);
      if (!lied) assert.deepEqual(bytes, new Uint8Array(served.get(file.path).subarray(start, size)), file.path);
    });
    assert.ok(lied || found === "ok", `${file.path}: ${found}`);
    read.add(found);
  }
  server.check();
  return `${end}, ${[...read].sort().join(" and ")}`;
}

/** Returns the answer of an honest server. */
function ranged(bytes, requested, { whole, etag }) {
  const headers = { "content-length": String(bytes.length), ...(etag ? { etag } : {}) };
  const [, start, end] = /^bytes=(\d+)-(\d*)$/.exec(requested.get("range") ?? "") ?? [];
  if (start === undefined || whole) return new Response(bytes, { headers });
  const part = bytes.slice(Number(start), end ? Number(end) + 1 : undefined);
  const range = `bytes ${start}-${Number(start) + part.length - 1}/${bytes.length}`;
  return new Response(part, { status: 206, headers: { ...headers, "content-length": String(part.length), "content-range": range } });
}

function answerWith({ bytes, status, range, length, encoding, type, etag }) {
  const headers = new Headers();
  const all = { "content-range": range, "content-length": length, "content-encoding": encoding, "content-type": type, etag };
  for (const [name, value] of Object.entries(all)) if (value !== undefined && /^[\x20-\x7e]*$/.test(value)) headers.set(name, value);
  return new Response(status === 204 ? null : BYTES.slice(0, bytes), { status, headers });
}
