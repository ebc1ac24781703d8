// Figures of the thorough tests, for the table of `cargo xtask robustness`.

import { execFileSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The sources that are tested: of the time at which the tests begin, because they take hours. */
const commit = commitOf(fileURLToPath(new URL("..", import.meta.url)));

/**
 * Writes a row of the table. `what` names it, `points` counts the cases, `wrong` those after which something was not right, `lost` those after
 * which something stored was gone or damaged, `seconds` is how long they took.
 */
export async function writeFigure(repository, name, { what, points, wrong, lost, seconds }) {
  const folder = join(repository, "target/robustness");
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${name.replaceAll(/\W+/g, "-")}.json`);
  const date = new Date().toISOString().slice(0, 10);
  await writeFile(file, JSON.stringify({ what, points, wrong, lost, seconds: Math.round(seconds), commit, date }));
}

/** Short hash of a repository's commit, with `+` if files differ from it; `undefined` without Git. */
function commitOf(repository) {
  const git = (...args) => execFileSync("git", args, { cwd: repository, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  try {
    return git("rev-parse", "--short", "HEAD") + (git("status", "--porcelain") ? "+" : "");
  } catch {
    return undefined;
  }
}
