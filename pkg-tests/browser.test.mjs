// The packed package and the demo page in one browser. `cargo xtask test --only chromium` (or firefox) sets the environment:
//   QWEN_VL_BROWSER          chromium or firefox
//   QWEN_VL_BROWSER_PROGRAM  its program
//   QWEN_VL_VULKAN_ICD       description of the software Vulkan driver, for Firefox
//   QWEN_VL_PACKAGE          the unpacked tarball
//   QWEN_VL_CHECKPOINTS      web checkpoints and golden.json
//   QWEN_VL_CASES            conversions of the native tests: see `cases.mjs`
//   QWEN_VL_TEST             optional: run only the tests whose name holds this text
//   QWEN_VL_THOROUGH         1: take all cases and points where an ordinary run takes a part

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import { Bed } from "./bed.mjs";
import { serveBlank } from "./blank.mjs";
import { launch, openPage, policyWatch, recordingProxy } from "./browser.mjs";
import { adapterTests } from "./suites/adapter.mjs";
import { aiSdkTests } from "./suites/ai-sdk.mjs";
import { apiTests, disposeTest, faultTests, pictureTests } from "./suites/api.mjs";
import { backendTests } from "./suites/backends.mjs";
import { constraintTests } from "./suites/constraints.mjs";
import { convertTests } from "./suites/convert.mjs";
import { convertLoadTests } from "./suites/convert-load.mjs";
import { deviceTests } from "./suites/devices.mjs";
import { familyTests } from "./suites/family.mjs";
import { goldenTests } from "./suites/golden.mjs";
import { hostileTests } from "./suites/hostile.mjs";
import { interruptionTests } from "./suites/interruptions.mjs";
import { jpegTests } from "./suites/jpeg.mjs";
import { kernelTests } from "./suites/kernels.mjs";
import { nanoTests } from "./suites/nano.mjs";
import { originTests } from "./suites/origins.mjs";
import { pageTests } from "./suites/page.mjs";
import { pairTests } from "./suites/pairs.mjs";
import { promptApiTests } from "./suites/prompt-api.mjs";
import { lossTests, sessionTests } from "./suites/sessions.mjs";
import { soakTests } from "./suites/soak.mjs";
import { weightsTests } from "./suites/weights.mjs";

function setting(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run \`cargo xtask test --only chromium\` (or firefox)`);
  return value;
}

const name = setting("QWEN_VL_BROWSER");
const packageFolder = setting("QWEN_VL_PACKAGE");
const checkpoints = setting("QWEN_VL_CHECKPOINTS");
const { sets, families, missing } = JSON.parse(await readFile(join(checkpoints, "golden.json"), "utf8"));
const repository = fileURLToPath(new URL("..", import.meta.url));

const casesFolder = process.env.QWEN_VL_CASES ?? join(repository, "target/convert-cases");

/** Hosts of this network that tests ask on purpose, as addresses of a package's user. */
const NAMED_HOSTS = ["models.invalid"];

/** Optional features of the adapters that the tests use. */
const features = name === "chromium" ? ["subgroups"] : ["shader-f16"];
const thorough = process.env.QWEN_VL_THOROUGH === "1";
const bed = new Bed({
  name,
  thorough,
  sets,
  families,
  missingSets: missing,
  features,
  repository,
  checkpoints,
  packageFolder,
  casesFolder,
});
let browser;
let server;
let proxy;
const policy = policyWatch();
bed.policy = policy;

before(async () => {
  const folders = {
    "/checkpoints/": checkpoints,
    "/cases/": casesFolder,
    "/nano/": join(repository, "models/nano"),
    "/sample/": join(repository, "models/sample"),
    "/page/": join(repository, "www/dist"),
    "/faults/": join(repository, "pkg-tests/faults"),
    ...Object.fromEntries([...sets, ...families].map((set) => [`/golden/${set.name}/`, set.root])),
  };
  server = await serveBlank(packageFolder, folders, {
    handle: (path, response) => policy.handle(path, response) || bed.handle?.(path, response),
    pageHeaders: policy.pageHeaders,
  });
  bed.origin = server.origin;
  proxy = await recordingProxy(name);
  const [program, vulkanIcd] = [setting("QWEN_VL_BROWSER_PROGRAM"), setting("QWEN_VL_VULKAN_ICD")];
  bed.launch = () => launch({ name, program, vulkanIcd, proxy: proxy.port });
  browser = await bed.launch();
  bed.openPage = (path) => openPage(browser, server.origin + path);
});

after(async () => {
  await bed.close();
  await browser?.close();
  server?.close();
  proxy?.close();
  // Nothing in any of these tests asks another host than the one that it was given.
  assert.deepEqual(
    [...(proxy?.hosts ?? [])].filter((host) => !NAMED_HOSTS.includes(host)),
    [],
    "hosts were asked that no test names (those of the browser itself are in `OF_THE_BROWSERS`)",
  );
  assert.deepEqual(
    policy.reports,
    [],
    "a page or a worker did what a strict security policy forbids, or asked another server of this machine",
  );
});

adapterTests(bed);
originTests(bed);
// These share a model: see `Bed.modelTest`.
apiTests(bed);
sessionTests(bed);
backendTests(bed);
disposeTest(bed);
sessionTests(bed, "on the CPU", { backend: "cpu" });
await pictureTests(bed);
await jpegTests(bed);
await goldenTests(bed);
await familyTests(bed);
kernelTests(bed);
nanoTests(bed);
promptApiTests(bed);
aiSdkTests(bed);
constraintTests(bed);
nanoTests(bed, "cpu");
constraintTests(bed, "cpu");
await faultTests(bed);
lossTests(bed);
deviceTests(bed);
soakTests(bed);
await weightsTests(bed);
await convertTests(bed);
await convertLoadTests(bed);
await interruptionTests(bed);
await pairTests(bed);
await hostileTests(bed);
pageTests(bed);
bed.assertSome();
