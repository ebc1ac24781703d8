import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const MODEL = { url: "/nano/", load: { backend: "cpu" } };

/** JPEG files have the pixels that the original sees, which are Pillow's: see `web/test/pictures/make.py`. */
export async function jpegTests(bed) {
  const folder = join(bed.repository, "web/test/pictures");
  const ids = JSON.parse(await readFile(join(folder, "pixels.json"), "utf8"));
  const read = (name) => readFile(join(folder, name));
  const encode = async (page, bytes, options) => page.evaluate(encodeInPage, bytes.toString("base64"), options);

  for (const [name, id] of Object.entries(ids)) {
    bed.modelTest(MODEL, `${name} has the pixels of Pillow`, async (page) => {
      assert.equal((await encode(page, await read(name))).id, id);
    });
  }
  bed.modelTest(MODEL, "a turned JPEG has its stored pixels on request", async (page) => {
    const stored = await encode(page, await read("turned.jpg"), { imageOrientation: "none" });
    assert.deepEqual([stored.width, stored.height], [83, 61]);
    const upright = await encode(page, await read("turned.jpg"), { imageOrientation: "from-image" });
    assert.deepEqual([upright.width, upright.height], [61, 83]);
  });
  bed.modelTest(MODEL, "a JPEG that is cut off is refused", async (page) => {
    const { code, message } = await encode(page, (await read("420.jpg")).subarray(0, -100));
    assert.equal(code, "IMAGE_DECODE");
    assert.match(message, /cut off/);
  });

  bed.pageTest("a browser that adds noise to canvases does not add it to JPEG", async (page) => {
    const scripts = {
      "/noisy-worker.js": `import "/noise.js"; import "/package/dist/worker-cpu.js";`,
      "/noise.js": `
        const real = OffscreenCanvasRenderingContext2D.prototype.getImageData;
        OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...area) {
          const pixels = real.apply(this, area);
          for (let at = 0; at < pixels.data.length; at += 40) pixels.data[at] ^= 1;
          return pixels;
        };`,
      "/without-worker.js": `import "/without.js"; import "/package/dist/worker-cpu.js";`,
      "/without.js": `globalThis.createImageBitmap = undefined;`,
    };
    bed.handle = (path, response) => {
      if (!(path in scripts)) return false;
      response.writeHead(200, { "content-type": "text/javascript", "cache-control": "no-store" }).end(scripts[path]);
      return true;
    };
    const found = [];
    for (const cpuWorkerUrl of ["/noisy-worker.js", "/without-worker.js"]) {
      await page.evaluate(loadInPage, { ...MODEL.load, cpuWorkerUrl });
      found.push(await encode(page, await read("420.jpg")));
      await page.evaluate(() => window.model.dispose());
    }
    const [noisy, without] = found;
    assert.deepEqual([noisy.width, noisy.height], [83, 61]);
    assert.equal(noisy.id, without.id);
  });
}

// The following functions run in the page.

async function loadInPage(options) {
  const { QwenVL } = await import("qwen-vl-web");
  window.model = await QwenVL.load("/nano/", options);
}

async function encodeInPage(base64, options) {
  const bytes = Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0));
  try {
    const { id, width, height } = await window.model.encodeImage(bytes, options);
    return { id, width, height };
  } catch ({ code, message }) {
    return { code, message };
  }
}
