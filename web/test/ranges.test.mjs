// Checkpoints of servers and of the Hub whose answers lie: names, sizes, commits and addresses. Runs in Node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HubRanges, hubAddress } from "../dist/weights/hub.js";
import { UrlRanges } from "../dist/weights/ranges.js";

const hooks = { signal: new AbortController().signal };
const SHA = "0123456789abcdef0123456789abcdef01234567";
const FOLDER = "https://models.test/a/";

/** Lists a folder of a server whose files have these answers. Returns the listing and the paths that were asked for. */
async function list(answers) {
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    const answer = url.startsWith(FOLDER) ? answers[url.slice(FOLDER.length)] : undefined;
    return answer?.clone() ?? new Response("", { status: 404 });
  };
  const { files } = await new UrlRanges(FOLDER, { fetch, retries: 0 }).list(hooks);
  return { files, asked };
}

const sized = (text, headers = { "content-length": String(Buffer.byteLength(text)) }, status = 200) =>
  new Response(text, { status, headers });

test("names of an index that no address can have are left out", async () => {
  const shard = "model-\u00e9-\ud83d\ude00.safetensors";
  const weight_map = { a: "\ud800.safetensors", b: "a\udc00b", c: "..", d: "../x", e: "", f: 5, g: null, h: shard };
  const index = sized(JSON.stringify({ weight_map }));
  const answers = { "config.json": sized("{}"), "model.safetensors.index.json": index, [encodeURIComponent(shard)]: sized("bytes") };
  const { files, asked } = await list(answers);
  assert.deepEqual(files.map(({ path }) => path).sort(), ["config.json", shard, "model.safetensors.index.json"]);
  assert.deepEqual(
    asked.filter((url) => !new URL(url).href.startsWith(FOLDER) || url === FOLDER),
    [],
  );
});

test("an index whose map is a text has no names", async () => {
  const answers = { "config.json": sized("{}"), "model.safetensors.index.json": sized('{"weight_map":"zq"}') };
  const { asked } = await list(answers);
  assert.deepEqual(
    asked.filter((url) => /\/[zq]$/.test(url)),
    [],
  );
});

test("sizes that a server shows are whole numbers that a file can have", async () => {
  const config = (headers, status) => list({ "config.json": sized("{", headers, status) });
  const range = (total) => config({ "content-range": `bytes 0-0/${total}` }, 206);
  assert.equal((await range("9007199254740991")).files[0].bytes, 2 ** 53 - 1);
  for (const total of ["99999999999999999999", "9".repeat(400), "9007199254740992"]) {
    const message = /^the server says that https:\/\/models\.test\/a\/config\.json has 9\d{15}.* bytes, expected at most 9007199254740991$/;
    await assert.rejects(range(total), { code: "DOWNLOAD", message });
    await assert.rejects(config({ "content-length": total }), { code: "DOWNLOAD", message });
  }
  for (const headers of [{ "content-length": "-1" }, { "content-length": "1e3" }, { "content-length": "" }, {}]) {
    await assert.rejects(config(headers), {
      code: "DOWNLOAD",
      message: /does not show the size of https:\/\/models\.test\/a\/config\.json/,
    });
  }
  // The length of the compressed bytes.
  await assert.rejects(config({ "content-length": "1", "content-encoding": "gzip" }), {
    code: "DOWNLOAD",
    message: /does not show the size/,
  });
  assert.equal((await config({ "content-length": "1", "content-encoding": "identity" })).files[0].bytes, 1);
});

/** Lists a repository of a Hub with these answers. Returns the source, the listing and the requests. */
async function listHub({ sha = SHA, tree = [], link }) {
  const asked = [];
  const fetch = async (url, { headers }) => {
    asked.push({ url: new URL(url).href, token: new Headers(headers).get("authorization") });
    const isTree = url.includes("/tree/");
    return Response.json(isTree ? tree : { sha }, { headers: isTree && link ? { link: `<${link}>; rel="next"` } : {} });
  };
  const ranges = new HubRanges({ repository: "a/b", revision: "main" }, { endpoint: "https://hub.test", token: "t", fetch, retries: 0 });
  const refused = await ranges.list(hooks).then(
    () => undefined,
    (error) => error,
  );
  return { refused, ranges, asked };
}

const entry = (path) => ({ type: "file", path, oid: "1".repeat(40), size: 1 });

test("a commit of the Hub is 40 hexadecimal digits, and is asked for as it is", async () => {
  const { refused, ranges, asked } = await listHub({ tree: [entry("a/b c.bin")] });
  assert.equal(refused, undefined);
  assert.equal(await ranges.address("a/b c.bin", hooks), `https://hub.test/a/b/resolve/${SHA}/a/b%20c.bin`);
  assert.equal(asked[1].url, `https://hub.test/api/models/a/b/tree/${SHA}?recursive=true`);
  for (const sha of ["../../../../other/x", "main", SHA.slice(1), `${SHA}0`, `${SHA}/..`, SHA.toUpperCase(), `${SHA}\n`, "", 5, null]) {
    const { refused, asked } = await listHub({ sha });
    assert.equal(refused?.code, "DOWNLOAD", String(sha));
    assert.match(refused.message, /commit of 40 hexadecimal digits/);
    assert.equal(asked.length, 1, String(sha));
  }
});

test("a path of the Hub's list that no address can have is refused", async () => {
  for (const path of ["\ud800.bin", "a/\udc00", "..", "a/../b", "", "a//b"]) {
    assert.equal((await listHub({ tree: [entry(path)] })).refused?.code, "DOWNLOAD", JSON.stringify(path));
  }
  assert.equal((await listHub({ tree: [entry("\ud83d\ude00/..a")] })).refused, undefined);
});

test("pages of the Hub's list are of the repository", async () => {
  for (const link of [
    "/api/whoami-v2",
    "https://hub.test/api/models/other/x/tree/main",
    "../../other",
    "https://stranger.test/x",
    "//x/y",
  ]) {
    const { refused, asked } = await listHub({ link });
    assert.equal(refused?.code, "DOWNLOAD", link);
    assert.equal(asked.length, 2, link);
  }
});

test("an address of a repository leads to no other place of the Hub", () => {
  assert.deepEqual(hubAddress("hf:Qwen/Qwen2.5-VL@refs/pr/1"), { repository: "Qwen/Qwen2.5-VL", revision: "refs/pr/1" });
  for (const address of [
    "hf:../..",
    "hf:./b",
    "hf:a/..",
    "hf:a/.b",
    "hf:a..b/c",
    "hf:a/b@..",
    "hf:a/b@.",
    "hf:a/b@\ud800",
    "hf:a/b@",
    "hf:a",
  ]) {
    assert.throws(() => hubAddress(address), { code: "INVALID_ARGUMENT", message: /expected hf:OWNER\/NAME/ }, address);
  }
});
