/** Keeps processes apart that convert into the same folder. */

import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

/**
 * Takes the lock of a folder. Each process writes its own file next to the folder before it looks for those of others: of two
 * that come at the same time at least one fails. The file of a process that was killed does not count.
 *
 * @returns releases the lock
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = resolve(folder);
  const [parent, prefix] = [dirname(path), `${basename(path)}.lock-`];
  const lockOf = (pid: number) => join(parent, `${prefix}${pid}`);
  await mkdir(parent, { recursive: true });
  await writeFile(lockOf(process.pid), await startOf(process.pid));
  const release = () => rm(lockOf(process.pid), { force: true });
  try {
    for (const name of await readdir(parent)) {
      const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : NaN;
      if (!Number.isInteger(pid) || pid === process.pid) continue;
      if (await isRunning(pid, await readFile(lockOf(pid), "utf8").catch(() => ""))) {
        throw new Error(`another process (pid ${pid}) is converting into ${path}: wait until it ends, or choose another output folder`);
      }
      await rm(lockOf(pid), { force: true });
    }
  } catch (error) {
    await release();
    throw error;
  }
  return release;
}

/** True if a process runs that began at this time: numbers of processes are used again. */
async function isRunning(pid: number, start: string): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // It runs, and is another user's.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const found = await startOf(pid);
  return start === "" || found === "" || start === found;
}

/** Returns the time at which a process began, in ticks since the system did; nothing where the system does not report it. */
async function startOf(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The name of the program, in parentheses, can have spaces. The time is the 22nd value, and the 20th after the name.
  return status.slice(status.lastIndexOf(")") + 2).split(" ")[19] ?? "";
}
