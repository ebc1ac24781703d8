// Figures of the thorough tests, for the table of `cargo xtask robustness`.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * Writes a row of the table. `what` names it, `points` counts the cases, `wrong` those after which something was not right, `lost` those after
 * which something stored was gone or damaged, `seconds` is how long they took.
 */
export async function writeFigure(repository, name, { what, points, wrong, lost, seconds }) {
  const folder = join(repository, "target/robustness");
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${name.replaceAll(/\W+/g, "-")}.json`);
  await writeFile(file, JSON.stringify({ what, points, wrong, lost, seconds: Math.round(seconds) }));
}
