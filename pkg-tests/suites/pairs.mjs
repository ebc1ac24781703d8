// Two of everything: tabs, models and loads at the same time, a page next to its next version, and storage, quota and clocks that change
// meanwhile.

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { misbehavingServer } from "../../web/test/misbehaving.mjs";
import { openPage } from "../browser.mjs";
import { filesOf, startHub } from "../hub.mjs";
import { ask, part, present, ready, serveSite, textOf, until } from "../page/site.mjs";
import { reshard } from "../weights/reshard.mjs";

const SHARDS = 6;
const PIECE = 128 * 1024;
/** Reports of browsers about requests that the tests let fail. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked|ServiceWorker/;
/** Answer of the models of the page's tests. */
const ANSWER = "This is a person.";
/**
 * Operations of two tabs on one model that is not stored, or is. An ordinary run takes the first list of each state, a thorough one both.
 */
const PAIRS = {
  "not stored": [
    [
      ["convert", "convert"],
      ["fill", "clear"],
    ],
    [
      ["load", "load"],
      ["convert", "delete"],
      ["load", "fill"],
      ["load", "delete"],
      ["load", "clear"],
      ["convert", "load"],
      ["convert", "clear"],
      ["convert", "convert and load"],
      ["convert and load", "convert and load"],
      ["import", "load"],
      ["import", "import"],
    ],
  ],
  stored: [
    [
      ["fill", "delete"],
      ["export", "delete"],
    ],
    [
      ["export", "export"],
      ["delete", "clear"],
      ["load", "delete"],
      ["load", "clear"],
      ["load", "export"],
      ["export", "clear"],
      ["verify", "delete"],
      ["verify", "verify"],
      ["import", "delete"],
      ["convert", "export"],
      ["delete", "delete"],
      ["clear", "clear"],
    ],
  ],
};
/** Codes with which an operation may end, because the other one was faster. */
const CODES = ["BUSY"];
/** An export and a verification may find that the model is deleted. */
const GONE = ["INVALID_ARGUMENT", "OFFLINE_MISSING"];
/** Longest wait for a state, milliseconds. */
const PATIENCE_MS = 30_000;
/** Milliseconds before each answer of the servers. */
const SLOW_MS = 50;
/** Milliseconds of a year. */
const YEAR_MS = 365 * 24 * 3_600_000;

