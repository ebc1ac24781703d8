import assert from "node:assert/strict";

/** The other tests are meaningless on another adapter than the expected one. */
export function adapterTests(bed) {
  bed.pageTest("a worker has WebGPU, on the expected adapter", async (page) => {
    const found = await page.evaluate(async () => {
      const look = `
          (async () => {
            const adapter = await navigator.gpu?.requestAdapter();
            if (!adapter) return null;
            const { vendor, architecture, description } = adapter.info;
            return { vendor, architecture, description, subgroups: adapter.features.has("subgroups"),
              shaderF16: adapter.features.has("shader-f16"), binding: adapter.limits.maxStorageBufferBindingSize };
          })().then((found) => postMessage(found));`;
      const worker = new Worker(URL.createObjectURL(new Blob([look], { type: "text/javascript" })));
      return new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = reject;
      });
    });
    console.log(`${bed.name}: ${JSON.stringify(found)}`);
    assert.ok(found, "no WebGPU adapter in a worker");
    if (bed.name === "chromium") assert.match(found.architecture, /swiftshader/i);
    // Firefox does not name the adapter; limits and features identify lavapipe.
    else assert.deepEqual([found.subgroups, found.binding], [false, 128 * 1024 * 1024]);
  });
}
