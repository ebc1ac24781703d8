// The package in Node, on Dawn: the golden cases. `cargo xtask test --only dawn` sets the environment:
//   QWEN_VL_CHECKPOINTS  web checkpoints and golden.json
//   VK_DRIVER_FILES      description of a Vulkan driver that Dawn accepts
//   QWEN_VL_TEST         optional: run only the tests whose name holds this text

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before } from "node:test";
import { Bed } from "../bed.mjs";
import { serve } from "../server.mjs";
import { familyTests } from "../suites/family.mjs";
import { goldenTests } from "../suites/golden.mjs";
import { adapterInfo, becomePage } from "./page.mjs";

const checkpoints = process.env.QWEN_VL_CHECKPOINTS;
assert.ok(checkpoints, "QWEN_VL_CHECKPOINTS is not set: run `cargo xtask test --only dawn`");
const { sets, families, missing } = JSON.parse(await readFile(join(checkpoints, "golden.json"), "utf8"));
const server = await serve({
  "/checkpoints/": checkpoints,
  ...Object.fromEntries([...sets, ...families].map((set) => [`/golden/${set.name}/`, set.root])),
});
const features = ["subgroups", "shader-f16"];
const loadOptions = { worker: false, cache: "none" };
const bed = new Bed({ name: "dawn", sets, families, missingSets: missing, features, loadOptions, origin: server.origin });

before(async () => {
  const info = await adapterInfo();
  assert.ok(info, "Dawn accepts none of the Vulkan drivers");
  console.log(`${info.description}, ${info.architecture}`);
  const page = becomePage(server.origin);
  // One process is every page: closing one frees its model.
  const close = () => page.evaluate(() => window.model?.dispose().then(() => (window.model = undefined)));
  bed.openPage = async () => ({ page: { ...page, close }, problems: [] });
});
after(async () => {
  await bed.close();
  server.close();
});

await goldenTests(bed);
await familyTests(bed);
bed.assertSome();
