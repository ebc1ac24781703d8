// Loading in a real browser, from a server that misbehaves and a storage that loses files.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { largeModel } from "../weights/large-model.mjs";
import { MemoryWatch, mib, residentBytes } from "../weights/memory-watch.mjs";
import { misbehavingServer } from "../../web/test/misbehaving.mjs";
import { reshard } from "../weights/reshard.mjs";
import { HOLD_READS, noMemoryFor } from "./sabotage.mjs";

/** Bytes that a cut may cost while the reader keeps up: the chunk in flight. */
const CHUNK = 64 * 1024;
/** Size of the model's pieces. All but the first of an answer are passed on whole, so a cut also costs the received part of a piece. */
const PIECE = 256 * 1024;
/** Browsers report failed requests on their consoles; here they belong to the tests. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked/;

/** The kernels that compile fastest, and no self-check: loads of other suites choose and check kernels. */
const QUICK = { kernels: "cpu", selfCheck: false };

export async function weightsTests(bed) {
  const [set] = bed.sets;
  const golden = JSON.parse(await readFile(join(set.golden, "text_en.json"), "utf8"));
  // The first has hashes of pieces, as the converter writes them. The second has none.
  const model = await reshard(join(bed.checkpoints, `${set.name}-f32`), 4, PIECE);
  assert.ok(model.manifest.shards.length >= 3);
  const other = await reshard(join(bed.checkpoints, `${bed.sets[1].name}-f32`), 4);
  let served = model;
  const server = await misbehavingServer(async (path) => served.files.get(path.slice("/model/".length)));
  const url = `${server.origin}/model/`;
  const shardPath = (index) => `/model/${model.manifest.shards[index].file}`;
  const needed = new Set([...model.manifest.shards.map(({ file }) => file), model.manifest.processor.tokenizer_file]);
  const sent = () =>
    server.requests.filter(({ path }) => needed.has(path.slice("/model/".length))).reduce((sum, { sent }) => sum + sent, 0);

  bed.cleanup(() => server.close());

  /** Registers a test on a new page with an empty cache. */
  const weightsTest = (name, body, { expected = FAILED_REQUEST, ...options } = {}) =>
    bed.pageTest(
      `weights: ${name}`,
      async (page) => {
        await bed.closeShared();
        server.reset();
        server.linger = 500;
        served = model;
        await clear(page);
        await body(page);
      },
      { expected, ...options },
    );
  const clear = (page) =>
    page.evaluate(async () => {
      const { QwenVL } = await import("qwen-vl-web");
      await QwenVL.cache.clear();
    });
  /**
   * Moves the model into the cache with every check of a load but without a GPU, whose software adapter takes half a minute to compile
   * the kernels. Options in addition to those of a load: `engine` loads the model and disposes of it; `ask` also runs the golden's prompt;
   * `abortAt` is the phase in which to abort.
   */
  const load = (page, options = {}, source = url) =>
    page.evaluate(loadInPage, source, { ...QUICK, ...options }, golden.input_ids, golden.decode.tokens.length);
  const arrives = async (page, options, source) => {
    const result = await load(page, options, source);
    assert.equal(result.error, undefined, JSON.stringify(result.error));
    if (options?.ask) assert.deepEqual(result.tokens, golden.decode.tokens);
    assert.equal(result.last.bytes, served.bytes);
    if (result.gpuBytes) assert.deepEqual([result.last.phase, result.gpuBytesLeft], ["ready", 0]);
    assert.deepEqual(result.wentBack, []);
    return result;
  };
  const fails = async (page, code, options) => {
    const { error } = await load(page, options);
    assert.equal(error?.code, code, JSON.stringify(error));
    return error;
  };

  const faults = {
    "a cut in every shard": { fault: (path, nth) => (path.includes("shard") && nth === 0 ? { cut: 100_003 } : undefined), cuts: 4 },
    "a cut at the first byte": { fault: (path, nth) => (nth === 0 ? { cut: 0 } : undefined) },
    "many cuts": { fault: (path, nth) => (path === shardPath(0) && nth < 5 ? { cut: 50_001 } : undefined), cuts: 5 },
    "a cut at the last byte": {
      fault: (path, nth) => (path === shardPath(1) && nth === 0 ? { cut: model.manifest.shards[1].bytes - 1 } : undefined),
      cuts: 1,
      again: (model.manifest.shards[1].bytes - 1) % PIECE,
    },
    "a cut in a piece that is handed on whole": {
      fault: (path, nth) => (path.includes("shard") && nth === 0 ? { cut: 2 * PIECE + 10_000 } : undefined),
      cuts: 4,
      again: 4 * 10_000,
    },
    "503 bursts": { fault: (path, nth) => (nth < 2 ? { status: 503 } : undefined) },
    "429 with Retry-After": {
      fault: (path, nth) => (path === shardPath(0) && nth === 0 ? { status: 429, headers: { "retry-after": "1" } } : undefined),
    },
    "no ranges": {
      again: 100_000,
      fault: (path, nth) => ({ noRange: true, ...(path === shardPath(0) && nth === 0 ? { cut: 100_000 } : {}) }),
      cuts: 1,
    },
    "416 to every range": {
      again: 100_000,
      fault: (path, nth, range) =>
        range === undefined ? { cut: nth === 0 && path === shardPath(0) ? 100_000 : undefined } : { status: 416 },
      cuts: 1,
    },
    "a declared length that is too large": {
      fault: (path, nth) => (path === shardPath(0) && nth === 0 ? { declare: 1000 } : undefined),
      cuts: 1,
    },
    "a declared length that is too small": {
      fault: (path, nth) => (path === shardPath(0) && nth === 0 ? { declare: -1000 } : undefined),
      cuts: 1,
    },
    "gzip, cut": { fault: (path, nth) => ({ gzip: true, ...(path === shardPath(0) && nth === 0 ? { cut: 50_000 } : {}) }), cuts: 1 },
    "cuts and one wrong answer": {
      ask: true,
      cuts: 1,
      fault: (path, nth) =>
        nth === 0
          ? { [shardPath(0)]: { cut: 77_777 }, [shardPath(1)]: { body: Buffer.alloc(model.manifest.shards[1].bytes) } }[path]
          : undefined,
      again: model.manifest.shards[1].bytes,
    },
  };
  for (const [name, { fault, cuts = 0, again = 0, ask = false }] of Object.entries(faults)) {
    weightsTest(`loads in spite of ${name}`, async (page) => {
      server.fault = fault;
      const { last } = await arrives(page, { ask });
      if (!name.startsWith("gzip")) {
        const twice = sent() - model.bytes;
        console.log(`${bed.name}, ${name}: ${last.retries} retries, ${twice} bytes sent more than once`);
        assert.ok(twice <= again + cuts * CHUNK, `${twice} bytes were sent twice`);
      }
    });
  }

  weightsTest("sudden cuts of a fast connection are resumed", async (page) => {
    served = other;
    server.linger = 0;
    const cuts = 3;
    server.fault = (path, nth) => (path.includes("shard-1") && nth < cuts ? { cut: 900_000 } : undefined);
    const { last } = await arrives(page);
    const twice =
      server.requests.reduce((sum, { sent, path }) => sum + (path.includes("shard") ? sent : 0), 0) -
      other.manifest.shards.reduce((sum, { bytes }) => sum + bytes, 0);
    console.log(`${bed.name}, sudden cuts: ${last.retries} retries, ${twice} bytes sent more than once`);
    // Without a bound: browsers drop bytes that they received and did not pass on, up to a whole response. The tests above linger instead.
    assert.ok(last.retries >= cuts);
  });

  const failures = {
    "a web page instead of a shard": ["DOWNLOAD", (path) => (path === shardPath(2) ? { html: true } : undefined)],
    "a web page instead of the manifest": ["DOWNLOAD", (path) => (path.endsWith(".json") ? { html: true } : undefined)],
    "a shard that is not there": ["DOWNLOAD", (path) => (path === shardPath(2) ? { status: 404 } : undefined)],
    "a server that stays busy": ["DOWNLOAD", (path) => (path === shardPath(2) ? { status: 503 } : undefined)],
    "a wrong hash": [
      "INTEGRITY",
      (path) => (path === shardPath(2) ? { body: Buffer.alloc(model.manifest.shards[2].bytes, 1) } : undefined),
    ],
    "a shard that is too short": ["INTEGRITY", (path) => (path === shardPath(2) ? { body: Buffer.alloc(1000) } : undefined)],
    "a manifest of something else": ["MANIFEST_INVALID", (path) => (path.endsWith(".json") ? { body: Buffer.from("{}") } : undefined)],
  };
  for (const [name, [code, fault]] of Object.entries(failures)) {
    weightsTest(`${name} fails with ${code}, and loads once it is mended`, async (page) => {
      server.fault = fault;
      await fails(page, code, { retries: 2 });
      server.fault = () => undefined;
      await arrives(page);
    });
  }

  weightsTest("a model that is replaced during its load is not mixed with the new one", async (page) => {
    server.fault = (path) => {
      if (path === shardPath(0)) served = other;
      return { headers: { etag: `"${served === model ? "old" : "new"}"` } };
    };
    await fails(page, "INTEGRITY", { engine: true, concurrency: 1 });
  });

  weightsTest("a stalled download is resumed when the page is opened again", async (page) => {
    server.fault = (path) => (path === shardPath(0) ? { stall: 200_000 } : undefined);
    const stalled = load(page).catch(() => undefined);
    await until(() => server.requests.some(({ path, sent }) => path === shardPath(0) && sent >= 200_000));
    await until(async () => (await models(page))[0]?.storedBytes > 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await page.goto("about:blank");
    await stalled;
    server.reset();
    await page.goto(`${bed.origin}/`);
    const { last } = await arrives(page);
    assert.ok(last.restoredBytes >= 200_000 - CHUNK, `${last.restoredBytes} bytes were kept`);
    assert.equal(sent(), model.bytes - last.restoredBytes);
  });

  for (const cache of ["opfs", "cache-api", "custom"]) {
    weightsTest(`with the ${cache} cache it loads without a server after the first time`, async (page) => {
      await arrives(page, { cache });
      server.requests = [];
      const again = await arrives(page, { cache, ask: cache === "opfs" });
      assert.equal(again.last.restoredBytes, model.bytes);
      assert.deepEqual(
        server.requests.map(({ path }) => path),
        ["/model/manifest.json"],
      );
      server.fault = () => ({ cut: 0 });
      assert.equal((await arrives(page, { cache })).last.restoredBytes, model.bytes);
      if (cache === "cache-api") await page.evaluate(() => caches.delete("qwen-vl-web"));
    });
  }

  weightsTest("without a cache nothing is kept", async (page) => {
    await arrives(page, { cache: "none", engine: true });
    assert.deepEqual(await models(page), []);
  });

  const damages = {
    "changed behind our back": async (name) => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
      const handle = await folder.getFileHandle(name);
      const writer = await handle.createWritable({ keepExistingData: true });
      await writer.write({ type: "write", position: 1000, data: new Uint8Array([1, 2, 3, 4, 5]) });
      await writer.close();
    },
    "evicted behind our back": async (name) => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
      await folder.removeEntry(name);
    },
  };
  for (const [name, damage] of Object.entries(damages)) {
    weightsTest(`a file that was ${name} is fetched again, alone`, async (page) => {
      await arrives(page);
      await page.evaluate(damage, model.manifest.shards[1].sha256);
      server.requests = [];
      await arrives(page);
      assert.deepEqual(
        server.requests.map(({ path }) => path),
        ["/model/manifest.json", shardPath(1)],
      );
      server.requests = [];
      await arrives(page);
      assert.equal(sent(), 0);
    });
  }

  for (const abortAt of ["manifest", "download", "verify", "upload", "compile", "warmup"]) {
    weightsTest(`an abort in phase ${abortAt} rejects with the signal's reason and loses nothing`, async (page) => {
      // The self-check is the phase "warmup".
      const { error } = await load(page, { abortAt, engine: true, selfCheck: true });
      assert.equal(error?.message, `aborted in ${abortAt}`);
      await server.quiet();
      server.requests = [];
      const { last } = await arrives(page);
      assert.equal(sent(), model.bytes - last.restoredBytes);
      if (["upload", "compile", "warmup"].includes(abortAt)) assert.equal(last.restoredBytes, model.bytes);
    });
  }
  weightsTest("an abort while restoring rejects with the signal's reason and loses nothing", async (page) => {
    await arrives(page);
    const { error } = await load(page, { abortAt: "restore", engine: true });
    assert.equal(error?.message, "aborted in restore");
    server.requests = [];
    assert.equal((await arrives(page)).last.restoredBytes, model.bytes);
  });

  weightsTest("of two tabs one loads; the other waits or gets BUSY", async (page) => {
    let stall = true;
    server.fault = (path) => (path === shardPath(0) && stall ? { stall: 100_000 } : undefined);
    const first = load(page).catch(() => undefined);
    await until(() => server.requests.some(({ path }) => path === shardPath(0)));
    await bed.open(
      async (second) => {
        await fails(second, "BUSY");
        await fails(second, "BUSY", { engine: true, whenBusy: "fail" });
        const deleted = await second.evaluate(deleteInPage, url);
        assert.equal(deleted, "BUSY");
        const { error } = await load(second, { abortAt: "wait", engine: true });
        assert.equal(error?.message, "aborted in wait");
        const waiting = arrives(second, { engine: true });
        await second.waitForFunction(() => window.phase === "wait", { polling: 100 });
        stall = false;
        await page.goto("about:blank");
        const { phases } = await waiting;
        assert.ok(phases.includes("wait"), phases.join());
      },
      { expected: FAILED_REQUEST },
    );
    await first;
  });

  weightsTest("models are listed, verified, repaired, exported, imported and deleted", async (page) => {
    await arrives(page);
    const imported = `${server.origin}/imported/`;
    const result = await page.evaluate(manageInPage, url, imported, model.manifest.shards[1].sha256);
    const { bytes } = model;
    const whole = { url: `${url}manifest.json`, source: model.manifest.provenance.source, bytes, storedBytes: bytes, complete: true };
    assert.deepEqual(result.listed, [whole]);
    assert.deepEqual(result.verified, whole);
    assert.deepEqual(result.damaged, { ...whole, storedBytes: bytes - model.manifest.shards[1].bytes, complete: false });
    assert.deepEqual(result.repaired, whole);
    assert.deepEqual(result.exported, [...model.files.keys()].sort());
    assert.deepEqual([result.deleted, result.left, result.deletedAgain], [true, [], false]);
    assert.deepEqual(result.imported, { ...whole, url: `${imported}manifest.json` });
    assert.ok(result.estimate.usage >= bytes && result.estimate.quota > bytes);
    server.fault = () => ({ cut: 0 });
    assert.equal((await arrives(page, {}, imported)).last.restoredBytes, bytes);
  });

  weightsTest("a model loads from files, from a folder and through a fetch of the page's own", async (page) => {
    for (const from of ["files", "folder"]) {
      await arrives(page, { from, fileNames: [...model.files.keys()], engine: true });
      assert.deepEqual(await models(page), []);
    }
    server.requests = [];
    server.fault = (path, nth) => (path === shardPath(0) && nth === 0 ? { cut: 70_000 } : undefined);
    const { fetched } = await arrives(page, { ownFetch: true });
    assert.ok(fetched.filter((address) => address.includes("shard-0")).length === 2, fetched.join());
  });

  weightsTest(
    "a model that is larger than the quota loads, says so, and leaves no half files behind",
    async (page) => {
      const session = await page.createCDPSession();
      await session.send("Storage.overrideQuotaForOrigin", { origin: bed.origin, quotaSize: 1_000_000 });
      try {
        await fails(page, "QUOTA_EXCEEDED");
        const { last } = await arrives(page, { engine: true });
        assert.equal(last.cacheProblem?.code, "QUOTA_EXCEEDED");
      } finally {
        await session.send("Storage.overrideQuotaForOrigin", { origin: bed.origin });
      }
      const { last } = await arrives(page);
      assert.equal(last.cacheProblem, undefined);
      assert.equal((await arrives(page)).last.restoredBytes, model.bytes);
    },
    { skip: bed.name !== "chromium" && "only Chromium lets a test set the quota" },
  );

  weightsTest("a check says what a load will fetch and what the machine lacks, before anything is fetched", async (page) => {
    const check = (spoil = "", options = {}) => page.evaluate(checkInPage, url, spoil, options);
    const before = await check("", { probeMemory: true });
    assert.equal(sent(), 0);
    // Both test beds have software adapters, and both say so.
    assert.deepEqual([before.status, before.reasons.map(({ code }) => code)], ["slow", ["NO_ADAPTER"]]);
    assert.equal(before.adapter.isFallback, true);
    assert.deepEqual([before.bytes.total, before.bytes.cached, before.bytes.download], [model.bytes, 0, model.bytes]);
    const weights = model.manifest.shards.reduce((sum, { bytes }) => sum + bytes, 0);
    assert.ok(before.bytes.gpu > 0.9 * weights, JSON.stringify(before.bytes));
    assert.ok(before.storage.free > 0 && before.adapter.maxBindingBytes >= 128 * 1024 * 1024);
    await arrives(page);
    const after = await check();
    assert.deepEqual([after.bytes.cached, after.bytes.download], [model.bytes, 0]);
    const spoilt = { memory: "GPU_OUT_OF_MEMORY", limits: "INSUFFICIENT_LIMITS", adapter: "NO_ADAPTER", gpu: "WEBGPU_UNAVAILABLE" };
    for (const [spoil, code] of Object.entries(spoilt)) {
      const { status, reasons } = await check(spoil, { probeMemory: true });
      // The model of these tests is small enough for the processor.
      assert.equal(status, ["adapter", "gpu"].includes(spoil) ? "slow" : "unsupported");
      assert.ok(
        reasons.some((reason) => reason.code === code && reason.message && reason.hint),
        `${spoil}: ${JSON.stringify(reasons)}`,
      );
    }
    server.fault = () => ({ status: 404 });
    // A stored model is known without its server.
    assert.deepEqual((await check()).bytes, after.bytes);
    const { status, reasons } = await page.evaluate(checkInPage, `${server.origin}/nothing/`, "", {});
    assert.equal(status, "unsupported");
    assert.equal(reasons[0].code, "DOWNLOAD");
  });

  weightsTest(
    "rounds of load and dispose leave no resident memory behind",
    async (page) => {
      served = await largeModel(model, 64 << 20);
      const resident = [];
      const round = async () => {
        await arrives(page, { engine: true, cache: "none" });
        resident.push(await residentBytes(page.browser()));
      };
      // The first round warms up caches of the browser.
      for (let rounds = 0; rounds < 5; rounds++) await round();
      const growth = () => (Math.min(...resident.slice(-2)) - Math.min(...resident.slice(1, 3))) / (resident.length - 3);
      // The browser keeps garbage of some rounds for a while. Over more rounds that counts less; what stays behind in every round counts the same.
      while (growth() >= served.bytes / 4 && resident.length < 15) await round();
      const figures = resident.map(mib).join(" ");
      console.log(`${bed.name}, MiB resident in GPU process and renderers after each round with ${mib(served.bytes)} MiB: ${figures}`);
      assert.ok(growth() < served.bytes / 4, `${growth()} bytes more a round, a model takes ${served.bytes}`);
    },
    {
      skip:
        bed.name !== "chromium"
          ? "only Chromium reports the resident memory of its GPU process"
          : !bed.thorough && "many loads of a large model: --thorough",
    },
  );

  const shardsOfPictures = new Set(
    model.manifest.tensors.filter(({ name }) => /^(vision|resampler)\./.test(name)).flatMap(({ parts }) => parts.map(({ shard }) => shard)),
  );
  const decoderShard = model.manifest.shards.findLastIndex((_, index) => !shardsOfPictures.has(index));
  assert.ok(decoderShard >= 0);

  weightsTest("a picture is encoded before the decoder is here", async (page) => {
    const lastShard = shardPath(decoderShard);
    let encoded = false;
    server.fault = (path) => (path === lastShard && !encoded ? { status: 503 } : undefined);
    const result = page.evaluate(encodeEarlyInPage, url);
    await until(() => page.evaluate(() => window.pictures > 0));
    assert.equal(server.requests.filter(({ path, sent }) => path === lastShard && sent > 0).length, 0);
    encoded = true;
    assert.deepEqual(await result, { width: 64, height: 48, tokens: model.manifest.config.vision.resampler.queries, answered: 1 });
  });

  /** Serves a worker script that runs `change` before the package. Returns its address. */
  const changedWorker = (change) => {
    const scripts = { "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";`, "/change.js": change };
    bed.handle = (path, response) => {
      if (!(path in scripts)) return false;
      response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
      return true;
    };
    return "/changed-worker.js";
  };

  for (const worker of [true, false]) {
    const thread = worker ? "in a worker" : "on the page's thread";
    weightsTest(`a load that fails while a picture is being encoded ends both with its error, ${thread}`, async (page) => {
      const workerUrl = changedWorker(HOLD_READS);
      const scripts = bed.handle;
      let encodes;
      const encoding = new Promise((resolve) => (encodes = resolve));
      bed.handle = (path, response) => {
        if (path !== "/seen/read") return scripts(path, response);
        encodes();
        response.writeHead(204).end();
        return true;
      };
      server.fault = async (path) => {
        if (path !== shardPath(decoderShard)) return undefined;
        await encoding;
        return { status: 404 };
      };
      if (!worker) await page.evaluate(HOLD_READS);
      const options = worker ? { workerUrl } : { worker };
      assert.deepEqual(await page.evaluate(failEarlyInPage, url, options), ["DOWNLOAD", "DOWNLOAD"]);
      // The page can still load and encode; on its thread that is the same wasm module.
      if (!worker) await page.evaluate(() => window.releaseReads());
      server.fault = () => undefined;
      assert.equal((await page.evaluate(encodeEarlyInPage, url, { worker })).answered, 1);
    });
  }

  const fetchedShards = () => server.requests.filter(({ path }) => path.includes("shard")).length;

  weightsTest("a model that is too large for the GPU fails before any weight is fetched", async (page) => {
    const error = await fails(page, "INSUFFICIENT_LIMITS", { engine: true, contextLength: 100_000_000 });
    // The rotary table has a cosine and a sine in f32 for each of the 16 pairs of a head's dimensions. Its size exceeds 32 bits.
    assert.match(error.message, /needs 12800000000 bytes.*allows \d+/);
    assert.equal(fetchedShards(), 0);
    // No adapter says how much memory there is: the error comes with the allocation. A test must not exhaust the memory of its machine.
    const workerUrl = changedWorker(noMemoryFor("decoder.angles"));
    const { message, details } = await fails(page, "GPU_OUT_OF_MEMORY", { engine: true, workerUrl, contextLength: 1000 });
    // The rotary table of 1000 positions.
    assert.equal(message, "the GPU has no memory for the 128000 bytes of `decoder.angles`");
    assert.equal(details.needed, 128_000);
    assert.equal(fetchedShards(), 0);
  });

  weightsTest("kernels are compiled while weights are still coming, and not again", async (page) => {
    const workerUrl = changedWorker(`
    const { prototype } = GPUDevice;
    const { createComputePipelineAsync: ahead, createComputePipeline: late } = prototype;
    const channel = new BroadcastChannel("pipelines");
    const done = (what) => channel.postMessage(what);
    prototype.createComputePipelineAsync = async function (descriptor) {
      done("begun");
      const pipeline = await ahead.call(this, descriptor);
      done("ahead");
      return pipeline;
    };
    prototype.createComputePipeline = function (descriptor) {
      done("late");
      return late.call(this, descriptor);
    };`);
    await page.evaluate(() => {
      window.pipelines = { measured: 0, begun: 0, ahead: 0, late: 0 };
      window.channel = new BroadcastChannel("pipelines");
      window.channel.onmessage = ({ data }) => {
        // The pipelines that the choice of kernels measures come first.
        const measured = data === "late" && window.pipelines.begun === 0;
        window.pipelines[measured ? "measured" : data] += 1;
      };
    });
    // The server withholds the last shard until everything is compiled, so a load that compiles later would never end.
    const last = shardPath(model.manifest.shards.length - 1);
    let held = true;
    server.fault = (path) => (path === last && held ? { status: 503 } : undefined);
    const loading = arrives(page, { engine: true, retries: 1000, workerUrl });
    await until(() => page.evaluate(() => window.pipelines.begun > 0 && window.pipelines.ahead === window.pipelines.begun));
    assert.equal(server.requests.filter(({ path, sent }) => path === last && sent > 0).length, 0);
    held = false;
    await loading;
    const { ahead, late } = await page.evaluate(() => window.pipelines);
    console.log(`${bed.name}: ${ahead} kernels compiled ahead, ${late} later`);
    assert.ok(ahead > 5);
    assert.equal(late, 0);
  });

  for (const cache of ["none", "opfs"]) {
    weightsTest(
      `loading takes little memory, whatever the model's size, with the cache ${cache}`,
      async (page) => {
        const large = await largeModel(model, 320 << 20);
        served = large;
        const watch = await MemoryWatch.start(page.browser(), page);
        const { error, gpuBytes } = await page.evaluate(loadAndKeepInPage, url, cache);
        assert.equal(error, undefined);
        const memory = await watch.end(gpuBytes);
        const figures = Object.entries(memory).map(([what, bytes]) => `${what} ${mib(bytes)}`);
        console.log(`${bed.name}, ${mib(large.bytes)} MiB loaded with the cache ${cache}; most memory, MiB: ${figures.join("; ")}`);
        const scripts = memory["heap and array buffers together"];
        assert.ok(scripts > 1 << 20 && memory["wasm memory"] > 1 << 20);
        assert.ok(scripts + memory["wasm memory"] <= 64 << 20, JSON.stringify(memory));
        assert.ok(gpuBytes > large.bytes);
        await page.evaluate(() => window.model.dispose());
      },
      { skip: bed.name !== "chromium" && "only Chromium reports the memory of a worker" },
    );
  }

  weightsTest("a load takes the manifest from the page", async (page) => {
    const { last, error } = await page.evaluate(loadInPage, "", { manifest: model.manifest, baseUrl: url, engine: true }, [], 0);
    assert.equal(error, undefined);
    assert.equal(last.bytes, model.bytes);
    assert.ok(!server.requests.some(({ path }) => path.endsWith(".json")));
    assert.deepEqual(
      (await models(page)).map(({ url, complete }) => [url, complete]),
      [[`${url}manifest.json`, true]],
    );
  });

  weightsTest("a dropped folder loads", async (page) => {
    const folder = await mkdtemp(join(tmpdir(), "dropped-"));
    try {
      for (const [name, bytes] of model.files) await writeFile(join(folder, name), bytes);
      await page.evaluate(listenForDrop);
      if (bed.name === "chromium") {
        const session = await page.createCDPSession();
        const data = { items: [], files: [folder], dragOperationsMask: 1 };
        for (const type of ["dragEnter", "dragOver", "drop"]) await session.send("Input.dispatchDragEvent", { type, x: 50, y: 50, data });
      } else await page.evaluate(dropInPage, url, [...model.files.keys()]);
      assert.deepEqual(await page.evaluate(() => window.dropped), { names: [...model.files.keys()].sort(), complete: true });
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  weightsTest("storage becomes persistent only on request", async (page) => {
    await page.evaluate(() => {
      window.asked = 0;
      const real = StorageManager.prototype.persist;
      // Firefox asks the user, and a test has none.
      StorageManager.prototype.persist = function () {
        window.asked += 1;
        return navigator.userAgent.includes("Chrome") ? real.call(this) : Promise.resolve(true);
      };
    });
    const asked = () => page.evaluate(() => window.asked);
    await arrives(page);
    assert.equal(await asked(), 0);
    if (bed.name === "chromium") await page.browser().defaultBrowserContext().overridePermissions(bed.origin, ["persistent-storage"]);
    const granted = await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.persist());
    assert.deepEqual([granted, await asked()], [true, 1]);
    if (bed.name === "chromium")
      assert.equal(await page.evaluate(async () => (await (await import("qwen-vl-web")).QwenVL.cache.estimate()).persisted), true);
    await arrives(page, { persist: true, engine: true });
    assert.equal(await asked(), 2);
  });
}

const models = (page) =>
  page.evaluate(async () => {
    const { QwenVL } = await import("qwen-vl-web");
    return QwenVL.cache.list();
  });

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

async function loadInPage(url, { ask, engine = ask, abortAt, from, fileNames, ownFetch, ...options }, ids, steps) {
  const { QwenVL } = await import("qwen-vl-web");
  const { disposeCounting, runIds } = await import("qwen-vl-web/testing");
  const fetched = [];
  if (options.cache === "custom") {
    const files = (window.memoryCache ??= new Map());
    options.cache = {
      kind: "memory",
      async open(name, create) {
        if (!files.has(name) && !create) return undefined;
        if (!files.has(name)) files.set(name, new Blob());
        return {
          get bytes() {
            return files.get(name).size;
          },
          read: async (at, length) =>
            new Uint8Array(
              await files
                .get(name)
                .slice(at, at + length)
                .arrayBuffer(),
            ),
          append: async (bytes) => void files.set(name, new Blob([files.get(name), bytes])),
          truncate: async () => void files.set(name, new Blob()),
          close: async () => undefined,
        };
      },
      list: async () => [...files].map(([name, { size }]) => ({ name, bytes: size })),
      delete: async (name) => void files.delete(name),
    };
  }
  if (ownFetch) {
    options.fetch = (address, init) => {
      fetched.push(address);
      return fetch(address, init);
    };
  }
  let source = options.manifest ? { manifest: options.manifest, baseUrl: options.baseUrl } : url;
  if (from) {
    source = await Promise.all(fileNames.map(async (name) => new File([await (await fetch(url + name)).arrayBuffer()], name)));
    if (from === "folder") {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("a folder", { create: true });
      for (const file of source) {
        const writer = await (await folder.getFileHandle(file.name, { create: true })).createWritable();
        await writer.write(file);
        await writer.close();
      }
      source = folder;
    }
  }
  const controller = new AbortController();
  const events = [];
  window.phase = undefined;
  const onProgress = (event) => {
    events.push(event);
    window.phase = event.phase;
    if (event.phase === abortAt) controller.abort(new Error(`aborted in ${abortAt}`));
  };
  try {
    const all = { ...options, onProgress, signal: controller.signal };
    let [tokens, gpuBytes, gpuBytesLeft] = [];
    if (engine) {
      const model = await QwenVL.load(source, all);
      if (ask) tokens = (await runIds(model, ids, [], steps)).tokens;
      gpuBytes = model.info.gpuBytes;
      gpuBytesLeft = await disposeCounting(model);
    } else if (!(await QwenVL.cache.repair(source, all)).complete) throw new Error("not all of the model is stored");
    const counters = ["bytes", "restoredBytes", "refetchedBytes", "shard", "retries"];
    const wentBack = events.flatMap((event, index) => counters.filter((key) => index > 0 && event[key] < events[index - 1][key]));
    const phases = [...new Set(events.map(({ phase }) => phase))];
    return { tokens, last: events.at(-1), wentBack, phases, fetched, gpuBytes, gpuBytesLeft };
  } catch ({ name, code, message, details }) {
    return { error: { name, code, message, details } };
  }
}

/** Returns the error codes of a load and of a picture that is encoded meanwhile. */
async function failEarlyInPage(url, options) {
  const { QwenVL } = await import("qwen-vl-web");
  const loading = QwenVL.load(url, { cache: "none", retries: 1000, kernels: "cpu", selfCheck: false, ...options });
  const code = (promise) =>
    promise.then(
      () => undefined,
      (error) => error.code ?? String(error),
    );
  return Promise.all([code(loading), code(loading.encodeImage(new ImageData(64, 48)))]);
}

async function encodeEarlyInPage(url, options) {
  const { QwenVL } = await import("qwen-vl-web");
  const onProgress = ({ pictures, phase }) => (window.pictures = phase === "download" ? pictures : window.pictures);
  const quick = { cache: "none", concurrency: 1, retries: 1000, kernels: "cpu", selfCheck: false, onProgress };
  const loading = QwenVL.load(url, { ...quick, ...options });
  const pixels = new ImageData(64, 48);
  pixels.data.fill(200);
  const ref = await loading.encodeImage(pixels);
  const model = await loading;
  const answer = await model.complete("<img>1.png</img>", [ref], { greedy: true, maxTokens: 1 });
  await model.dispose();
  return { width: ref.width, height: ref.height, tokens: ref.tokens, answered: answer.tokens.length };
}

/** Keeps the model in `window.model`, so that the test can inspect its worker. */
async function loadAndKeepInPage(url, cache) {
  const { QwenVL } = await import("qwen-vl-web");
  try {
    window.model = await QwenVL.load(url, { cache, kernels: "cpu", selfCheck: false });
    return { gpuBytes: window.model.info.gpuBytes };
  } catch ({ code, message }) {
    return { error: `${code}: ${message}` };
  }
}

/** Sets `window.dropped` to a promise of the next drop's result. */
async function listenForDrop() {
  const { droppedFiles, QwenVL } = await import("qwen-vl-web");
  document.body.style.minHeight = "100vh";
  addEventListener("dragover", (event) => event.preventDefault());
  window.dropped = new Promise((resolve, reject) => {
    addEventListener("drop", async (event) => {
      event.preventDefault();
      try {
        const files = await droppedFiles(event.dataTransfer);
        const { complete } = await QwenVL.cache.importFrom(files, "dropped/");
        resolve({ names: files.map(({ name }) => name).sort(), complete });
      } catch (error) {
        reject(error);
      }
    });
  });
  window.dropped.catch(() => undefined);
}

/** Drops a folder by script, for drivers that cannot. Each read returns two files, as browsers read folders in parts. */
async function dropInPage(url, names) {
  const files = await Promise.all(names.map(async (name) => new File([await (await fetch(url + name)).arrayBuffer()], name)));
  const entries = files.map((file) => ({ isFile: true, fullPath: `/model/${file.name}`, file: (resolve) => resolve(file) }));
  const createReader = () => ({ readEntries: (resolve) => resolve(entries.splice(0, 2)) });
  const event = new Event("drop", { cancelable: true });
  const dataTransfer = { items: [{ webkitGetAsEntry: () => ({ isFile: false, fullPath: "/model", createReader }) }] };
  dispatchEvent(Object.assign(event, { dataTransfer }));
}

/** Checks the model on a machine that lacks `spoil` from this call on. */
async function checkInPage(url, spoil, options) {
  const { QwenVL } = await import("qwen-vl-web");
  const real = (window.realRequestAdapter ??= navigator.gpu.requestAdapter.bind(navigator.gpu));
  const device = { pushErrorScope() {}, popErrorScope: async () => ({}), createBuffer: () => ({ destroy() {} }), destroy() {} };
  const changes = {
    memory: { requestDevice: async () => device },
    limits: { limits: { maxBufferSize: 1000, maxStorageBufferBindingSize: 1000 } },
  }[spoil];
  if (changes) {
    navigator.gpu.requestAdapter = async () => {
      const adapter = await real();
      const { info, features, limits } = adapter;
      return { info, features, limits, requestDevice: () => adapter.requestDevice(), ...changes };
    };
  }
  if (spoil === "adapter") navigator.gpu.requestAdapter = async () => null;
  if (spoil === "gpu") delete Navigator.prototype.gpu;
  return QwenVL.check(url, options);
}

async function deleteInPage(url) {
  const { QwenVL } = await import("qwen-vl-web");
  return QwenVL.cache.delete(url).catch(({ code }) => code);
}

async function manageInPage(url, importUrl, name) {
  const { QwenVL } = await import("qwen-vl-web");
  const { cache } = QwenVL;
  const root = await navigator.storage.getDirectory();
  const listed = await cache.list();
  const verified = await cache.verify(url);
  const handle = await (await root.getDirectoryHandle("qwen-vl-web")).getFileHandle(name);
  const writer = await handle.createWritable({ keepExistingData: true });
  await writer.write({ type: "write", position: 1000, data: new Uint8Array([1, 2, 3, 4, 5]) });
  await writer.close();
  const damaged = await cache.verify(url);
  const repaired = await cache.repair(url);
  const estimate = await cache.estimate();
  const folder = await root.getDirectoryHandle("exported", { create: true });
  await cache.exportTo(folder, url);
  const exported = [];
  for await (const key of folder.keys()) exported.push(key);
  const deleted = await cache.delete(url);
  const left = await cache.list();
  const deletedAgain = await cache.delete(url);
  const imported = await cache.importFrom(folder, importUrl);
  await root.removeEntry("exported", { recursive: true });
  return { listed, verified, damaged, repaired, estimate, exported: exported.sort(), deleted, left, deletedAgain, imported };
}
