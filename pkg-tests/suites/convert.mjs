// Conversions in a real browser, from the stand-in of the Hub, from servers and from files.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { promisify } from "node:util";
import { assertMany, expectedError, readCases } from "../cases.mjs";
import { filesOf, lfsPointer, startHub, TOKEN } from "../hub.mjs";

const NAME = "q3-a";
const REPOSITORY = `test/${NAME}`;
const SOURCE = `hf:${REPOSITORY}`;
const WEIGHTS = "model.safetensors";
/** The page's folder with the checkpoint in the published layout. */
const FOLDER = `/golden/${NAME}/checkpoints/${NAME}/`;
/** Browsers report failed requests on their consoles; here they belong to the tests. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked|CORS policy/;
/** The kernels that compile fastest, and no self-check. */
const QUICK = { kernels: "cpu", selfCheck: false };
/** Several shards, by two workers. */
const SMALL = { shardBytes: 200_000, workers: 2 };
/** Several shards, one after the other. */
const ALONE = { shardBytes: 200_000, workers: 1 };

/** Tests of `quantize` of which a conversion that succeeds and one that is refused are repeated. Node repeats all of all tests. */
const KINDS = [
  "convert::f32_holds_the_source_exactly",
  "convert::small_shards",
  "convert::rules_name_modules",
  "gptq::the_repack_is_exact",
  "gptq::modules_of_qwen2_vl_are_joined",
  "gptq::bad_modules",
  "family::sharded_or_not",
  "family::tokenizers_that_are_not_of_this_kind",
  "unusual::state_dicts_inside_other_dictionaries",
  "unusual::element_types",
  "unusual::several_sets_of_weights",
  "unusual::a_lora_folder_is_recognised_in_every_form",
  "unusual::files_that_are_something_else_are_named",
  "bad_input::truncated_shards",
  "bad_input::missing_shard",
  "bad_input::missing_tensor",
  "bad_input::wrong_shape",
  "bad_input::another_model",
  "bad_input::tokenizer",
  "bad_input::generation_settings",
  "bad_input::malicious_pickle",
  "bad_input::big_endian_archives",
  "bad_input::values_that_are_not_finite",
];

/**
 * Early ends of a run. `request`: the request for weights that is answered in part, before the tab is closed. `shards`: those that are complete
 * then, at least.
 */
const ENDS = [
  { end: "aborted between two shards", to: "cache", abortAtShard: 3, shards: 3 },
  { end: "closed while the directory of the weights is read", to: "cache", request: 1, shards: 0 },
  { end: "closed while the bytes of a shard arrive", to: "cache", request: 7, shards: 1 },
  { end: "closed while the bytes of a shard arrive", to: "directory", request: 7, shards: 1 },
];