export async function pairTests(bed) {
  const set = bed.sets.find(({ name }) => name === "mini-a");
  const { input_ids: ids } = JSON.parse(await readFile(join(set.golden, "text_en.json"), "utf8"));
  const model = await reshard(join(bed.checkpoints, "mini-a-q4"), SHARDS, PIECE);
  const server = await misbehavingServer(async (path) => model.files.get(path.split("/").at(-1)));
  const hub = await startHub({ "test/mini-a": { files: await filesOf(join(set.root, "checkpoints", "mini-a")) } });
  bed.cleanup(() => {
    server.close();
    hub.close();
  });
  const url = `${server.origin}/model/manifest.json`;
  const shardPath = (index) => `/model/${model.manifest.shards[index].file}`;
  const source = "hf:test/mini-a";
  const settings = { shardBytes: 300_000, hubUrl: hub.origin };
  const scene = { url, ids, source, settings, hubUrl: hub.origin, cache: "opfs" };

  const library = (page, name, ...values) =>
    page.evaluate(async (name, values) => (await import("/faults/page.mjs"))[name](...values), name, values);
  const run = (page, operation, own = scene) => (operation === "clear" ? page.evaluate(clearInPage) : library(page, "run", operation, own));
  const succeeds = async (page, operation, own = scene) => {
    const { error, result } = await run(page, operation, own);
    assert.equal(error, undefined, `${operation}: ${JSON.stringify(error)}`);
    return result;
  };
  /** Asserts that nothing that is stored is wrong: every file has the hash that it is named by, or that its manifest gives. */
  const nothingWrong = async (page, label) => {
    const { found } = await library(page, "problems", { cache: "opfs", lists: [], keeps: {}, damaged: [] });
    assert.deepEqual(found, [], label);
  };

  /** Registers a test on a page where nothing is stored. */
  const pairTest = (name, body, options = {}) =>
    bed.pageTest(
      `pairs: ${name}`,
      async (page) => {
        await bed.closeShared();
        server.reset();
        hub.reset();
        await library(page, "reset");
        try {
          await body(page);
        } finally {
          // Each test begins with empty storage.
          await library(page, "reset").catch(() => undefined);
        }
      },
      { expected: FAILED_REQUEST, ...options },
    );
  const answerOf = async (page) => {
    const tokens = await succeeds(page, "load", { ...scene, cache: "none" });
    assert.ok(tokens.length > 0);
    return tokens;
  };

  for (const [state, [few, others]] of Object.entries(PAIRS)) {
    const pairs = bed.thorough ? [...few, ...others] : few;
    pairTest(`two tabs at the same time, on a model that is ${state}`, async (page) => {
      const answer = await answerOf(page);
      for (const [name, bytes] of model.files) {
        await page.evaluate(
          async (name, text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            await (await import("/faults/page.mjs")).write("to import", name, bytes);
          },
          name,
          bytes.toString("base64"),
        );
      }
      if (state === "stored") await succeeds(page, "fill");
      await library(page, "keepBase");
      const ends = {};
      await bed.open(
        async (second) => {
          for (const pair of pairs) {
            const label = `${pair.join(" and ")}, ${state}`;
            await library(page, "reset");
            server.reset();
            hub.reset();
            // Slow enough that the other tab begins in the middle.
            server.fault = () => sleep(SLOW_MS);
            hub.beforeStorage = () => sleep(SLOW_MS);
            const outcomes = await Promise.all(pair.map((operation, tab) => run([page, second][tab], operation)));
            ends[label] = outcomes.map(({ error }) => error?.code ?? "right");
            for (const [at, { error, result }] of outcomes.entries()) {
              const codes = /export|verify/.test(pair[at]) ? [...CODES, ...GONE] : CODES;
              if (error) assert.ok(codes.includes(error.code), `${label}: ${JSON.stringify(error)}`);
              else if (/load/.test(pair[at])) assert.deepEqual(result, answer, label);
            }
            // A load waits for the other tab.
            for (const [at, operation] of pair.entries()) {
              if (operation === "load") assert.equal(outcomes[at].error, undefined, label);
            }
            assert.ok(
              outcomes.some(({ error }) => !error),
              `${label}: neither ended`,
            );
            await nothingWrong(page, label);
            server.fault = () => undefined;
            // Whatever the tabs have left, it can be completed.
            await succeeds(page, "fill");
            await nothingWrong(page, label);
          }
        },
        { expected: FAILED_REQUEST },
      );
      console.log(`${bed.name}: ${JSON.stringify(ends)}`);
      if (state === "not stored") assert.ok(Object.values(ends).flat().includes("BUSY"), "no two operations met");
      hub.reset();
      assert.deepEqual(await succeeds(page, "load"), answer);
    });
  }

  const golden = async (name) => {
    const { golden } = bed.sets.find((set) => set.name === name);
    const { input_ids: ids, decode } = JSON.parse(await readFile(join(golden, "text_en.json"), "utf8"));
    return { url: `/checkpoints/${name}-f32/`, ids, tokens: decode.tokens };
  };

  pairTest("two models in one page answer at the same time, and one ends without the other", async (page) => {
    const models = await Promise.all(["mini-a", "mini-b"].map(golden));
    const { together, alone, ended } = await page.evaluate(twoModelsInPage, models);
    const wanted = models.map(({ tokens }) => tokens);
    assert.deepEqual(together, wanted);
    assert.deepEqual(ended, ["DISPOSED", "right"]);
    assert.deepEqual(alone, wanted[1]);
  });

  pairTest(
    "two models in one page on the GPU: one ends, or loses its device, while the other answers",
    async (page) => {
      const scripts = {
        "/lossy.js": `const { requestDevice } = GPUAdapter.prototype;
          GPUAdapter.prototype.requestDevice = async function (...values) {
            const device = await requestDevice.apply(this, values);
            new BroadcastChannel("lossy").onmessage = () => device.destroy();
            return device;
          };`,
        "/lossy-worker.js": `import "/lossy.js"; import "/package/dist/worker.js";`,
      };
      bed.handle = (path, response) => {
        if (!(path in scripts)) return false;
        response.writeHead(200, { "content-type": "text/javascript" }).end(scripts[path]);
        return true;
      };
      const wanted = await golden("mini-a");
      const { single, together, ends, others } = await page.evaluate(twoModelsOnGpuInPage, wanted);
      assert.deepEqual(single, wanted.tokens);
      assert.deepEqual(together, [single, single]);
      const codes = ends.map(({ name, end, after }) => [name, end, after]);
      assert.deepEqual(codes, [
        ["dispose", "DISPOSED", undefined],
        ["lose", "DEVICE_LOST", single],
      ]);
      assert.ok(others.length > 2, "the other model did not answer meanwhile");
      for (const tokens of others) assert.deepEqual(tokens, single);
    },
    { expected: /GPU|device|Failed to load resource/i },
  );

  pairTest("two loads of one model in one page at the same time", async (page) => {
    const answers = await page.evaluate(
      async (url, ids) => {
        const { QwenVL } = await import("qwen-vl-web");
        const { runIds } = await import("qwen-vl-web/testing");
        const models = await Promise.all([0, 1].map(() => QwenVL.load(url, { backend: "cpu" })));
        const answers = await Promise.all(models.map(async (model) => (await runIds(model, ids, [], 3)).tokens));
        await Promise.all(models.map((model) => model.dispose()));
        return answers;
      },
      url,
      ids,
    );
    const answer = await answerOf(page);
    assert.deepEqual(answers, [answer, answer]);
    await nothingWrong(page, "two loads");
    // The second one took the bytes of the first.
    assert.equal(server.sent(shardPath(0)), 2 * model.manifest.shards[0].bytes, "once for the cache, and once for the answer without it");
  });

  pairTest("storage that is evicted while a model is loaded, and during a load", async (page) => {
    const evict = () => page.evaluate(evictInPage);
    const answer = await answerOf(page);
    server.reset();
    await page.evaluate(keepModelInPage, url);
    await evict();
    assert.deepEqual(await page.evaluate(answerInPage, ids), answer, "a loaded model needs no storage");
    await page.evaluate(() => window.model.dispose());

    // The last shard waits until the files of the others are gone.
    const last = shardPath(model.manifest.shards.length - 1);
    let release;
    const held = new Promise((resolve) => (release = resolve));
    server.fault = (path) => (path === last ? held : undefined);
    const loading = run(page, "load");
    await storedBytes(page, model.manifest.shards[0].bytes);
    await evict();
    release();
    const { error, result } = await loading;
    assert.equal(error, undefined, JSON.stringify(error));
    assert.deepEqual(result, answer);
    await nothingWrong(page, "after the eviction");
    server.fault = () => undefined;
    assert.deepEqual(await succeeds(page, "load"), answer);
    await nothingWrong(page, "after the next load");
  });

  bed.test(
    "pairs: a user who clears the site's data before a load and during it",
    { skip: bed.name !== "chromium" && "only the protocol of Chromium has such a command" },
    async () => {
      await bed.closeShared();
      server.reset();
      // The worker of the victim blocks its process for ever, and the other pages of a browser may share that process.
      const browser = await bed.launch();
      const opened = async () => (await openPage(browser, `${bed.origin}/`)).page;
      try {
        const page = await opened();
        const answer = await answerOf(page);
        const devtools = await page.createCDPSession();
        const clear = () => devtools.send("Storage.clearDataForOrigin", { origin: bed.origin, storageTypes: "file_systems,cache_storage" });
        await clear();
        assert.deepEqual(await succeeds(page, "load"), answer);
        await nothingWrong(page, "after the data was cleared before a load");

        await succeeds(page, "clear");
        const last = shardPath(model.manifest.shards.length - 1);
        let release;
        const held = new Promise((resolve) => (release = resolve));
        server.fault = (path) => (path === last ? held : undefined);
        const victim = await opened();
        const loading = run(victim, "load");
        loading.catch(() => undefined);
        await storedBytes(page, model.manifest.shards[0].bytes);
        await clear();
        release();
        await Promise.race([loading, sleep(2000)]);
        await victim.close();
        server.fault = () => undefined;
        assert.deepEqual(await succeeds(page, "load"), answer, "a load in another tab does not wait for the one that is blocked");
        await nothingWrong(page, "after the next load");
      } finally {
        await browser.close();
      }
    },
  );

  pairTest(
    "a quota that shrinks during a load and during a conversion",
    async (page) => {
      const session = await page.createCDPSession();
      const setQuota = (quotaSize) =>
        session.send("Storage.overrideQuotaForOrigin", { origin: bed.origin, ...(quotaSize && { quotaSize }) });
      const answer = await answerOf(page);
      server.reset();
      try {
        const last = shardPath(model.manifest.shards.length - 1);
        let release;
        const held = new Promise((resolve) => (release = resolve));
        server.fault = (path) => (path === last ? held : undefined);
        const loading = page.evaluate(loadInPage, url, ids);
        await storedBytes(page, model.manifest.shards[0].bytes);
        await setQuota(1000);
        release();
        const { tokens, cacheProblem } = await loading;
        assert.deepEqual(tokens, answer);
        assert.equal(cacheProblem?.code, "QUOTA_EXCEEDED");
        await nothingWrong(page, "a load with a quota that shrinks");
        server.fault = () => undefined;
        await setQuota(undefined);
        await succeeds(page, "fill");

        await library(page, "reset");
        let reads = 0;
        hub.beforeStorage = async () => {
          reads += 1;
          if (reads === 4) await setQuota(1000);
        };
        const { error } = await run(page, "convert");
        assert.equal(error?.code, "QUOTA_EXCEEDED", JSON.stringify(error));
        await nothingWrong(page, "a conversion with a quota that shrinks");
        hub.reset();
        await setQuota(undefined);
        await succeeds(page, "convert");
        await nothingWrong(page, "the conversion that was resumed");
      } finally {
        await setQuota(undefined);
      }
    },
    { skip: bed.name !== "chromium" && "only Chromium lets a test set the quota" },
  );

  // A load must not depend on the clock: the user or a server of time sets it at any moment.
  for (const [name, script] of Object.entries({
    "a clock that is a year slow": `const shift = () => -${YEAR_MS};`,
    "a clock that is set back again and again": `let times = 0; const shift = () => -${YEAR_MS} * (times += 1);`,
  })) {
    pairTest(name, async (page) => {
      const answer = await answerOf(page);
      const clock = `{ ${script} const { now } = Date; Date.now = () => now() + shift();
        Object.defineProperty(performance, "timeOrigin", { get: () => now() + shift() }); }`;
      const scripts = { "/clock.js": clock };
      for (const kind of ["cpu", "convert"]) scripts[`/clock-${kind}.js`] = `import "/clock.js"; import "/package/dist/worker-${kind}.js";`;
      scripts["/clock-gpu.js"] = `import "/clock.js"; import "/package/dist/worker.js";`;
      bed.handle = (path, response) => {
        if (!(path in scripts)) return false;
        response.writeHead(200, { "content-type": "text/javascript" }).end(scripts[path]);
        return true;
      };
      server.reset();
      // A server whose clock is right asks for one second.
      server.fault = (path, nth) => {
        const date = new Date().toUTCString();
        const later = new Date(Date.now() + 1000).toUTCString();
        const exposed = { "access-control-expose-headers": "date, retry-after, content-range, etag" };
        return path === shardPath(0) && nth === 0 ? { status: 503, headers: { ...exposed, date, "retry-after": later } } : undefined;
      };
      await page.evaluate(clock);
      const began = performance.now();
      const { tokens, error, reports } = await page.evaluate(loadInPage, url, ids, {
        workerUrl: "/clock-gpu.js",
        cpuWorkerUrl: "/clock-cpu.js",
        retries: 1,
      });
      assert.equal(error, undefined, JSON.stringify(error));
      assert.deepEqual(tokens, answer);
      assert.ok(performance.now() - began < 60_000);
      for (const { bytesPerSecond, etaSeconds } of reports) {
        assert.ok(bytesPerSecond >= 0 && Number.isFinite(bytesPerSecond), `${bytesPerSecond} bytes a second`);
        assert.ok(etaSeconds === undefined || (etaSeconds >= 0 && etaSeconds < 3600), `${etaSeconds} seconds left`);
      }
      await nothingWrong(page, name);
      server.requests = [];
      server.fault = () => ({ status: 503 });
      const again = await page.evaluate(loadInPage, url, ids, { cpuWorkerUrl: "/clock-cpu.js", retries: 0 });
      assert.deepEqual(again.tokens, answer, "what was stored under this clock is read again");
      await page.evaluate(convertInPage, source, {
        ...settings,
        url: `${server.origin}/converted/manifest.json`,
        convertWorkerUrl: "/clock-convert.js",
      });
      await nothingWrong(page, `${name}, converted`);
    });
  }

  pairTest("what earlier versions of the package have stored is read", async (page) => {
    const answer = await answerOf(page);
    server.reset();
    // The form of the records since the first version. It must stay as it is here, or the new code must still read this form.
    const files = new Map();
    const { manifest } = model;
    const tokenizer = manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file);
    const [partial, ...whole] = [...manifest.shards, tokenizer];
    for (const { file, sha256, bytes } of whole) {
      files.set(sha256, model.files.get(file));
      files.set(`${sha256}.complete`, Buffer.from(String(bytes)));
    }
    const begun = 100_000;
    files.set(partial.sha256, model.files.get(partial.file).subarray(0, begun));
    const text = model.files.get("manifest.json").toString();
    const name = await page.evaluate(async (url) => {
      const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
      return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
    }, url);
    files.set(`${name}.model`, Buffer.from(JSON.stringify({ url, manifest: text })));
    for (const [name, bytes] of files) {
      await page.evaluate(
        async (name, text) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          await (await import("/faults/page.mjs")).write("qwen-vl-web", name, bytes);
        },
        name,
        bytes.toString("base64"),
      );
    }
    const listed = await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.list());
    assert.deepEqual(
      listed.map(({ url, complete, bytes, storedBytes }) => [url, complete, bytes - storedBytes]),
      [[url, false, partial.bytes - begun]],
    );
    assert.deepEqual(await succeeds(page, "load"), answer);
    const sent = server.requests.filter(({ path }) => !path.endsWith(".json")).map(({ path, sent }) => [path, sent]);
    assert.deepEqual(
      sent.filter(([, sent]) => sent > 0).filter(([path]) => /shard|tiktoken/.test(path)),
      [[shardPath(0), partial.bytes - begun]],
    );
    // Nothing is asked any more.
    server.fault = () => ({ status: 503 });
    assert.deepEqual(await succeeds(page, "load"), answer);
  });

  bed.test("pairs: an open page while its next version takes over in another tab", async () => {
    await bed.closeShared();
    const site = join(bed.repository, "www/dist");
    const folder = join(bed.checkpoints, "scripted");
    // The CPU fallback: no kernels have to be compiled.
    const handle = async (path, response) => {
      if (!/\/index-[^/]*\.js$/.test(path)) return false;
      const script = await readFile(join(site, path), "utf8");
      response.writeHead(200, { "content-type": "text/javascript" }).end(`delete Navigator.prototype.gpu;${script}`);
      return true;
    };
    let server = await serveSite(site, folder, { handle });
    const { origin } = server;
    const next = await mkdtemp(join(tmpdir(), "qwen-vl-page-"));
    try {
      await nextVersion(site, next);
      await bed.open(
        async (old) => {
          await old.goto(origin);
          await ready(old);
          await present(old, "offline-ready");
          server.close();
          server = await serveSite(next, folder, { handle, port: Number(new URL(origin).port) });
          await bed.open(
            async (newer) => {
              await newer.goto(origin);
              await present(newer, "update");
              await Promise.all([newer.waitForNavigation(), newer.$eval(`${part("update")} button`, (button) => button.click())]);
              await ready(newer);
              assert.equal(await newer.title(), "Qwen-VL Web, next");
            },
            { expected: FAILED_REQUEST },
          );
          // It answers as it is, or has taken the new version.
          await until(old, () => document.querySelector('[data-testid="ask"]')?.disabled === false);
          assert.equal(await ask(old, "What is this?"), ANSWER);
          // The same with every part that it fetches only now.
          for (const name of ["models", "settings", "gallery"]) {
            await old.$eval(part(name), (button) => {
              button.closest("details.menu:not([open])")?.querySelector("summary").click();
              button.click();
            });
            await present(old, `dialog-${name}`);
            await old.keyboard.press("Escape");
            await until(old, () => document.querySelector("dialog") === null);
          }
          await old.reload();
          await ready(old);
          assert.equal(await old.title(), "Qwen-VL Web, next");
          assert.equal(await textOf(old, "status"), "Ready");
        },
        { expected: FAILED_REQUEST },
      );
    } finally {
      server.close();
      await rm(next, { recursive: true });
    }
  });
}

