// node compile.mjs MODEL [PACKAGE]: measures how long Chromium's software adapter compiles each kernel of a converted model, one after another.

import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { serveBlank } from "../../pkg-tests/blank.mjs";

const [model, packageFolder = "web"] = process.argv.slice(2);
if (!model) throw new Error("usage: node compile.mjs MODEL [PACKAGE]");
const server = await serveBlank(packageFolder, { "/model/": model });
const browser = await launch({ name: "chromium", program: process.env.QWEN_VL_BROWSER_PROGRAM ?? "chromium" });
try {
  const { page, problems } = await openPage(browser, server.origin);
  const kernels = await page.evaluate(compileAll, `${server.origin}/model/`);
  for (const { ms, name, bytes } of kernels)
    console.log(`${ms.toFixed(0).padStart(6)} ms  ${String(bytes).padStart(6)} bytes of WGSL  ${name}`);
  console.log(
    `${kernels
      .reduce((sum, { ms }) => sum + ms, 0)
      .toFixed(0)
      .padStart(6)} ms  ${kernels.length} kernels`,
  );
  problems.forEach((problem) => console.error(problem));
} finally {
  await browser.close();
  server.close();
}

/** Runs in the page: notes the kernels that a load compiles, then compiles each on a new device, which has compiled none yet. */
async function compileAll(url) {
  const sources = new Set();
  const original = GPUDevice.prototype.createShaderModule;
  GPUDevice.prototype.createShaderModule = function (descriptor) {
    sources.add(descriptor.code);
    return original.call(this, descriptor);
  };
  const { QwenVL } = await import("qwen-vl-web");
  const loaded = await QwenVL.load(url, { cache: "none", worker: false, selfCheck: false });
  await loaded.dispose();
  GPUDevice.prototype.createShaderModule = original;
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice();
  const kernels = [];
  for (const code of sources) {
    const began = performance.now();
    const module = device.createShaderModule({ code });
    await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
    const outputs = [...code.matchAll(/read_write> (\w+)/g)].map(([, name]) => name);
    kernels.push({ ms: performance.now() - began, name: `writes ${outputs.join(", ")}`, bytes: code.length });
  }
  return kernels;
}
