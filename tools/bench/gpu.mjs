// Measures all that runs on a GPU, in ten minutes at most: kernels, whole models of the published sizes, the package in Node on Dawn, and
// llama.cpp in a browser. Writes gpu.json and gpu.md, which are complete up to the last command if the benchmark is ended early.
//   cargo build --release -p qwen-vl-cli && cargo xtask test --only package && (cd tools/bench && npm install)
//   node tools/bench/gpu.mjs

import { execFileSync } from "node:child_process";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { cpus, release, type } from "node:os";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chooseBandwidth, publishedBandwidth } from "./gpu/bandwidth.mjs";
import { runner } from "./gpu/commands.mjs";
import { nvidiaGpu, powerMeter } from "./gpu/power.mjs";
import { markdown } from "./gpu/report.mjs";
import { deadlines, newEntry, runStage, succeeded } from "./gpu/run.mjs";
import { DRY, FULL, probeAdapter, STAGES } from "./gpu/stages.mjs";

/** Version of the layout of gpu.json. */
const VERSION = 1;
const NAMES = STAGES.map(({ name }) => name);
const HELP = `usage: node tools/bench/gpu.mjs [options]

Measures all that runs on a GPU and writes gpu.json and gpu.md.

  --out FOLDER        folder of the results [default: target/gpu-bench]
  --minutes N         time for everything; what does not fit is left out, and the report says so [default: 10]
  --only STAGE        run this stage alone; may be repeated: ${NAMES.join(", ")}
  --bandwidth GB/S    memory bandwidth that percentages refer to [default: that of a copy]
  --qwenvl PROGRAM    the command line [default: target/release/qwenvl]
  --browser PROGRAM   Chromium or Chrome, for wllama [default: chromium]
  --model FOLDER      a web checkpoint for the package [default: models/nano], and to compare with wllama in one page
  --dry-run           small sizes, for software adapters
  --help              print this

Fails if it is ended early, if nothing was measured, or nothing in a stage that --only names.`;

const root = fileURLToPath(new URL("../..", import.meta.url));
/** Cargo's build folder, relative to the root if it lies there. */
const target = relative(root, resolve(root, process.env.CARGO_TARGET_DIR ?? "target"));
const options = readOptions();
const ended = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => ended.abort());

const began = performance.now();
const report = {
  version: VERSION,
  complete: false,
  date: new Date().toISOString(),
  commit: commit(),
  dryRun: options.dryRun,
  minutes: options.minutes,
  seconds: 0,
  environment: {},
  bandwidth: {},
  stages: STAGES.map(newEntry),
  commands: [],
};
await mkdir(options.out, { recursive: true });
try {
  await measure();
  report.complete = true;
} catch (error) {
  if (!ended.signal.aborted) throw error;
  console.error("ended early");
}
await save();
console.log(`${join(options.out, "gpu.md")}`);
for (const { title, status, reason, rows } of report.stages) {
  console.log(`${title.padEnd(32)} ${status}, ${rows.length} rows${reason ? `: ${reason}` : ""}`);
}
process.exitCode = report.complete && succeeded(report.stages, options.only) ? 0 : 1;

async function measure() {
  const run = runner({ root, signal: ended.signal, commands: report.commands });
  const passed = () => (performance.now() - began) / 1000;
  const whole = options.minutes * 60;
  const probed = await probeAdapter({ ...options, run: (program, args) => run(program, args, whole - passed()) });
  ended.signal.throwIfAborted();
  const nvidia = await nvidiaGpu(probed.adapter);
  const [cpu] = cpus();
  const system = { os: `${type()} ${release()}`, cpu: `${cpus().length} × ${cpu?.model ?? "unknown"}`, node: process.version };
  const { copy, ...environment } = { ...probed, nvidia, ...system };
  report.environment = environment;
  const published = environment.adapter && publishedBandwidth(environment.adapter);
  report.bandwidth = chooseBandwidth({ given: options.bandwidth, copy, published });
  await save();

  const meter = await powerMeter(nvidia);
  const chosen = STAGES.filter(({ name }) => options.only.length === 0 || options.only.includes(name));
  const before = passed();
  const ends = deadlines(chosen, Math.max(0, whole - before)).map((end) => before + end);
  for (const [at, stage] of STAGES.entries()) {
    const entry = report.stages[at];
    if (!chosen.includes(stage)) {
      entry.reason = "not asked for";
      continue;
    }
    console.error(`${entry.title} …`);
    const stopMeter = meter?.();
    try {
      await runStage(stage, entry, {
        seconds: ends[chosen.indexOf(stage)] - passed(),
        run,
        signal: ended.signal,
        save,
        bandwidth: report.bandwidth.gigabytesPerSecond,
        options,
        sizes: options.dryRun ? DRY : FULL,
        environment,
      });
    } finally {
      const watts = stopMeter?.() ?? null;
      // A GPU that did not run the stage has its own reading.
      if (!entry.software && entry.rows.length > 0) entry.watts = watts;
    }
    await save();
  }
}

/** Writes both files, each at once. */
async function save() {
  report.seconds = (performance.now() - began) / 1000;
  const files = { "gpu.json": `${JSON.stringify(report, null, 1)}\n`, "gpu.md": markdown(report) };
  for (const [name, text] of Object.entries(files)) {
    const path = join(options.out, name);
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  }
}

/** Returns the commit of the repository, with a mark if files differ from it; null outside of git. */
function commit() {
  const git = (...args) => execFileSync("git", args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  try {
    return `${git("rev-parse", "HEAD")}${git("status", "--porcelain", "--untracked-files=no") ? ", changed" : ""}`;
  } catch {
    return null;
  }
}

function readOptions() {
  const text = { type: "string" };
  const flag = { type: "boolean", default: false };
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        out: text,
        minutes: { ...text, default: "10" },
        only: { ...text, multiple: true, default: [] },
        bandwidth: text,
        qwenvl: text,
        browser: { ...text, default: "chromium" },
        model: text,
        "dry-run": flag,
        help: flag,
      },
    }));
  } catch (error) {
    refuse(error.message);
  }
  if (values.help) {
    console.log(HELP);
    process.exit();
  }
  const unknown = values.only.find((name) => !NAMES.includes(name));
  if (unknown !== undefined) refuse(`--only is \`${unknown}\`, expected one of ${NAMES.join(", ")}`);
  return {
    root,
    // Paths that the user names are relative to the current folder; commands run in the root.
    out: values.out === undefined ? resolve(root, target, "gpu-bench") : resolve(values.out),
    qwenvl: values.qwenvl === undefined ? resolve(root, target, "release/qwenvl") : resolve(values.qwenvl),
    model: values.model && resolve(values.model),
    package: join(target, "package/package"),
    browser: values.browser,
    only: values.only,
    minutes: positive("minutes", values.minutes),
    bandwidth: values.bandwidth === undefined ? null : positive("bandwidth", values.bandwidth),
    dryRun: values["dry-run"],
  };
}

function positive(name, text) {
  const value = Number(text);
  if (!(value > 0 && Number.isFinite(value))) refuse(`--${name} is \`${text}\`, expected a positive number`);
  return value;
}

function refuse(message) {
  console.error(`error: ${message}; --help lists the options`);
  process.exit(2);
}
