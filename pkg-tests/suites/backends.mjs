import assert from "node:assert/strict";
import { join } from "node:path";
import { largeModel } from "../weights/large-model.mjs";
import { reshard } from "../weights/reshard.mjs";
import { IDLE_PRODUCTS, REJECT_PACKED, REPORT_SHADERS } from "./sabotage.mjs";

/** Removes WebGPU from the page and the workers that it starts, as in browsers without it. */
const NO_WEBGPU = () => delete Object.getPrototypeOf(navigator).gpu;
/** The same for one worker script. */
const WITHOUT = `delete Object.getPrototypeOf(navigator).gpu;`;

/** The scripted model's answer (crates/testkit/examples/test_checkpoints/scripted.rs). */
const SAID = "This is a person.";

/** Loads the scripted model with options and asks it. Returns the answer and the backend. */
const ask = async (options) => {
  const { QwenVL } = await import("qwen-vl-web");
  const phases = [];
  const onProgress = ({ phase }) => phases.push(phase);
  try {
    const model = await QwenVL.load("/checkpoints/scripted", { cache: "none", onProgress, ...options });
    const { text } = await model.complete("\n", [], { greedy: true });
    const { backend, gpuBytes, adapter } = model.info;
    await model.dispose();
    return { text, backend, gpuBytes, adapter: adapter.backend, kernels: adapter.kernels, phases };
  } catch (error) {
    return { code: error.code ?? String(error), message: error.message, hint: error.hint, phases };
  }
};