export async function convertTests(bed) {
  const set = bed.families.find(({ name }) => name === NAME);
  const folder = join(set.root, "checkpoints", NAME);
  const files = await filesOf(folder);
  const golden = JSON.parse(await readFile(join(set.root, "golden", NAME, "text_zh.json"), "utf8"));
  const web = await filesOf(join(bed.checkpoints, `${NAME}-f32`));
  const hub = await startHub({});
  bed.cleanup(() => hub.close());

  const expected = new Map();
  /** Converts the folder in Node. Returns the SHA-256 of each file. */
  const inNode = (...options) => {
    const convert = async () => {
      const root = await mkdtemp(join(tmpdir(), "convert-"));
      const out = join(root, "out");
      try {
        await promisify(execFile)(process.execPath, [join(bed.packageFolder, "dist/node/cli.js"), "quantize", folder, out, ...options]);
        const made = [...(await filesOf(out))].map(([name, bytes]) => [name, createHash("sha256").update(bytes).digest("hex")]);
        return Object.fromEntries(made);
      } finally {
        await rm(root, { recursive: true });
      }
    };
    const key = options.join(" ");
    if (!expected.has(key)) expected.set(key, convert());
    return expected.get(key);
  };
  const small = () => inNode("--shard-size", String(SMALL.shardBytes / 2 ** 20));
  const isShard = (name) => name.startsWith("shard-");

  /** Registers a test on a new page with an empty cache. */
  const convertTest = (name, body, { expected = FAILED_REQUEST, ...options } = {}) =>
    bed.pageTest(
      `convert: ${name}`,
      async (page, context) => {
        await bed.closeShared();
        hub.reset();
        hub.repositories = {
          [REPOSITORY]: { files: new Map(files), license: "apache-2.0" },
          "test/web": { files: new Map(web), license: "apache-2.0" },
        };
        await page.evaluate(emptyStorage);
        await body(page, context);
      },
      { expected, ...options },
    );
  /** Calls a function of the package, `convert` by default: see `convertInPage`. */
  const call = (page, options = {}, source = SOURCE) => page.evaluate(convertInPage, source, { hubUrl: hub.origin, ...options });
  const converts = async (page, options, source) => {
    const found = await call(page, options, source);
    assert.equal(found.error, undefined, JSON.stringify(found.error));
    return found;
  };
  const fails = async (page, code, options, source) => {
    const { error } = await call(page, { retries: 1, ...options }, source);
    assert.equal(error?.code, code, JSON.stringify(error));
    return error;
  };
  /** Asserts that the cache has the bytes of a conversion in Node. */
  const stored = async (page, wanted) => {
    const names = await page.evaluate(namesInCache);
    const shards = Object.entries(wanted).filter(([name]) => isShard(name));
    assert.ok(shards.length > 1);
    for (const [name, sha256] of shards) assert.ok(names.includes(sha256) && names.includes(`${sha256}.complete`), `${name} is not stored`);
    assert.deepEqual(
      names.filter((name) => name.startsWith("convert-")),
      [],
    );
  };
  const weightsRead = () => hub.reads(WEIGHTS).reduce((sum, { headers: { range } }) => sum + span(range), 0);

  convertTest("a plan of a repository says what a conversion will do, and reads no weights", async (page) => {
    const { result } = await converts(page, { action: "plan" });
    assert.match(result.source, new RegExp(`^${SOURCE}@[0-9a-f]{40}$`));
    assert.deepEqual([result.name, result.licence, result.family], [REPOSITORY, "apache-2.0", "qwen3_vl"]);
    assert.ok(result.sourceBytes > 3_000_000 && result.bitsPerWeight > 4 && result.bitsPerWeight < 9, JSON.stringify(result));
    // Both test beds have software adapters.
    assert.deepEqual([result.check.status, result.check.bytes.download], ["slow", result.check.bytes.total]);
    assert.ok(result.check.bytes.gpu > 0);
    assert.ok(weightsRead() > 0 && weightsRead() < 100_000);
    const { result: converted } = await converts(page);
    // The plan estimates the size of the manifest from above.
    assert.ok(converted.bytes <= result.bytes && converted.bytes > 0.9 * result.bytes, `${converted.bytes} of ${result.bytes} bytes`);
    assert.deepEqual(converted.notes, result.notes);
  });

  convertTest("a repository is converted into the cache, and loads from there without the Hub", async (page) => {
    const own = await startHub({ [REPOSITORY]: { files } });
    const options = { hubUrl: own.origin };
    try {
      const { result, events } = await converts(page, { ...options, scheme: "f32", ...SMALL });
      assert.deepEqual([result.url, result.source], [SOURCE, REPOSITORY]);
      checkProgress(events);
      const load = { ...QUICK, ...options, ids: golden.input_ids, steps: golden.decode.tokens.length };
      own.requests = [];
      const online = await page.evaluate(loadInPage, SOURCE, load);
      assert.equal(online.error, undefined, JSON.stringify(online.error));
      assert.deepEqual(online.tokens, golden.decode.tokens);
      assert.equal(own.reads().length, 0);
      own.close();
      const offline = await page.evaluate(loadInPage, SOURCE, load);
      assert.deepEqual([offline.tokens, offline.error], [golden.decode.tokens, undefined]);
      const [model] = await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.list());
      assert.deepEqual([model.url, model.source, model.complete], [SOURCE, REPOSITORY, true]);
    } finally {
      own.close();
    }
  });

  for (const from of ["directory", "files", "server"]) {
    convertTest(`from a ${from === "files" ? "list of files" : from} into a directory, with the bytes of Node`, async (page) => {
      const { made, events } = await converts(page, { ...SMALL, from, names: [...files.keys()], to: "directory" }, FOLDER);
      assert.deepEqual(made, await small());
      checkProgress(events);
      // A finished folder is not overwritten.
      const { message } = await fails(page, "INVALID_ARGUMENT", { ...SMALL, from, names: [...files.keys()], to: "directory" }, FOLDER);
      assert.match(message, /the folder holds `[^`]+`, which is not of this conversion/);
      const discard = { ...SMALL, from, names: [...files.keys()], to: "directory", action: "discardConversion" };
      assert.deepEqual((await converts(page, discard, FOLDER)).made, made);
    });
  }

  convertTest("into a store of the page, with the bytes of Node", async (page) => {
    const { made } = await converts(page, { ...SMALL, from: "server", to: "store" }, FOLDER);
    assert.deepEqual(made, await small());
  });

  convertTest("from files into the cache, under an address of choice", async (page) => {
    const options = { ...SMALL, from: "files", names: [...files.keys()] };
    const { result } = await converts(page, options, FOLDER);
    assert.deepEqual([result.url, result.source], [`local:${NAME}/`, NAME]);
    await stored(page, await small());
    const { result: other } = await converts(page, { ...options, url: "https://models.invalid/mine/" }, FOLDER);
    assert.equal(other.url, "https://models.invalid/mine/manifest.json");
    const urls = await page.evaluate(async () => (await (await import("qwen-vl-web")).QwenVL.cache.list()).map(({ url }) => url));
    assert.deepEqual(urls.sort(), [other.url, result.url].sort());
  });

  for (const cache of ["opfs", "cache-api"]) {
    convertTest(`from the Hub into the cache ${cache}, through a fetch of the page's own`, async (page) => {
      const { fetched } = await converts(page, { ...SMALL, cache, ownFetch: true });
      assert.ok(fetched.length > 5 && fetched.every((url) => url.startsWith(hub.origin)), fetched.join("\n"));
      if (cache === "opfs") await stored(page, await small());
      const [model] = await page.evaluate(async (cache) => (await import("qwen-vl-web")).QwenVL.cache.list({ cache }), cache);
      assert.ok(model?.complete, JSON.stringify(model));
    });
  }

  convertTest("the token goes to the Hub alone", async (page) => {
    hub.repositories[REPOSITORY].gated = true;
    Object.assign(hub, { expireAfter: 3, preflights: true });
    await converts(page, { ...SMALL, accessToken: TOKEN });
    const seen = (host) => hub.requests.filter((request) => request.host === host && request.method === "GET");
    assert.ok(seen("storage").length > 3 && seen("hub").length > 3);
    assert.ok(seen("hub").every(({ headers }) => headers.authorization === `Bearer ${TOKEN}`));
    assert.deepEqual(
      hub.requests.filter(({ host, headers }) => host === "storage" && "authorization" in headers),
      [],
    );
  });

  convertTest("repositories that are missing, private or gated fail with ACCESS_DENIED", async (page) => {
    await fails(page, "ACCESS_DENIED", {}, "hf:test/nothing");
    await fails(page, "DOWNLOAD", { accessToken: TOKEN }, "hf:test/nothing");
    await fails(page, "DOWNLOAD", {}, `${SOURCE}@v9`);
    for (const kind of ["private", "gated"]) {
      hub.repositories[REPOSITORY] = { files, [kind]: true };
      for (const accessToken of [undefined, "hf_wrong"]) {
        const { message } = await fails(page, "ACCESS_DENIED", { accessToken });
        assert.match(message, accessToken ? /does not give access/ : /pass an access token/);
      }
    }
    Object.assign(hub.repositories["test/web"], { gated: true });
    const { error } = await page.evaluate(loadInPage, "hf:test/web", { ...QUICK, hubUrl: hub.origin });
    assert.equal(error?.code, "ACCESS_DENIED", JSON.stringify(error));
  });

  convertTest("status 429 is waited for, for as long as the Hub says where a page may read it", async (page, context) => {
    for (const { exposesRetryAfter, waits } of [
      { exposesRetryAfter: true, waits: [1000, 1000] },
      { exposesRetryAfter: false, waits: [250, 500] },
    ]) {
      await context.test(`Retry-After is ${exposesRetryAfter ? "readable" : "hidden"}`, async () => {
        hub.reset();
        Object.assign(hub, { busy: 2, exposesRetryAfter });
        await page.evaluate(emptyStorage);
        await converts(page, SMALL);
        await stored(page, await small());
        const [first, second, third] = hub.requests.filter(({ host, method }) => host === "hub" && method === "GET");
        assert.deepEqual([second.path, third.path], [first.path, first.path]);
        // Timers of browsers are precise to a few milliseconds.
        for (const [each, waited] of [second.at - first.at, third.at - second.at].entries())
          assert.ok(waited > waits[each] - 20, `${waited} ms`);
      });
    }
  });

  convertTest("signed addresses that expire are asked for again", async (page) => {
    hub.expireAfter = 2;
    await converts(page, SMALL);
    await stored(page, await small());
    assert.ok(hub.requests.filter(({ host, path }) => host === "hub" && path.endsWith(WEIGHTS)).length >= 3);
  });

  convertTest("a file that is replaced in the middle fails with INTEGRITY", async (page, context) => {
    const original = files.get(WEIGHTS);
    const other = Buffer.concat([original.subarray(0, 100_000), Buffer.alloc(original.length - 100_000, 1)]);
    for (const workers of [1, 3]) {
      await context.test(`${workers} workers`, async () => {
        hub.reset();
        hub.beforeStorage = (path, nth) => void (nth === 2 && hub.replaced.set(path, other));
        const { message } = await fails(page, "INTEGRITY", { ...SMALL, workers });
        assert.match(message, /changed on the server/);
      });
    }
  });

  convertTest("a pointer in place of a file fails with CHECKPOINT_INVALID and the file's name", async (page) => {
    hub.repositories[REPOSITORY].files.set(WEIGHTS, lfsPointer(files.get(WEIGHTS)));
    const { message } = await fails(page, "CHECKPOINT_INVALID");
    assert.ok(message.includes(WEIGHTS) && /LFS/i.test(message), message);
  });

  convertTest("an unsupported model fails with UNSUPPORTED_MODEL", async (page) => {
    const config = { ...JSON.parse(files.get("config.json")), model_type: "llama", architectures: ["LlamaForCausalLM"] };
    hub.repositories[REPOSITORY].files.set("config.json", Buffer.from(JSON.stringify(config)));
    await fails(page, "UNSUPPORTED_MODEL");
    await fails(page, "UNSUPPORTED_MODEL", { action: "plan" });
  });

  convertTest("a Hub without CORS headers fails with DOWNLOAD", async (page) => {
    hub.cors = false;
    await fails(page, "DOWNLOAD", { retries: 0 });
    await fails(page, "DOWNLOAD", { retries: 0 }, `${hub.origin}/folder/`);
  });

  convertTest("a web checkpoint of the Hub loads, another repository fails with NOT_CONVERTED", async (page) => {
    const load = { ...QUICK, hubUrl: hub.origin, ids: golden.input_ids, steps: golden.decode.tokens.length };
    const { tokens, error } = await page.evaluate(loadInPage, "hf:test/web", load);
    assert.deepEqual([tokens, error], [golden.decode.tokens, undefined]);
    const { error: refused } = await page.evaluate(loadInPage, SOURCE, load);
    assert.equal(refused?.code, "NOT_CONVERTED", JSON.stringify(refused));
  });

  convertTest("conversions of the native tests give the same from chosen files", async (page) => {
    const all = await readCases(bed.casesFolder);
    assertMany(all, bed.casesFolder);
    const cases = KINDS.flatMap((kind) => {
      const found = all.filter(({ test }) => test === kind);
      assert.ok(found.length > 0, `no case is of ${kind}`);
      return [found.find(({ files }) => files), found.find(({ error }) => error !== undefined)].filter((each) => each !== undefined);
    });
    for (const each of cases) {
      const { name, folder, settings, files, notes } = each;
      const root = join(bed.casesFolder, name, folder);
      const entries = await readdir(root, { recursive: true, withFileTypes: true });
      const names = entries.filter((entry) => entry.isFile()).map((entry) => relative(root, join(entry.parentPath, entry.name)));
      await page.evaluate(() => (window.memoryStore = undefined));
      const options = { ...settings, workers: 1, from: "files", names, to: "store" };
      const { result, made, error } = await call(page, options, `/cases/${name}/${folder}/`);
      if (files) assert.deepEqual([error, made, result?.notes], [undefined, files, notes], name);
      else assert.deepEqual({ code: error?.code, message: error?.message }, expectedError(each, folder), name);
    }
  });

  convertTest("an abort rejects with the signal's reason", async (page) => {
    for (const abortAtShard of [0, 3]) {
      const { error, progress } = await call(page, { ...ALONE, abortAtShard });
      assert.equal(error?.message, "aborted");
      assert.ok(progress.shard >= abortAtShard && progress.shard < progress.shards);
    }
  });

  convertTest("a run that ends early resumes, and no bytes but those of one part are sent twice", async (page, context) => {
    const sentDuring = async (body) => {
      hub.requests = [];
      await body();
      return hub.reads(WEIGHTS).reduce((sum, { sent }) => sum + sent, 0);
    };
    const directories = await sentDuring(() => converts(page, { ...ALONE, action: "plan" }));
    const whole = await sentDuring(() => converts(page, { ...ALONE, to: "store" }));
    const weights = files.get(WEIGHTS);
    const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE(0))));
    // The largest tensor: no slice of one is larger.
    const part = Math.max(...Object.values(header).map(({ data_offsets: [begin, end] = [0, 0] }) => end - begin));
    assert.ok(directories > 0 && part < whole / 2, `${directories} and ${part} of ${whole} bytes`);
    for (const { end, to, request, abortAtShard, shards } of ENDS) {
      await context.test(`${end}, to the ${to}`, async () => {
        await page.evaluate(emptyStorage);
        const first = await sentDuring(async () => {
          if (abortAtShard) return assert.equal((await call(page, { ...ALONE, to, abortAtShard })).error?.message, "aborted");
          const stalled = new Promise((whenSent) => {
            const silence = new Promise(() => undefined);
            hub.beforeStorage = (path, nth) => (nth === request ? { bytes: 1000, whenSent } : nth > request ? silence : undefined);
          });
          const { page: tab } = await bed.openPage("/");
          // The call ends with the tab.
          call(tab, { ...ALONE, to }).catch(() => undefined);
          await stalled;
          await until(() => tab.evaluate((shards) => (window.progress?.shard ?? 0) >= shards, shards));
          await tab.close();
          hub.beforeStorage = () => undefined;
          // Browsers release the locks of a closed tab a moment later.
          await until(() => page.evaluate(async () => (await navigator.locks.query()).held.length === 0));
        });
        let run;
        const second = await sentDuring(async () => (run = await converts(page, { ...ALONE, to })));
        assert.ok(run.events.find(({ phase }) => phase === "convert").shard >= shards, "the first run's shards are not used");
        const twice = first + second - whole - directories;
        assert.ok(twice <= part, `${twice} bytes were sent twice: ${first} and ${second} of ${whole}`);
        const wanted = await small();
        if (to === "cache") await stored(page, wanted);
        else {
          assert.deepEqual(Object.keys(run.made), Object.keys(wanted));
          // Texts have the name of the source, which is another one.
          for (const name of Object.keys(wanted).filter(isShard)) assert.equal(run.made[name], wanted[name], name);
        }
      });
    }
  });

  convertTest("a second conversion at the same time fails with BUSY", async (page) => {
    let release;
    const held = new Promise((resolve) => (release = resolve));
    // All reads of weights: one alone may turn out not to be needed, because another one has its bytes too.
    const isOfWeights = ({ headers: { range } }) => Number(/^bytes=(\d+)-/.exec(range)[1]) >= 100_000;
    hub.beforeStorage = (path) => (path === WEIGHTS && isOfWeights(hub.reads(path).at(-1)) ? held : undefined);
    const first = converts(page, ALONE);
    await until(() => hub.reads(WEIGHTS).some(isOfWeights));
    await bed.open(
      async (second) => {
        for (const tab of [page, second]) {
          await fails(tab, "BUSY", ALONE);
          await fails(tab, "BUSY", { ...ALONE, action: "discardConversion" });
        }
        hub.beforeStorage = () => undefined;
        // Other settings are another conversion.
        await converts(second, { ...ALONE, scheme: "q8", url: "https://models.invalid/q8/" });
      },
      { expected: FAILED_REQUEST },
    );
    release();
    await first;
    await stored(page, await small());
  });

  convertTest("an interrupted conversion is discarded", async (page) => {
    for (const to of ["cache", "directory"]) {
      const { error, left } = await call(page, { ...ALONE, to, abortAtShard: 2 });
      assert.equal(error?.message, "aborted");
      assert.ok(
        left.some((name) => name.endsWith(".done")),
        left.join(),
      );
      const after = await converts(page, { ...ALONE, to, action: "discardConversion" });
      assert.deepEqual(after.left, []);
    }
  });

  convertTest(
    "a result that is larger than the quota fails with QUOTA_EXCEEDED",
    async (page) => {
      const session = await page.createCDPSession();
      await session.send("Storage.overrideQuotaForOrigin", { origin: bed.origin, quotaSize: 500_000 });
      try {
        await fails(page, "QUOTA_EXCEEDED", ALONE);
      } finally {
        await session.send("Storage.overrideQuotaForOrigin", { origin: bed.origin });
      }
      await converts(page, ALONE);
      await stored(page, await small());
    },
    { skip: bed.name !== "chromium" && "only Chromium lets a test set the quota" },
  );

  convertTest("wrong arguments fail with INVALID_ARGUMENT", async (page) => {
    for (const options of [
      { scheme: "q5" },
      { groupSize: 33 },
      { keep: ["vision"] },
      { shardBytes: 2 ** 30 },
      { workers: 0 },
      { cache: "none" },
    ]) {
      await fails(page, "INVALID_ARGUMENT", options);
    }
    for (const source of ["hf:test", "hf:test/q3-a@", "hf:a/b/c"]) await fails(page, "INVALID_ARGUMENT", {}, source);
  });
}

