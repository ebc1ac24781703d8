// Loads that convert their checkpoint: the weights reach the model while they are made.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { filesOf, startHub } from "../hub.mjs";
import { IDLE_PRODUCTS } from "./sabotage.mjs";

/** Browsers report failed requests on their consoles; here they belong to the tests. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError/;
/** The processor runs models of 2023 only. Its tests are fast, because no kernels are compiled. */
const ON_CPU = { name: "mini-a", load: { backend: "cpu" }, settings: { shardBytes: 100_000 } };
const ON_GPU = { name: "q3-a", load: { backend: "webgpu", kernels: "cpu", selfCheck: false }, settings: { shardBytes: 400_000 } };
const sourceOf = ({ name }) => `hf:test/${name}`;

export async function convertLoadTests(bed) {
  const files = new Map();
  const golden = new Map();
  for (const { name, root } of [...bed.families, ...bed.sets]) {
    const text = { "q3-a": "golden/q3-a/text_zh.json", "mini-a": "golden/mini-a/text_en.json" }[name];
    if (!text) continue;
    files.set(name, await filesOf(join(root, "checkpoints", name)));
    golden.set(name, JSON.parse(await readFile(join(root, text), "utf8")));
  }
  const hub = await startHub({});
  bed.cleanup(() => hub.close());

  const loadTest = (name, body) =>
    bed.pageTest(
      `convert and load: ${name}`,
      async (page) => {
        await bed.closeShared();
        hub.reset();
        hub.repositories = Object.fromEntries([...files].map(([name, files]) => [`test/${name}`, { files }]));
        await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.clear());
        await body(page);
      },
      { expected: FAILED_REQUEST },
    );
  const run = (page, { source, ...options } = {}, { name, load, settings } = ON_CPU) =>
    page.evaluate(loadInPage, source ?? sourceOf({ name }), {
      hubUrl: hub.origin,
      retries: 1,
      ids: golden.get(name).input_ids,
      steps: golden.get(name).decode.tokens.length,
      // The scheme of the golden answers.
      settings: { scheme: "f32", workers: 2, ...settings },
      ...load,
      ...options,
    });
  const answers = async (page, options, model = ON_CPU) => {
    const found = await run(page, options, model);
    assert.deepEqual([found.error, found.tokens], [undefined, golden.get(model.name).decode.tokens], JSON.stringify(found.error));
    return found;
  };
  /** Asserts that the cache holds the whole model, with right hashes, and nothing of a conversion. */
  const stored = async (page, model = ON_CPU) => {
    const [models, unfinished] = await page.evaluate(async (source) => {
      const { QwenVL } = await import("qwen-vl-web");
      await QwenVL.cache.verify(source);
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
      const names = [];
      for await (const name of folder.keys()) if (name.startsWith("convert-")) names.push(name);
      return [await QwenVL.cache.list(), names];
    }, sourceOf(model));
    assert.deepEqual(
      models.map(({ url, complete }) => [url, complete]),
      [[sourceOf(model), true]],
    );
    assert.deepEqual(unfinished, []);
  };
  const isWeights = (path) => /\.(bin|safetensors)$/.test(path);
  const bytesRead = () =>
    hub
      .reads()
      .filter(({ path }) => isWeights(path))
      .map(({ headers }) => /(\d+)-(\d+)/.exec(headers.range))
      .reduce((sum, [, start, end]) => sum + Number(end) - Number(start) + 1, 0);

  for (const [place, model] of Object.entries({ "the GPU": ON_GPU, "the processor": ON_CPU })) {
    loadTest(`one pass over the bytes, onto ${place}`, async (page) => {
      const { events, progress } = await answers(page, {}, model);
      const phases = [...new Set(progress.map(({ phase }) => phase))];
      assert.ok(phases.includes("convert") && phases.at(-1) === "ready", String(phases));
      // Nothing was read from the cache or from a server.
      assert.ok(!phases.includes("restore") && !phases.includes("download"), String(phases));
      assert.equal(progress.at(-1).restoredBytes, 0);
      assert.equal(progress.at(-1).bytes, progress.at(-1).totalBytes);
      const before = events.findIndex(([kind, shard, shards]) => kind === "converted" && shard === shards);
      const loaded = events.slice(0, before).filter(([kind, bytes]) => kind === "loaded" && bytes > 0);
      assert.ok(loaded.length > 0, "no shard was loaded before the last one was made");
      await stored(page, model);
      hub.requests = [];
      hub.repositories = {};
      const again = await answers(page, { settings: false }, model);
      assert.equal(again.progress.at(-1).restoredBytes, again.progress.at(-1).totalBytes);
      assert.equal(hub.reads().length, 0);
    });
  }

  loadTest("what an interrupted conversion has left is read from the cache", async (page) => {
    const alone = { settings: { scheme: "f32", workers: 1, ...ON_CPU.settings } };
    const { error } = await run(page, { ...alone, abortAtShard: 12 });
    assert.equal(error.message, "aborted");
    hub.requests = [];
    await answers(page, alone);
    const rest = bytesRead();
    await stored(page);
    await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.clear());
    hub.requests = [];
    await answers(page, alone);
    assert.ok(rest > 0 && rest < 0.7 * bytesRead(), `${rest} of ${bytesRead()} bytes were left`);
  });

  loadTest("a stored shard that was damaged meanwhile is made again", async (page) => {
    await run(page, { abortAtShard: 3 });
    const damaged = await page.evaluate(async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
      const names = [];
      for await (const name of folder.keys()) names.push(name);
      const name = names.find((name) => names.includes(`${name}.done`));
      const handle = await folder.getFileHandle(name);
      const writer = await handle.createWritable({ keepExistingData: true });
      await writer.write({ type: "write", position: (await handle.getFile()).size - 1000, data: new Uint8Array(16).fill(0x55) });
      await writer.close();
      return name;
    });
    assert.ok(damaged);
    await answers(page);
    await stored(page);
  });

  loadTest("a model that cannot be loaded is refused before its weights are fetched", async (page) => {
    const { error } = await run(page, { contextLength: 1_000_000_000 }, ON_GPU);
    assert.equal(error?.code, "INSUFFICIENT_LIMITS", JSON.stringify(error));
    assert.match(error.message, /context/);
    assert.ok(bytesRead() < 100_000, `${bytesRead()} bytes`);
  });

  loadTest("a source that changes in the middle ends the load too", async (page) => {
    hub.beforeStorage = (path, nth) => {
      if (nth > 4) hub.replaced.set(path, Buffer.from(files.get(ON_CPU.name).get(path)).reverse());
    };
    const { error } = await run(page);
    assert.equal(error.code, "INTEGRITY", JSON.stringify(error));
    assert.match(error.message, /pytorch_model-0000\d-of-00003\.bin/);
    Object.assign(hub, { beforeStorage: () => undefined, replaced: new Map() });
    await answers(page);
    await stored(page);
  });

  loadTest("a folder of a server", async (page) => {
    const source = `/golden/${ON_CPU.name}/checkpoints/${ON_CPU.name}/`;
    const { error } = await run(page, { source, settings: false });
    assert.equal(error?.code, "NOT_CONVERTED", JSON.stringify(error));
    await answers(page, { source });
    const { progress } = await answers(page, { source, settings: false });
    assert.equal(progress.at(-1).restoredBytes, progress.at(-1).totalBytes);
  });

  loadTest("on the page's own thread, whose loads have another store", async (page) => {
    await answers(page, { worker: false });
    hub.repositories = {};
    const { progress } = await answers(page, { worker: false, settings: false });
    assert.equal(progress.at(-1).restoredBytes, progress.at(-1).totalBytes);
  });

  loadTest("kernels that compute wrongly: the second attempt reads the cache", async (page) => {
    let workers = 0;
    bed.handle = (path, response) => {
      const scripts = {
        "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";`,
        // The first worker finds that the repository is not converted.
        "/change.js": workers === 1 ? IDLE_PRODUCTS : "",
      };
      if (!(path in scripts)) return false;
      if (path === "/change.js") workers += 1;
      response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
      return true;
    };
    const options = { backend: "webgpu", workerUrl: "/changed-worker.js" };
    const { progress } = await answers(page, options);
    assert.equal(workers, 3, "the self-check found nothing");
    assert.equal(progress.at(-1).restoredBytes, progress.at(-1).totalBytes);
    await stored(page);
  });
}

/** Runs in the page. Loads a model, converting it with `settings`, and runs a prompt. `abortAtShard`: aborts when that many shards are made. */
async function loadInPage(source, { ids, steps, settings, abortAtShard, ...options }) {
  const { QwenVL } = await import("qwen-vl-web");
  const { runIds } = await import("qwen-vl-web/testing");
  const controller = new AbortController();
  const progress = [];
  const events = [];
  const onProgress = (report) => {
    progress.push(report);
    events.push(["loaded", report.bytes]);
  };
  const onConverted = ({ phase, shard, shards }) => {
    events.push(["converted", shard, shards]);
    if (phase === "convert" && shard >= abortAtShard) controller.abort(new Error("aborted"));
  };
  const convert = settings && { ...settings, onProgress: onConverted };
  try {
    const model = await QwenVL.load(source, { ...options, convert, onProgress, signal: controller.signal });
    const { tokens } = await runIds(model, ids, [], steps);
    await model.dispose();
    return { tokens, progress, events };
  } catch ({ code, message }) {
    return { error: { code, message }, progress, events };
  }
}
