// The package in Node, on Dawn: the golden cases. `cargo xtask test --only dawn` sets the environment:
//   QWEN_VL_CHECKPOINTS  web checkpoints and golden.json
//   VK_DRIVER_FILES      description of a Vulkan driver that Dawn takes

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { goldenTests } from "../suites/golden.mjs";
import { serve } from "../server.mjs";
import { adapterInfo, becomePage } from "./page.mjs";

const checkpoints = process.env.QWEN_VL_CHECKPOINTS;
assert.ok(checkpoints, "QWEN_VL_CHECKPOINTS is not set: run `cargo xtask test --only dawn`");
const sets = JSON.parse(await readFile(join(checkpoints, "golden.json"), "utf8"));
const server = await serve({ "/checkpoints/": checkpoints, ...Object.fromEntries(sets.map((set) => [`/golden/${set.name}/`, set.root])) });
const page = becomePage(server.origin);
after(() => server.close());

test("the package in Node", async (context) => {
  const info = await adapterInfo();
  assert.ok(info, "Dawn takes none of the Vulkan drivers");
  console.log(`${info.description}, ${info.architecture}`);
  const bed = { name: "dawn", sets, features: ["subgroups", "shader-f16"], loadOptions: { worker: false, cache: "none" } };
  await goldenTests(context, { ...bed, open: (run) => run(page) });
  await window.model.dispose();
});