/** Waits until the cache holds that many bytes of a model. */
async function storedBytes(page, bytes) {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const models = await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.list());
    if (models.some(({ storedBytes }) => storedBytes >= bytes)) return;
    assert.ok(performance.now() < end, `${JSON.stringify(models)}, expected ${bytes} bytes`);
    await sleep(20);
  }
}

/** Copies the site as a later build writes it: another page, and scripts and styles with other names. */
async function nextVersion(site, folder) {
  await cp(site, folder, { recursive: true });
  const page = join(folder, "index.html");
  await writeFile(page, (await readFile(page, "utf8")).replace("<title>Qwen-VL Web</title>", "<title>Qwen-VL Web, next</title>"));
  const worker = join(folder, "sw.js");
  const before = await readFile(worker, "utf8");
  const after = before.replace(/(?<=url:"index\.html",revision:")[0-9a-f]+/, "next");
  assert.notEqual(after, before, "the service worker does not name index.html as expected");
  await writeFile(worker, after);
}

/** Runs in the page. */
async function clearInPage() {
  const { QwenVL } = await import("qwen-vl-web");
  return QwenVL.cache.clear().then(
    () => ({ result: null }),
    ({ name, code, message }) => ({ error: { name, code, message } }),
  );
}

/** Runs in the page. Loads two models, lets both answer at once, and disposes of the first while both answer again. */
async function twoModelsInPage(models) {
  const { QwenVL } = await import("qwen-vl-web");
  const { runIds } = await import("qwen-vl-web/testing");
  const loaded = await Promise.all(models.map(({ url }) => QwenVL.load(url, { backend: "cpu", cache: "none" })));
  const answer = async (at) => (await runIds(loaded[at], models[at].ids, [], models[at].tokens.length)).tokens;
  const together = await Promise.all([answer(0), answer(1)]);
  const running = [0, 1].map((at) =>
    answer(at).then(
      () => "right",
      ({ code, message }) => code ?? message,
    ),
  );
  await loaded[0].dispose();
  const ended = await Promise.all(running);
  const alone = await answer(1);
  await loaded[1].dispose();
  return { together, ended, alone };
}

/**
 * Runs in the page. Loads a model alone and then twice on the GPU, and ends the first of both in two ways while the second one answers again and
 * again. Returns the answers of the other one too, and after a loss the answer of the model that has recovered.
 */
async function twoModelsOnGpuInPage({ url, ids, tokens: { length } }) {
  const { QwenVL } = await import("qwen-vl-web");
  const { runIds } = await import("qwen-vl-web/testing");
  const load = (options) => QwenVL.load(url, { backend: "webgpu", cache: "none", kernels: "cpu", ...options });
  const answer = async (model) => (await runIds(model, ids, [], length)).tokens;
  const alone = await load();
  const single = await answer(alone);
  await alone.dispose();

  const other = await load();
  const lost = [];
  other.addEventListener("lost", ({ error }) => lost.push(error.code));
  const others = [];
  const ends = [];
  let together;
  for (const name of ["dispose", "lose"]) {
    const model = await load({ workerUrl: "/lossy-worker.js" });
    together = await Promise.all([answer(model), answer(other)]);
    // Long enough that it cannot end before.
    const run = runIds(model, ids, [], 500);
    let ended = false;
    const ending = (async () => {
      let begun = false;
      try {
        for await (const { type } of run) {
          if (type !== "text" || begun) continue;
          begun = true;
          if (name === "dispose") void model.dispose();
          else new BroadcastChannel("lossy").postMessage("now");
        }
        return "answered";
      } catch ({ code, message }) {
        return code ?? message;
      } finally {
        ended = true;
      }
    })();
    do others.push(await answer(other));
    while (!ended);
    const end = await ending;
    let after;
    if (name === "lose") {
      // The other one answers while it is loaded again.
      const recovered = model.recover();
      others.push(await answer(other));
      await recovered;
      after = await answer(model);
      await model.dispose();
    }
    others.push(await answer(other));
    ends.push({ name, end, after });
  }
  await other.dispose();
  if (lost.length > 0) throw new Error(`the other model lost its device: ${lost}`);
  return { single, together, ends, others };
}

/** Runs in the page. Deletes what is not locked, as a browser does that needs room. */
async function evictInPage() {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle("qwen-vl-web");
  const names = [];
  for await (const name of folder.keys()) names.push(name);
  for (const name of names) await folder.removeEntry(name).catch(() => undefined);
  await root.removeEntry("qwen-vl-web", { recursive: true }).catch(() => undefined);
  await caches.delete("qwen-vl-web");
}

async function keepModelInPage(url) {
  const { QwenVL } = await import("qwen-vl-web");
  window.model = await QwenVL.load(url, { backend: "cpu" });
}

async function answerInPage(ids) {
  const { runIds } = await import("qwen-vl-web/testing");
  return (await runIds(window.model, ids, [], 3)).tokens;
}

/** Runs in the page. Loads a model and runs a prompt. Returns its tokens, the reports of the load, and the problem of its cache. */
async function loadInPage(url, ids, options = {}) {
  const { QwenVL } = await import("qwen-vl-web");
  const { runIds } = await import("qwen-vl-web/testing");
  const reports = [];
  try {
    const model = await QwenVL.load(url, { backend: "cpu", ...options, onProgress: (report) => reports.push(report) });
    const { tokens } = await runIds(model, ids, [], 3);
    await model.dispose();
    return { tokens, reports, cacheProblem: reports.at(-1).cacheProblem };
  } catch ({ code, message }) {
    return { error: { code, message }, reports };
  }
}

async function convertInPage(source, options) {
  const { QwenVL } = await import("qwen-vl-web");
  await QwenVL.convert(source, { ...options, workers: 1 });
}