/** Models that run other than in a worker with WebGPU: on the CPU, on the page's thread, in a worker that the page started. */
export function backendTests(bed) {
  const serve = (scripts) => (path, response) => {
    if (!(path in scripts)) return false;
    response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
    return true;
  };
  const changed = (change) =>
    serve({ "/change.js": change, "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";` });
  const fetched = (page) => page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => new URL(name).pathname));

  bed.pageTest("without WebGPU a small model runs on the processor, and what computes there is fetched only then", async (page) => {
    const scripts = [];
    bed.handle = (path) => {
      if (/worker|wasm/.test(path)) scripts.push(path);
      return false;
    };
    const gpu = await page.evaluate(ask, {});
    assert.equal(gpu.backend, "webgpu");
    assert.equal(gpu.text, SAID);
    assert.ok(!scripts.some((path) => path.includes("cpu")), String(scripts));
    await page.evaluate(NO_WEBGPU);
    const cpu = await page.evaluate(ask, {});
    assert.deepEqual([cpu.backend, cpu.adapter, cpu.text], ["cpu", "cpu", gpu.text]);
    assert.ok(
      scripts.some((path) => path.endsWith("qwen_vl_web_cpu_bg.wasm")),
      String(scripts),
    );
  });

  bed.pageTest("an adapter that is missing sends a small model to the processor", async (page) => {
    bed.handle = changed(`GPU.prototype.requestAdapter = async () => null;`);
    const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js" });
    assert.equal(found.backend, "cpu", JSON.stringify(found));
    // Phases come in order.
    const order = ["manifest", "wait", "restore", "download", "verify", "upload", "compile", "warmup", "ready"];
    const steps = found.phases.map((phase) => order.indexOf(phase));
    assert.deepEqual(
      steps,
      steps.toSorted((a, b) => a - b),
    );
    assert.equal(found.phases.at(-1), "ready");
  });

  bed.test("without WebGPU a large model is refused before it is fetched", async () => {
    const folder = join(bed.checkpoints, "mini-a-f32");
    const large = await largeModel(await reshard(folder, 4), 300 << 20);
    const requests = [];
    await bed.open(async (page) => {
      bed.handle = (path, response) => {
        if (!path.startsWith("/large/")) return false;
        requests.push(path);
        if (!path.endsWith("manifest.json")) return false;
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(large.manifest));
        return true;
      };
      await page.evaluate(NO_WEBGPU);
      const found = await page.evaluate(async () => {
        const { QwenVL } = await import("qwen-vl-web");
        const { status, reasons } = await QwenVL.check("/large/");
        const error = await QwenVL.load("/large/", { cache: "none" }).catch(({ code, message, hint }) => ({ code, message, hint }));
        return { status, reasons: reasons.map(({ code }) => code), error };
      });
      assert.deepEqual([found.status, found.reasons], ["unsupported", ["WEBGPU_UNAVAILABLE"]]);
      assert.equal(found.error.code, "WEBGPU_UNAVAILABLE");
      assert.match(found.error.message, /without WebGPU the limit is 268435456/);
      assert.match(found.error.hint, /small models/);
      assert.ok(
        requests.every((path) => path.endsWith("manifest.json")),
        String(requests),
      );
    });
  });

  bed.pageTest("an answer on the processor can be stopped, and the session continues", async (page) => {
    const found = await page.evaluate(async () => {
      const { QwenVL } = await import("qwen-vl-web");
      const model = await QwenVL.load("/nano/", { backend: "cpu" });
      const session = model.createSession({ generation: { greedy: true } });
      const controller = new AbortController();
      let reason = "";
      const run = session.ask("Hello!", { signal: controller.signal });
      try {
        for await (const { type } of run) if (type === "text") controller.abort();
      } catch ({ name }) {
        reason = name;
      }
      const began = model.complete("Hello Hello Hello", [], { maxTokens: 200, ignoreStop: true });
      for await (const { type } of began) if (type === "text") break;
      const next = await session.ask("Hello!");
      return { reason, text: next.text, history: session.history.length };
    });
    assert.equal(found.reason, "AbortError");
    assert.ok(found.text.length > 5 && found.history === 2, JSON.stringify(found));
  });

  bed.pageTest("on the page's own thread, and in a worker that the page starts", async (page) => {
    bed.handle = serve({
      "/own-worker.js": `import "/package/dist/worker.js";`,
      "/own-cpu-worker.js": `import "/package/dist/worker-cpu.js";`,
    });
    const cpuHere = await page.evaluate(ask, { worker: false, backend: "cpu" });
    assert.deepEqual([cpuHere.text, cpuHere.backend], [SAID, "cpu"]);
    for (const [script, backend] of [
      ["/own-worker.js", "webgpu"],
      ["/own-cpu-worker.js", "cpu"],
    ]) {
      const own = await page.evaluate(
        async (script, ask) => {
          window.ask ??= new Function(`return ${ask}`)();
          return window.ask({ worker: new Worker(script, { type: "module" }) });
        },
        script,
        String(ask),
      );
      assert.deepEqual([own.text, own.backend], [SAID, backend], JSON.stringify(own));
    }
  });

  bed.pageTest("workers without WebGPU, on a page that has it: the model runs on the page", async (page) => {
    bed.handle = changed(WITHOUT);
    const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js" });
    assert.equal(found.backend, "webgpu", JSON.stringify(found));
    assert.ok((await fetched(page)).some((path) => path.endsWith("/page-thread.js")));
    // A page that has none either, and will have nothing else.
    await page.evaluate(NO_WEBGPU);
    assert.equal((await page.evaluate(ask, { workerUrl: "/changed-worker.js", backend: "webgpu" })).code, "WEBGPU_UNAVAILABLE");
  });

  bed.pageTest("two loads at once on the page's own thread leave other users of WebGPU alone", async (page) => {
    const found = await page.evaluate(async (ask) => {
      const load = new Function(`return ${ask}`)();
      const { requestAdapter } = GPU.prototype;
      const { requestDevice } = GPUAdapter.prototype;
      const loads = Promise.all([load({ worker: false }), load({ worker: false })]);
      // Another library, again and again until both models are loaded.
      let loading = true;
      const done = loads.finally(() => (loading = false));
      const features = new Set();
      while (loading) {
        const adapter = await navigator.gpu.requestAdapter();
        const device = await adapter.requestDevice();
        for (const feature of device.features) features.add(feature);
        device.destroy();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const untouched = GPU.prototype.requestAdapter === requestAdapter && GPUAdapter.prototype.requestDevice === requestDevice;
      return { texts: (await done).map(({ text }) => text), features: [...features], untouched };
    }, String(ask));
    assert.deepEqual(found.texts, [SAID, SAID]);
    // Features that nobody asked for: newer browsers give every device the first.
    assert.deepEqual(
      found.features.filter((feature) => feature !== "core-features-and-limits"),
      [],
    );
    assert.ok(found.untouched);
  });

  const scripted = { url: "/checkpoints/scripted" };
  bed.modelTest(scripted, "keys and values in less memory", async (page) => {
    const bytes = await page.evaluate(() => window.model.info.gpuBytes);
    const { gpuBytes, text } = await page.evaluate(ask, { kv: "q8", selfCheck: false });
    assert.ok(gpuBytes < bytes && text === SAID, `${gpuBytes} of ${bytes} bytes: ${text}`);
    const wrong = await page.evaluate(ask, { kv: "q3" });
    assert.deepEqual(
      [wrong.code, /kv is q3, expected f32, f16 or q8/.test(wrong.message)],
      ["INVALID_ARGUMENT", true],
      JSON.stringify(wrong),
    );
  });

  bed.pageTest("a seed for all answers", async (page) => {
    const answers = await page.evaluate(async () => {
      const { QwenVL } = await import("qwen-vl-web");
      const options = { maxTokens: 12, temperature: 3, topP: 1, topK: 0, greedy: false };
      const model = await QwenVL.load("/nano/", { backend: "cpu", seed: 7 });
      const say = async (more) => (await model.complete("Hello", [], { ...options, ...more })).tokens.join();
      return [await say({}), await say({}), await say({ seed: 8 })];
    });
    assert.equal(answers[0], answers[1]);
    assert.notEqual(answers[0], answers[2]);
  });

  bed.pageTest("kernels that compute wrongly are replaced by the plain ones", async (page) => {
    const seen = [[], []];
    let load = -1;
    bed.handle = (path, response) => {
      if (path === "/change.js") load += 1;
      if (path.startsWith("/seen/")) {
        seen[load].push(decodeURIComponent(path.slice("/seen/".length)));
        response.writeHead(204).end();
        return true;
      }
      return changed(`${REPORT_SHADERS}${load === 0 ? IDLE_PRODUCTS : ""}`)(path, response);
    };
    const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js", backend: "webgpu" });
    assert.deepEqual([found.text, found.backend], [SAID, "webgpu"], JSON.stringify(found));
    assert.equal(load, 1, "the self-check found nothing");
    const others = seen[1].filter((label) => !label.endsWith(" plain"));
    assert.ok(seen[1].length > 5 && others.length === 0, `kernels of the second load: ${seen[1].join(", ")}`);
  });

  bed.pageTest("kernels that the driver rejects with an internal error are left out", async (page) => {
    const seen = [];
    bed.handle = (path, response) => {
      if (!path.startsWith("/seen/")) return changed(REJECT_PACKED)(path, response);
      seen.push(decodeURIComponent(path.slice("/seen/".length)));
      response.writeHead(204).end();
      return true;
    };
    const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js", backend: "webgpu", precision: "q8" });
    assert.deepEqual([found.text, found.backend], [SAID, "webgpu"], JSON.stringify(found));
    assert.doesNotMatch(found.kernels, /8-bit activations/);
    assert.ok(seen.length > 0, "no kernel with 8-bit activations was compiled: the test shows nothing");
  });
}