function span(range) {
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(range);
  return end - start + 1;
}

/** Asserts that counters never decrease and reach their ends. */
function checkProgress(events) {
  const phases = [...new Set(events.map(({ phase }) => phase))];
  assert.deepEqual(phases, ["plan", "convert", "finish"]);
  for (const key of ["bytes", "readBytes", "shard", "retries"]) {
    for (const [index, event] of events.entries()) assert.ok(index === 0 || event[key] >= events[index - 1][key], `${key} decreased`);
  }
  const last = events.at(-1);
  assert.ok(last.totalBytes > 0 && last.shards > 1);
  assert.deepEqual([last.bytes, last.shard], [last.totalBytes, last.shards]);
  assert.ok(last.readBytes >= last.sourceBytes, `${last.readBytes} of ${last.sourceBytes} bytes were read`);
}

/** Longer than any condition takes on a busy machine; shorter than the wait for a browser's answer. */
const PATIENCE_MS = 10 * 60_000;

async function until(condition) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `never came true: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// The functions below run in the page.

async function emptyStorage() {
  const { QwenVL } = await import("qwen-vl-web");
  await QwenVL.cache.clear();
  await caches.delete("qwen-vl-web");
  const root = await navigator.storage.getDirectory();
  const names = [];
  for await (const name of root.keys()) if (name !== "qwen-vl-web") names.push(name);
  for (const name of names) await root.removeEntry(name, { recursive: true });
}

async function namesInCache() {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
  const names = [];
  for await (const name of folder.keys()) names.push(name);
  return names;
}

/**
 * Calls `QwenVL.convert`, or another function of the converter (`action`).
 *
 * `from`: "server" is the folder at the address `source`; "files" and "directory" hold its files `names`. `to`: "directory" and "store" take the
 * result, whose hashes are then `made`. `abortAtShard`: aborts when this many shards are complete. `left`: the files of an unfinished conversion.
 */
async function convertInPage(source, { action = "convert", from, names, to = "cache", ownFetch, abortAtShard, ...options }) {
  const { QwenVL } = await import("qwen-vl-web");
  const root = await navigator.storage.getDirectory();
  const fetched = [];
  const events = [];
  const memory = (window.memoryStore ??= new Map());
  const hex = async (bytes) =>
    [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (ownFetch) {
    options.fetch = (address, init) => {
      fetched.push(address);
      return fetch(address, init);
    };
  }
  if (to === "directory") options.output = await root.getDirectoryHandle("out", { create: true });
  if (to === "store") {
    const empty = () => new Blob();
    options.output = {
      kind: "memory",
      async open(name, create) {
        if (!memory.has(name) && !create) return undefined;
        if (!memory.has(name)) memory.set(name, empty());
        return {
          get bytes() {
            return memory.get(name).size;
          },
          read: async (at, length) =>
            new Uint8Array(
              await memory
                .get(name)
                .slice(at, at + length)
                .arrayBuffer(),
            ),
          append: async (bytes) => void memory.set(name, new Blob([memory.get(name), bytes])),
          truncate: async () => void memory.set(name, empty()),
          close: async () => undefined,
        };
      },
      list: async () => [...memory].map(([name, { size }]) => ({ name, bytes: size })),
      delete: async (name) => void memory.delete(name),
    };
  }
  if (from === "files" || from === "directory") {
    const name = source.split("/").at(-2);
    // With the same times in every run: they are the versions of the files.
    const file = async (path) => {
      const bytes = await (await fetch(source + path)).arrayBuffer();
      const file = new File([bytes], path.split("/").at(-1), { lastModified: 1_700_000_000_000 });
      return Object.defineProperty(file, "webkitRelativePath", { value: `${name}/${path}` });
    };
    const files = await Promise.all(names.map(file));
    source = files;
    if (from === "directory") {
      const filled = await root.getDirectoryHandle(name).catch(() => undefined);
      source = filled ?? (await root.getDirectoryHandle(name, { create: true }));
      for (const file of filled ? [] : files) {
        const writer = await (await source.getFileHandle(file.name, { create: true })).createWritable();
        await writer.write(file);
        await writer.close();
      }
    }
  }
  const controller = new AbortController();
  window.progress = undefined;
  const onProgress = (progress) => {
    events.push(progress);
    window.progress = progress;
    if (progress.phase === "convert" && progress.shard >= abortAtShard) controller.abort(new Error("aborted"));
  };
  const contents = async (folder) => {
    const entries = [];
    for await (const [name, handle] of folder.entries()) entries.push([name, handle]);
    return entries.sort(([a], [b]) => (a < b ? -1 : 1));
  };
  /** The files that a conversion which did not end has left. */
  const unfinished = async () => {
    if (to === "directory") return (await contents(options.output)).map(([name]) => name);
    const folder = await root.getDirectoryHandle("qwen-vl-web", { create: true });
    return (await contents(folder)).map(([name]) => name).filter((name) => name.startsWith("convert-"));
  };
  try {
    const result = await QwenVL[action](source, { ...options, onProgress, signal: controller.signal });
    const made = {};
    if (to === "directory")
      for (const [name, handle] of await contents(options.output)) made[name] = await hex(await (await handle.getFile()).arrayBuffer());
    for (const [name, blob] of [...memory].sort(([a], [b]) => (a < b ? -1 : 1))) made[name] = await hex(await blob.arrayBuffer());
    return { result, made, events, fetched, left: action === "plan" ? [] : await unfinished() };
  } catch ({ name, code, message, details }) {
    return { error: { name, code, message, details }, progress: window.progress, left: await unfinished() };
  }
}

/** Loads a model and runs a prompt, if it is given. */
async function loadInPage(source, { ids, steps, ...options }) {
  const { QwenVL } = await import("qwen-vl-web");
  const { runIds } = await import("qwen-vl-web/testing");
  try {
    const model = await QwenVL.load(source, options);
    const { tokens } = ids ? await runIds(model, ids, [], steps) : {};
    await model.dispose();
    return { tokens };
  } catch ({ code, message, details }) {
    return { error: { code, message, details } };
  }
}
