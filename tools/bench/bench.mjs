// node bench.mjs CASES.json [name part …]: compares our kernels with onnxruntime-web's in Chromium on its software adapter.
// Several files, joined by commas, are compared with each other, too. CASES.json comes from `qwenvl bench --export CASES.json`.
// RUNS: number of rounds, each with one turn of every kernel. SKIP: part of a rival's name (8-bit) that leaves it out.

import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { serve } from "../../pkg-tests/server.mjs";

const [files, ...parts] = process.argv.slice(2);
if (!files) throw new Error("usage: node bench.mjs CASES.json[,OTHER.json] [part of a name …]");
const here = dirname(fileURLToPath(import.meta.url));
const sets = await Promise.all(files.split(",").map(async (file) => [basename(file, ".json"), JSON.parse(await readFile(file, "utf8"))]));
const runs = Number(process.env.RUNS ?? 7);

const imports = { "onnxruntime-web/webgpu": "/ort/ort.webgpu.bundle.min.mjs" };
const blank = `<!doctype html><meta charset="utf-8"><script type="importmap">${JSON.stringify({ imports })}</script>`;
const server = await serve(
  { "/bench/": here, "/ort/": join(process.env.ORT ?? join(here, "node_modules"), "onnxruntime-web/dist") },
  {
    handle(path, response) {
      if (path !== "/" && path !== "/favicon.ico") return false;
      response.writeHead(200, { "content-type": "text/html" }).end(path === "/" ? blank : "");
      return true;
    },
  },
);
// A launch of hundreds of rows takes a software adapter longer than the 10 s after which the watchdog ends the GPU process, and the page with it.
const flags = ["--disable-gpu-watchdog"];
const browser = await launch({ name: "chromium", program: process.env.QWEN_VL_BROWSER_PROGRAM ?? "chromium", flags });
try {
  const { page, problems } = await openPage(browser, `${server.origin}/`);
  for (const [index, first] of sets[0][1].entries()) {
    if (parts.length > 0 && !parts.some((part) => first.name.includes(part))) continue;
    const cases = sets.map(([label, set]) => ({ ...(set.find(({ name }) => name === first.name) ?? set[index]), label }));
    const { name, millis, ratio } = await page.evaluate(
      async (cases, options) => (await import("/bench/page.js")).measure(cases, options),
      cases,
      { runs, skip: process.env.SKIP },
    );
    const columns = Object.entries(millis).map(([who, ms]) => `${who} ${ms.toFixed(2)} ms`);
    console.log(`${name.padEnd(48)} ${ratio === undefined ? "" : `${ratio.toFixed(2)}x  `}${columns.join(", ")}`);
  }
  problems.forEach((problem) => console.error(problem));
} finally {
  await browser.close();
  server.close();
}
