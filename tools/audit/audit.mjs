// Runs Lighthouse on the built page, as a phone and as a desktop computer. Prints the table and fails below 95.
// A separate package, because Lighthouse is large and nothing else needs it. `cargo xtask audit` installs and calls it:
//   node tools/audit/audit.mjs --site FOLDER --model FOLDER --chromium PROGRAM

import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import lighthouse, { desktopConfig } from "lighthouse";
import { launch } from "../../pkg-tests/browser.mjs";
import { serve } from "../../pkg-tests/server.mjs";

const LEAST = 95;
const CATEGORIES = ["performance", "accessibility", "best-practices"];

const text = { type: "string" };
const { values } = parseArgs({ options: { site: text, model: text, chromium: text } });
/** Types of files that every host of static files compresses. */
const COMPRESSED = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
const server = await serve(
  { "/": values.site, "/model/": values.model },
  {
    async handle(path, response) {
      const file = path.endsWith("/") ? `${path}index.html` : path;
      const type = COMPRESSED[extname(file)];
      const bytes = type && (await readFile(join(values.site, file)).catch(() => undefined));
      if (!bytes) return false;
      response.writeHead(200, { "content-type": type, "content-encoding": "gzip" }).end(gzipSync(bytes));
      return true;
    },
  },
);
const browser = await launch({ name: "chromium", program: values.chromium });
let passed = true;
try {
  const port = Number(new URL(browser.wsEndpoint()).port);
  for (const [name, config] of [
    ["phone", undefined],
    ["desktop", desktopConfig],
  ]) {
    const { lhr } = await lighthouse(`${server.origin}/`, { port, onlyCategories: CATEGORIES, logLevel: "error" }, config);
    const scores = CATEGORIES.map((id) => [id, Math.round((lhr.categories[id].score ?? 0) * 100)]);
    console.log(`${name.padEnd(8)} ${scores.map(([id, score]) => `${id} ${score}`).join(", ")}`);
    const timings = ["first-contentful-paint", "largest-contentful-paint", "total-blocking-time", "cumulative-layout-shift", "speed-index"];
    console.log(`         ${timings.map((id) => `${id} ${lhr.audits[id].displayValue ?? "none"}`).join(", ")}`);
    for (const { score, title, displayValue } of Object.values(lhr.audits)) {
      if (score !== null && score < 0.9) console.log(`         ${score.toFixed(2)} ${title}${displayValue ? `: ${displayValue}` : ""}`);
    }
    if (lhr.runtimeError) console.log(`         ${lhr.runtimeError.message}`);
    passed &&= scores.every(([, score]) => score >= LEAST);
  }
} finally {
  await browser.close();
  server.close();
}
process.exit(passed ? 0 : 1);
