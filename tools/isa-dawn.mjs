// Compiles WGSL as Chromium does, on Dawn. `cargo xtask isa` runs it on its own Vulkan driver.
//   node tools/isa-dawn.mjs FOLDER OUT       FOLDER: NAME.wgsl of every kernel; OUT: each one's name is appended before

import { appendFileSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { create } from "webgpu";

const [folder, out] = process.argv.slice(2);
if (!out) throw new Error("usage: isa-dawn.mjs FOLDER OUT");
// Dawn ends if it is collected while a device is in use.
const gpu = create([]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error("Dawn takes no adapter");
const requiredFeatures = ["shader-f16", "subgroups"].filter((feature) => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures });
const files = readdirSync(folder).sort();
for (const file of files) {
  const source = readFileSync(join(folder, file), "utf8");
  // Natively naga supports subgroups, but not the directive.
  const code = /\bsubgroup[A-Z]/.test(source) ? `enable subgroups;\n${source}` : source;
  const label = file.replace(/\.wgsl$/, "");
  if (/^enable f16;/m.test(code) && !adapter.features.has("shader-f16")) {
    console.log(`not compiled, because Dawn has no shader-f16 on this driver: ${label}`);
    continue;
  }
  appendFileSync(out, `kernel ${label}\n`);
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ label, code });
  device.createComputePipeline({ label, layout: "auto", compute: { module, entryPoint: "main" } });
  const error = await device.popErrorScope();
  if (error) throw new Error(`could not compile \`${label}\`: ${error.message}`);
}
// Dawn would wait for work that the driver never does.
process.exit(0);
