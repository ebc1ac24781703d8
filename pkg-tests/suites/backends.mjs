import assert from "node:assert/strict";
import { join } from "node:path";
import { largeModel } from "../weights/large-model.mjs";
import { reshard } from "../weights/reshard.mjs";

/** Takes WebGPU away from the page and the workers that it starts, as in browsers that have none. */
const NO_WEBGPU = () => delete Object.getPrototypeOf(navigator).gpu;
/** The same for one worker script. */
const WITHOUT = `delete Object.getPrototypeOf(navigator).gpu;`;

/** Loads the scripted model with options and asks it; what it says and what it runs on. */
const ask = async (options) => {
  const { QwenVL } = await import("qwen-vl-web");
  const phases = [];
  const onProgress = ({ phase }) => phases.push(phase);
  try {
    const model = await QwenVL.load("/checkpoints/scripted", { cache: "none", onProgress, ...options });
    const { text } = await model.complete("\n", [], { greedy: true });
    const { backend, gpuBytes, adapter } = model.info;
    await model.dispose();
    return { text, backend, gpuBytes, adapter: adapter.backend, phases };
  } catch (error) {
    return { code: error.code ?? String(error), message: error.message, hint: error.hint, phases };
  }
};

/** Where models are computed, if not in a worker with WebGPU: on the processor, on the page's thread, in a worker of the page's own. */
export async function backendTests(context, bed) {
  const serve = (scripts) => (path, response) => {
    if (!(path in scripts)) return false;
    response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
    return true;
  };
  const changed = (change) =>
    serve({ "/change.js": change, "/changed-worker.js": `import "/change.js"; import "/package/dist/worker.js";` });
  // What the model takes and says, as it is loaded without options.
  let [bytes, said] = [0, ""];
  const fetched = (page) => page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => new URL(name).pathname));

  await context.test("without WebGPU a small model runs on the processor, and what computes there is fetched only then", () =>
    bed.open(async (page) => {
      const scripts = [];
      bed.handle = (path) => {
        if (/worker|wasm/.test(path)) scripts.push(path);
        return false;
      };
      const gpu = await page.evaluate(ask, {});
      assert.equal(gpu.backend, "webgpu");
      [bytes, said] = [gpu.gpuBytes, gpu.text];
      assert.ok(!scripts.some((path) => path.includes("cpu")), String(scripts));
      await page.evaluate(NO_WEBGPU);
      const cpu = await page.evaluate(ask, {});
      assert.deepEqual([cpu.backend, cpu.adapter, cpu.text], ["cpu", "cpu", gpu.text]);
      assert.ok(
        scripts.some((path) => path.endsWith("qwen_vl_web_cpu_bg.wasm")),
        String(scripts),
      );
    }),
  );

  await context.test("an adapter that is missing sends a small model to the processor", () =>
    bed.open(async (page) => {
      bed.handle = changed(`GPU.prototype.requestAdapter = async () => null;`);
      const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js" });
      assert.equal(found.backend, "cpu", JSON.stringify(found));
      // Nothing that was told goes back.
      const order = ["manifest", "wait", "restore", "download", "verify", "upload", "compile", "warmup", "ready"];
      const steps = found.phases.map((phase) => order.indexOf(phase));
      assert.deepEqual(
        steps,
        steps.toSorted((a, b) => a - b),
      );
      assert.equal(found.phases.at(-1), "ready");
    }),
  );

  await context.test("without WebGPU a large model is refused before it is fetched", async () => {
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
      assert.match(found.error.message, /without WebGPU a model runs on the processor, with weights of up to 268435456 bytes/);
      assert.match(found.error.hint, /small models/);
      assert.ok(
        requests.every((path) => path.endsWith("manifest.json")),
        String(requests),
      );
    });
  });

  await context.test("an answer on the processor can be stopped, and the session goes on", () =>
    bed.open(async (page) => {
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
    }),
  );

  await context.test("on the page's own thread, and in a worker of its own", () =>
    bed.open(async (page) => {
      bed.handle = serve({
        "/own-worker.js": `import "/package/dist/worker.js";`,
        "/own-cpu-worker.js": `import "/package/dist/worker-cpu.js";`,
      });
      const cpuHere = await page.evaluate(ask, { worker: false, backend: "cpu" });
      assert.deepEqual([cpuHere.text, cpuHere.backend], [said, "cpu"]);
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
        assert.deepEqual([own.text, own.backend], [said, backend], JSON.stringify(own));
      }
    }),
  );

  await context.test("workers without WebGPU, on a page that has it: the model runs on the page", () =>
    bed.open(async (page) => {
      bed.handle = changed(WITHOUT);
      const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js" });
      assert.equal(found.backend, "webgpu", JSON.stringify(found));
      assert.ok((await fetched(page)).some((path) => path.endsWith("/here.js")));
      // A page that has none either, and will have nothing else.
      await page.evaluate(NO_WEBGPU);
      assert.equal((await page.evaluate(ask, { workerUrl: "/changed-worker.js", backend: "webgpu" })).code, "WEBGPU_UNAVAILABLE");
    }),
  );

  await context.test("keys and values in less memory; a seed for all answers", () =>
    bed.open(async (page) => {
      const { gpuBytes, text } = await page.evaluate(ask, { kv: "q8", selfCheck: false });
      assert.ok(gpuBytes < bytes && text === said, `${gpuBytes} of ${bytes} bytes: ${text}`);
      const wrong = await page.evaluate(ask, { kv: "q3" });
      assert.deepEqual(
        [wrong.code, /kv is q3, expected f32, f16 or q8/.test(wrong.message)],
        ["INVALID_ARGUMENT", true],
        JSON.stringify(wrong),
      );
      const answers = await page.evaluate(async () => {
        const { QwenVL } = await import("qwen-vl-web");
        const options = { maxTokens: 12, temperature: 3, topP: 1, topK: 0, greedy: false };
        const model = await QwenVL.load("/nano/", { backend: "cpu", seed: 7 });
        const say = async (more) => (await model.complete("Hello", [], { ...options, ...more })).tokens.join();
        return [await say({}), await say({}), await say({ seed: 8 })];
      });
      assert.equal(answers[0], answers[1]);
      assert.notEqual(answers[0], answers[2]);
    }),
  );

  await context.test("kernels that compute wrongly are replaced by the plainest ones", () =>
    bed.open(async (page) => {
      const wrap = (change) => `
        const create = GPUDevice.prototype.createShaderModule;
        GPUDevice.prototype.createShaderModule = function ({ code, ...rest }) {
          return create.call(this, { ...rest, code: (${change})(code) });
        };`;
      const wrong = wrap((code) => (code.includes("let summed = workgroup_sums") ? code.replaceAll("+=", "-=") : code));
      // The second time others than the plainest would be told by.
      const plainest = wrap((code) => {
        if (/let summed = workgroup_sums/.test(code) && !/const LANES: u32 = 64u;/.test(code)) throw new Error("not the plainest kernels");
        return code;
      });
      let loads = 0;
      bed.handle = (path, response) => {
        loads += Number(path === "/change.js");
        return changed(loads === 1 ? wrong : plainest)(path, response);
      };
      const found = await page.evaluate(ask, { workerUrl: "/changed-worker.js", backend: "webgpu" });
      assert.deepEqual([found.text, found.backend], [said, "webgpu"], JSON.stringify(found));
      assert.equal(loads, 2, "the check of the kernels found nothing");
    }),
  );
}
