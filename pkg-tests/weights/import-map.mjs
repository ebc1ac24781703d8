import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** An import map for pages that know the package, served under `/package/`, by its name: from the `exports` of its package.json. */
export async function importMap(packageFolder) {
  const { exports } = JSON.parse(await readFile(join(packageFolder, "package.json"), "utf8"));
  const imports = {};
  for (const [path, entry] of Object.entries(exports)) {
    const file = typeof entry === "string" ? entry : entry.default;
    imports[path.replace(".", "qwen-vl-web")] = file.replace(".", "/package");
  }
  return JSON.stringify({ imports });
}
