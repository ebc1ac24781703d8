// Answers of the Hub: `web/ts/weights/hub.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { collect } from "../../../web/dist/weights/download.js";
import { HubRanges, HubSource, hubAddress } from "../../../web/dist/weights/hub.js";
import { sha256 } from "../../../web/test/memory.mjs";
import { nearly, textOf } from "../inputs.mjs";
import { asserting, outcome, settled } from "../outcome.mjs";

const HUB = "https://hub.test";
const STORAGE = "https://storage.test";
const TOKEN = "secret";
/** Most bytes to read of a file. */
const MOST = 12;
/** The bytes from which every file is cut. */
const BYTES = Uint8Array.from({ length: 64 }, (_, at) => 100 + at);

const entry = (path, size = 10) => ({ type: "file", path, oid: "1".repeat(40), size });
const large = (path, size) => ({ ...entry(path), lfs: { oid: sha256(BYTES.subarray(0, size)), size } });
const ANSWERS = [
  {
    facts: { sha: "a".repeat(40), cardData: { license: "other", license_name: "tongyi" } },
    tree: [entry("manifest.json"), entry("config.json", 30)],
    link: null,
  },
  {
    facts: { sha: "0123456789".repeat(4) },
    tree: [large("model.safetensors", 8), large("b/c d.bin", 40), { type: "directory", path: "d", oid: "1", size: 0 }],
    link: '<?cursor=1>; rel="next"',
  },
  { facts: { sha: "../../../../other/x" }, tree: [entry("a")], link: null },
];
const PATHS = ["..", "../x", "a/../../x", "%2e%2e/x", "..\\x", "/a", "a//b", "", "\ud800.safetensors", "a?b#c", "e\u0301", "javascript:x"];
const WORDS = ["test/model", "a", "/", "..", ".", "@", "main", "%2e", "\\", "\ud800", "?", "#", " "];

export const seeds = ANSWERS.length;
export const input = fc.record({
  answers: fc.oneof({ weight: 2, arbitrary: fc.constantFrom(...ANSWERS.slice(0, 2)) }, nearly(ANSWERS)),
  address: fc.oneof(
    { weight: 2, arbitrary: fc.constantFrom("hf:test/model", "hf:test/model@c", "hf:test/model@refs/pr/1") },
    textOf(WORDS, 6).map((text) => `hf:${text}`),
  ),
  link: fc.oneof(
    { weight: 4, arbitrary: fc.constant(undefined) },
    fc.constantFrom(
      '<https://hub.test/x>; rel="next"',
      '<http://[>; rel="next"',
      '<>;rel="next"',
      '<../tree/main>; rel="next"',
      '<https://storage.test/x>; rel="next"',
    ),
  ),
  // A path of a file in place of one of the list. Mostly there is none.
  path: fc.oneof({ weight: 2, arbitrary: fc.constant(undefined) }, fc.constantFrom(...PATHS), textOf(["a", "/", ".", "%", "\ud800"])),
  // The storage host has the files. It refuses each second request to an address, or none.
  stored: fc.boolean(),
  expires: fc.boolean(),
});

/**
 * A repository has its files with whole sizes and their bytes, or is refused. A list of pages ends. Every address that is asked for is of the
 * repository that was named, or one to which the Hub has redirected, and the token goes to the Hub alone.
 */
export async function check({ answers, address, link, path, stored, expires }) {
  let named;
  const parsed = outcome(() => (named = hubAddress(address)));
  const { repository, revision } = named ?? { repository: "test/model", revision: "main" };
  const { facts, tree, link: seedLink } = Object(answers);
  const entries = Array.isArray(tree) && path !== undefined ? tree.map((one, at) => (at === 0 && one ? { ...one, path } : one)) : tree;
  const api = `${HUB}/api/models/${repository}`;
  const sha = /^[\da-f]{40}$/.test(JSON.stringify(facts?.sha)?.slice(1, -1)) ? facts.sha : undefined;
  const files = `${HUB}/${repository}/resolve/${sha}/`;
  const paths = Array.isArray(entries) ? entries.map((entry) => entry?.path) : [];
  let requests = 0;
  /** Requests to each address of the storage host that the Hub has named. */
  const signed = new Map();
  const hub = asserting(async (url, { headers }) => {
    assert.ok(++requests <= 20_000, "the list of files does not end");
    const { href, origin, search } = new URL(url);
    const token = headers.get("authorization");
    assert.ok(token === null || (token === `Bearer ${TOKEN}` && origin === HUB), `${href} gets the token`);
    if (signed.has(href)) {
      signed.set(href, signed.get(href) + 1);
      return expires && signed.get(href) % 2 === 0 ? new Response("", { status: 403 }) : ranged(headers);
    }
    assert.equal(token, `Bearer ${TOKEN}`);
    const bare = href.slice(0, href.length - search.length);
    if (bare === `${api}/revision/${encodeURIComponent(revision)}`) return json(facts);
    if (sha && bare === `${api}/tree/${sha}`) return json(entries, link ?? (search.includes("cursor") ? null : seedLink));
    assert.ok(sha && href.startsWith(files), `${href} is not in the repository ${repository}`);
    const path = href.slice(files.length).split("/").map(decodeURIComponent).join("/");
    assert.ok(paths.includes(path) && !path.split("/").includes(".."), `${href} is not a file of the list`);
    if (!stored) return ranged(headers);
    const place = `${STORAGE}/${encodeURIComponent(path)}?signature=${signed.size}`;
    signed.set(place, 1);
    // As after a redirect.
    return Object.defineProperties(ranged(headers), { url: { value: place }, redirected: { value: true } });
  });
  const options = { endpoint: HUB, token: TOKEN, fetch: hub.fetch, retries: 0 };
  const ranges = new HubRanges({ repository, revision }, options);
  const hooks = { signal: new AbortController().signal };
  let listing;
  const ends = [parsed, await settled(async () => (listing = await ranges.list(hooks)))];
  if (listing) {
    assert.equal(listing.commit, sha);
    for (const file of listing.files) {
      const { path, bytes, version } = file;
      assert.ok(typeof path === "string" && typeof version === "string" && Number.isSafeInteger(bytes) && bytes >= 0, JSON.stringify(file));
    }
    const read = [];
    for (const file of listing.files.slice(0, 3)) {
      const end = Math.min(file.bytes, MOST);
      for (const start of [0, Math.min(2, end)]) {
        read.push(
          await settled(async () =>
            assert.deepEqual(await collect(ranges.read(file, start, end, hooks)), BYTES.slice(start, end), JSON.stringify(file)),
          ),
        );
      }
    }
    ends.push([...new Set(read)].sort().join(" and "));
    ends.push(await settled(() => new HubSource("hf:", { repository, revision }, options).manifest(hooks, false)));
  }
  hub.check();
  return ends.join(", ");
}

function json(value, link) {
  const headers = typeof link === "string" && /^[\x20-\x7e]*$/.test(link) ? { link } : {};
  return new Response(JSON.stringify(value) ?? "", { headers });
}

/** Returns the answer of a host with a file. */
function ranged(headers) {
  const [, start, end] = /^bytes=(\d+)-(\d*)$/.exec(headers.get("range") ?? "") ?? [];
  if (start === undefined) return new Response(BYTES);
  const bytes = BYTES.slice(Number(start), end ? Number(end) + 1 : undefined);
  return new Response(bytes, { status: 206, headers: { "content-range": `bytes ${start}-${Number(start) + bytes.length - 1}/64` } });
}
