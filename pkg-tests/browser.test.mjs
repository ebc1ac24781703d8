// The packed package and the demo page in one browser. `cargo xtask test` sets the environment:
//   QWEN_VL_BROWSER          chromium or firefox
//   QWEN_VL_BROWSER_PROGRAM  its program
//   QWEN_VL_VULKAN_ICD       description of the software Vulkan driver, for Firefox
//   QWEN_VL_PACKAGE          the unpacked tarball
//   QWEN_VL_CHECKPOINTS      web checkpoints and golden.json

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { serveBlank } from "./blank.mjs";
import { launch, openPage } from "./browser.mjs";
import { adapterTests } from "./suites/adapter.mjs";
import { apiTests, pictureTests } from "./suites/api.mjs";
import { backendTests } from "./suites/backends.mjs";
import { goldenTests } from "./suites/golden.mjs";
import { nanoTests } from "./suites/nano.mjs";
import { pageTests } from "./suites/page.mjs";
import { lossTests, sessionTests } from "./suites/sessions.mjs";
import { weightsTests } from "./suites/weights.mjs";

function setting(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run \`cargo xtask test --only chromium\` (or firefox)`);
  return value;
}

const name = setting("QWEN_VL_BROWSER");
const packageFolder = setting("QWEN_VL_PACKAGE");
const checkpoints = setting("QWEN_VL_CHECKPOINTS");
const sets = JSON.parse(await readFile(join(checkpoints, "golden.json"), "utf8"));
const repository = fileURLToPath(new URL("..", import.meta.url));

/** Optional features of the adapters that the tests use. */
const features = name === "chromium" ? ["subgroups"] : ["shader-f16"];
/** What the suites share: one browser and one server, whose answers a test may change. */
const bed = { name, sets, features, repository, checkpoints, origin: "", handle: undefined, open };
let browser;
let server;

before(async () => {
  const folders = {
    "/checkpoints/": checkpoints,
    "/nano/": join(repository, "models/nano"),
    "/sample/": join(repository, "models/sample"),
    "/page/": join(repository, "www/dist"),
    ...Object.fromEntries(sets.map((set) => [`/golden/${set.name}/`, set.root])),
  };
  server = await serveBlank(packageFolder, folders, { handle: (path, response) => bed.handle?.(path, response) });
  bed.origin = server.origin;
  browser = await launch({ name, program: setting("QWEN_VL_BROWSER_PROGRAM"), vulkanIcd: setting("QWEN_VL_VULKAN_ICD") });
});

after(async () => {
  await browser?.close();
  server?.close();
});

/**
 * Runs a test on a page of its own; whatever the page reports as an error fails it.
 *
 * @param {(page: import("puppeteer-core").Page) => Promise<void>} body
 * @param {{ path?: string, expected?: RegExp }} options `expected`: reports that belong to the test
 */
async function open(body, { path = "/", expected } = {}) {
  const { page, problems } = await openPage(browser, bed.origin + path);
  try {
    await body(page);
  } finally {
    bed.handle = undefined;
    await page.close();
  }
  assert.deepEqual(
    problems.filter((problem) => !expected?.test(problem)),
    [],
  );
}

test(name, { concurrency: false }, async (context) => {
  await adapterTests(context, bed);
  await apiTests(context, bed);
  await pictureTests(context, bed);
  await sessionTests(context, bed);
  await lossTests(context, bed);
  await backendTests(context, bed);
  await sessionTests(context, bed, "on the processor", { backend: "cpu" });
  await weightsTests(context, bed);
  await pageTests(context, bed);
  await goldenTests(context, bed);
  await nanoTests(context, bed);
  await nanoTests(context, bed, "cpu");
});
