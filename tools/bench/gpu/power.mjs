// The power that a GPU draws: from `nvidia-smi`, or from the files of Linux drivers (hwmon).

import { execFile, spawn } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Time between two samples, milliseconds. */
const INTERVAL_MS = 200;
const FIELDS = ["index", "name", "driver_version", "memory.total", "power.limit"];

/**
 * Returns what `nvidia-smi` reports of the GPU with the adapter's name, else of the first; null without such a GPU.
 *
 * @param {string | null} adapter
 * @returns {Promise<{ index: string, name: string, driver: string, memoryMebibytes: number | null, limitWatts: number | null } | null>}
 */
export async function nvidiaGpu(adapter) {
  const lines = await new Promise((resolve) => {
    const query = [`--query-gpu=${FIELDS.join(",")}`, "--format=csv,noheader,nounits"];
    execFile("nvidia-smi", query, { timeout: 10_000 }, (error, stdout) => resolve(error ? [] : stdout.trim().split("\n")));
  });
  const gpus = lines.map((line) => line.split(", ")).filter((fields) => fields.length === FIELDS.length);
  const [index, name, driver, memory, limit] = gpus.find((fields) => adapter?.includes(fields[1])) ?? gpus[0] ?? [];
  return index === undefined ? null : { index, name, driver, memoryMebibytes: number(memory), limitWatts: number(limit) };
}

/**
 * Returns a function that starts a measurement; null if the machine does not report the power. The measurement is ended by the function
 * that starting it returns.
 */
export async function powerMeter(nvidia, drm = "/sys/class/drm") {
  if (nvidia) return () => sampleNvidia(nvidia.index);
  const file = await hwmonFile(drm);
  return file && (() => sampleFile(file));
}

function sampleNvidia(index) {
  const samples = [];
  const args = ["-i", index, "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", String(INTERVAL_MS)];
  const child = spawn("nvidia-smi", args, { stdio: ["ignore", "pipe", "ignore"] });
  child.on("error", () => {});
  createInterface({ input: child.stdout }).on("line", (line) => samples.push(number(line)));
  return () => {
    child.kill();
    return summary(samples, "nvidia-smi");
  };
}

function sampleFile(file) {
  const samples = [];
  const sample = async () => samples.push(number(await readFile(file, "utf8").catch(() => ""), 1e-6));
  const timer = setInterval(sample, INTERVAL_MS);
  return () => {
    clearInterval(timer);
    return summary(samples, "hwmon");
  };
}

/** Returns the first file of a graphics card that holds its power in microwatts. */
async function hwmonFile(drm) {
  const list = (folder) => readdir(folder).catch(() => []);
  for (const card of (await list(drm)).filter((name) => /^card\d+$/.test(name)).sort()) {
    const folder = join(drm, card, "device/hwmon");
    for (const monitor of await list(folder)) {
      for (const name of ["power1_average", "power1_input"]) {
        const file = join(folder, monitor, name);
        if (number(await readFile(file, "utf8").catch(() => "")) !== null) return file;
      }
    }
  }
  return null;
}

function summary(samples, source) {
  const watts = samples.filter((value) => value !== null);
  if (watts.length === 0) return null;
  return { mean: watts.reduce((sum, value) => sum + value, 0) / watts.length, max: Math.max(...watts), samples: watts.length, source };
}

/** Returns a number that is written in a text; null for anything else, as in `[N/A]`. */
function number(text, unit = 1) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value * unit : null;
}
