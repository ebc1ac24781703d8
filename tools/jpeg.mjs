// Measures in Chromium how long a JPEG of 12 megapixels takes to become the model's input, decoded by the browser and by the package:
//   node tools/jpeg.mjs --package web --chromium PROGRAM [--rounds N]
// The model is `nano` on the CPU. Its time for a small picture, which is decoded at once, is subtracted.

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serveBlank } from "../pkg-tests/blank.mjs";
import { launch, openPage } from "../pkg-tests/browser.mjs";

const text = { type: "string" };
const { values } = parseArgs({
  options: { package: { ...text, default: "web" }, chromium: { ...text, default: "chromium" }, rounds: { ...text, default: "5" } },
});
/** Worker scripts: the package's own, and one without the browser's decoder. */
const WORKERS = {
  "/browser.js": `import "/package/dist/worker-cpu.js";`,
  "/package.js": `import "/without.js"; import "/package/dist/worker-cpu.js";`,
  "/without.js": `globalThis.createImageBitmap = undefined;`,
};

const nano = fileURLToPath(new URL("../models/nano", import.meta.url));
const server = await serveBlank(
  values.package,
  { "/nano/": nano },
  {
    handle(path, response) {
      if (!(path in WORKERS)) return false;
      response.writeHead(200, { "content-type": "text/javascript" }).end(WORKERS[path]);
      return true;
    },
  },
);
const browser = await launch({ name: "chromium", program: values.chromium });
try {
  const { page, problems } = await openPage(browser, server.origin);
  const times = await page.evaluate(measure, ["/browser.js", "/package.js"], Number(values.rounds));
  if (problems.length > 0) throw new Error(problems.join("\n"));
  for (const [script, seconds] of Object.entries(times)) {
    console.log(`${script.slice(1, -3).padEnd(8)} s, by round: ${seconds.map((time) => time.toFixed(2)).join(", ")}`);
  }
} finally {
  await browser.close();
  server.close();
}

/** Runs in the page. Returns the seconds of each round, by worker script. */
async function measure(scripts, rounds) {
  const { QwenVL } = await import("qwen-vl-web");
  /** Draws a picture that no earlier one equals, because the model keeps the features of pictures. */
  const photo = async (width, height) => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    for (let shape = 0; shape < 3000; shape++) {
      context.fillStyle = `hsl(${Math.random() * 360} ${Math.random() * 100}% ${Math.random() * 100}%)`;
      context.fillRect(Math.random() * width, Math.random() * height, (Math.random() * width) / 8, (Math.random() * height) / 8);
    }
    return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
  };
  const models = {};
  for (const cpuWorkerUrl of scripts) models[cpuWorkerUrl] = await QwenVL.load("/nano/", { backend: "cpu", cache: "none", cpuWorkerUrl });
  const seconds = async (model, picture) => {
    const start = performance.now();
    await model.encodeImage(picture);
    return (performance.now() - start) / 1000;
  };
  const times = Object.fromEntries(scripts.map((script) => [script, []]));
  for (let round = 0; round < rounds; round++) {
    const [large, small] = [await photo(4000, 3000), await photo(64, 48)];
    // In turns, so that a machine that slows down slows down both.
    for (const script of scripts) times[script].push((await seconds(models[script], large)) - (await seconds(models[script], small)));
  }
  return times;
}
