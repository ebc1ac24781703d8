// The choice of kernels, and its record in the cache. The browsers' adapters are software and say so; here they are made to say something else.

import assert from "node:assert/strict";

/** Returns a script after which adapters have no name, and this flag. */
const sayFallback = (flag) => `{
  const { prototype } = GPUAdapterInfo;
  for (const fact of ["vendor", "architecture", "device", "description"]) Object.defineProperty(prototype, fact, { get: () => "" });
  Object.defineProperty(prototype, "isFallbackAdapter", { get: () => ${flag} });
}`;

/** Loads the scripted model. Returns the choice of its kernels. */
const load = async (options) => {
  const { QwenVL } = await import("qwen-vl-web");
  const model = await QwenVL.load("/checkpoints/scripted", { backend: "webgpu", selfCheck: false, ...options });
  const { kernels, kernelChoice } = model.info.adapter;
  await model.dispose();
  return { kernels, origin: kernelChoice?.origin, ms: kernelChoice?.ms, trials: kernelChoice?.trials };
};

/** Returns the names of the records in the two stores of the package. */
const records = async () => {
  const names = [];
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web", { create: true });
  for await (const name of folder.keys()) names.push(name);
  const cache = await caches.open("qwen-vl-web");
  for (const { url } of await cache.keys()) names.push(new URL(url).pathname.slice(1));
  return names.filter((name) => name.startsWith("kernels-"));
};

export function kernelTests(bed) {
  const changed = (change) => (path, response) => {
    const scripts = { "/change.js": change, "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";` };
    if (!(path in scripts)) return false;
    response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
    return true;
  };
  const workerUrl = "/changed-worker.js";

  /** Registers a test on a page without records, on adapters whose flag is `flag`. */
  const kernelTest = (name, flag, body, { rare = false } = {}) => {
    const onPage = async (page) => {
      await bed.closeShared();
      const clear = async () => {
        const { QwenVL } = await import("qwen-vl-web");
        for (const cache of ["opfs", "cache-api"]) await QwenVL.cache.clear({ cache });
      };
      await page.evaluate(clear);
      bed.handle = changed(sayFallback(flag));
      await body(page);
      await page.evaluate(clear);
    };
    const skip = (rare || bed.name !== "chromium") && !bed.thorough && "it compiles many kernels: --thorough";
    bed.pageTest(`kernels: ${name}`, onPage, { skip });
  };

  bed.pageTest("kernels: software adapters have those of the processor, and nothing is measured", async (page) => {
    const found = await page.evaluate(load, { cache: "none" });
    assert.equal(found.origin, "adapter", JSON.stringify(found));
    assert.deepEqual(found.trials, []);
    assert.match(found.kernels, /an invocation/);
  });

  kernelTest("what a load measures is restored by the next, and measured again where the record is damaged", undefined, async (page) => {
    const first = await page.evaluate(load, { workerUrl });
    assert.equal(first.origin, "measured", JSON.stringify(first));
    assert.ok(first.trials.length > 1 && first.trials.every(({ ms }) => ms > 0), JSON.stringify(first));
    const [name, ...more] = await page.evaluate(records);
    assert.deepEqual([more, name?.startsWith("kernels-")], [[], true]);
    const second = await page.evaluate(load, { workerUrl });
    assert.deepEqual([second.origin, second.kernels, second.trials], ["restored", first.kernels, []]);
    console.log(`${bed.name}: kernels measured in ${first.ms.toFixed(0)} ms, restored in ${second.ms.toFixed(0)} ms`);
    await page.evaluate(async (name) => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
      const writer = await (await folder.getFileHandle(name)).createWritable({ keepExistingData: true });
      await writer.truncate(20);
      await writer.close();
    }, name);
    assert.equal((await page.evaluate(load, { workerUrl })).origin, "measured");
    assert.equal((await page.evaluate(load, { workerUrl })).origin, "restored");
  });

  kernelTest(
    "without tuning, with given kernels and without a cache nothing is kept",
    undefined,
    async (page) => {
      for (const options of [{ tuning: false }, { cache: "none" }, { kernels: "cpu" }]) {
        const { origin } = await page.evaluate(load, { workerUrl, ...options });
        assert.equal(origin, options.kernels ? undefined : "measured", JSON.stringify(options));
        assert.deepEqual(await page.evaluate(records), [], JSON.stringify(options));
      }
      // Nor is a record used.
      await page.evaluate(load, { workerUrl });
      assert.equal((await page.evaluate(load, { workerUrl, tuning: false })).origin, "measured");
    },
    { rare: true },
  );

  kernelTest("on the page's own thread the record is in the Cache API", undefined, async (page) => {
    await page.evaluate((script) => void new Function(script)(), sayFallback(undefined));
    assert.equal((await page.evaluate(load, { worker: false })).origin, "measured");
    assert.equal((await page.evaluate(records)).length, 1);
    assert.equal((await page.evaluate(load, { worker: false })).origin, "restored");
  });

  kernelTest("a GPU never has those of the processor, and a slow one is measured for some seconds only", false, async (page) => {
    const found = await page.evaluate(load, { workerUrl });
    assert.equal(found.origin, "measured", JSON.stringify(found));
    for (const kernels of [found.kernels, ...found.trials.map(({ kernels }) => kernels)]) assert.match(kernels, /staged tiles/);
    console.log(`${bed.name}: as a GPU, ${found.trials.length} measurements in ${found.ms.toFixed(0)} ms`);
    assert.equal((await page.evaluate(records)).length, 1);
  });
}
