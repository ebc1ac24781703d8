// The whole benchmark on a software adapter, with small sizes. `cargo xtask test --only bench` sets the environment:
//   QWEN_VL_PROGRAM  the command line `qwenvl`
//   VK_DRIVER_FILES  description of a Vulkan driver that Dawn accepts, too

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { figure } from "./report.mjs";
import { DRY } from "./stages.mjs";

const SCRIPT = fileURLToPath(new URL("../gpu.mjs", import.meta.url));
const qwenvl = process.env.QWEN_VL_PROGRAM;
assert.ok(qwenvl, "QWEN_VL_PROGRAM is not set: run `cargo xtask test --only bench`");

/** Starts the benchmark with an empty folder for its results. */
async function start(context, ...args) {
  const out = await mkdtemp(join(tmpdir(), "qwen-vl-gpu-"));
  context.after(() => rm(out, { recursive: true }));
  const child = spawn(process.execPath, [SCRIPT, "--dry-run", "--minutes", "600", "--out", out, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
  const status = new Promise((resolve) => child.once("close", resolve));
  const results = async () => ({
    report: JSON.parse(await readFile(join(out, "gpu.json"), "utf8")),
    page: await readFile(join(out, "gpu.md"), "utf8"),
  });
  return { child, out, results, end: async () => ({ status: await status, output }) };
}

/** Calls `check` with every number in a value, and its place. */
function forEachNumber(value, check, place = "") {
  if (typeof value === "number") check(value, place);
  else if (value !== null && typeof value === "object") {
    for (const [name, inner] of Object.entries(value)) forEachNumber(inner, check, `${place}.${name}`);
  }
}

test("a dry run of the benchmark measures every stage or says why not", async (context) => {
  // Developers may have installed wllama. Without a browser its stage ends in the same way on every machine.
  const run = await start(context, "--qwenvl", qwenvl, "--browser", "/nowhere/chromium");
  const { status, output } = await run.end();
  assert.equal(status, 0, output);
  assert.deepEqual((await readdir(run.out)).filter((name) => name.startsWith("gpu.")).sort(), ["gpu.json", "gpu.md"]);
  const { report, page } = await run.results();
  const { environment, bandwidth, stages } = report;
  assert.deepEqual([report.version, report.complete, report.dryRun, environment.software], [1, true, true, true]);
  assert.match(environment.adapter, /llvmpipe/);
  assert.match(page, /^\*\*The figures of .* are of a software adapter \(llvmpipe/m);
  assert.match(report.commit, /^[0-9a-f]{40}/);
  assert.equal(bandwidth.source, "copy");
  assert.ok(page.includes(`${figure(bandwidth.gigabytesPerSecond)} GB/s, measured by a copy`));

  const [kernels, models, inDawn, wllama] = stages;
  const sets = environment.sets.filter(({ missing }) => !missing).map(({ name }) => name);
  for (const set of ["cpu", "plain", "packed"]) assert.ok(sets.includes(set), set);
  for (const { name, missing } of environment.sets) {
    assert.equal(kernels.rows.filter(({ set }) => set === name).length, missing ? 0 : DRY.kernels.length, name);
    if (missing) assert.match(missing, /feature/);
  }
  const expected = sets.slice(0, DRY.modelSets).flatMap((set) => Object.keys(DRY.models).map((model) => `${model} ${set}`));
  assert.deepEqual(
    models.rows.map(({ model, set }) => `${model} ${set}`),
    expected,
  );
  assert.deepEqual([inDawn.status, inDawn.reason, inDawn.rows.length], ["done", null, 1]);
  assert.deepEqual([wllama.rows, wllama.watts], [[], null]);
  assert.match(wllama.reason, /wllama is not installed|\/nowhere\/chromium/);
  assert.ok(page.includes(`## ${wllama.title}\n\n${wllama.status}: ${wllama.reason}\n`));
  for (const stage of stages)
    forEachNumber(stage.rows, (value, place) => assert.ok(value > 0 && Number.isFinite(value), `${place}: ${value}`));

  const line = (...cells) => assert.ok(page.includes(`| ${cells.join(" | ")} |`), cells.join(" | "));
  for (const { name, millis, gflopPerSecond, gigabytesPerSecond, bandwidthPercent } of kernels.rows) {
    line(name, ...[millis, gflopPerSecond, gigabytesPerSecond, bandwidthPercent].map(figure));
    assert.ok(Math.abs(bandwidthPercent - (gigabytesPerSecond * 100) / bandwidth.gigabytesPerSecond) < 1e-6);
  }
  for (const { model, set, decode, prompts, pictureMillis, gpuBytes } of models.rows) {
    assert.deepEqual(
      [decode.map(({ context }) => context).join(), prompts.map(({ tokens }) => tokens).join()],
      [DRY.lengths.contexts, DRY.lengths.prompts],
    );
    for (const at of decode) {
      const { tokensPerSecond, gigabytesPerSecond, bandwidthPercent, dispatches, microsecondsPerDispatch } = at;
      const rates = [tokensPerSecond, gigabytesPerSecond, bandwidthPercent].map(figure);
      line(model, `\`${set}\``, at.context, ...rates, dispatches, figure(microsecondsPerDispatch));
      assert.ok(Math.abs(tokensPerSecond * dispatches * microsecondsPerDispatch - 1e6) < 1);
    }
    for (const { tokens, millis, tokensPerSecond } of prompts) line(model, `\`${set}\``, tokens, figure(millis), figure(tokensPerSecond));
    line(model, `\`${set}\``, pictureMillis === null ? "not measured" : figure(pictureMillis), figure(gpuBytes / 1e9));
  }
  const [{ loadMs, tokensPerSecond }] = inDawn.rows;
  assert.match(page, new RegExp(`^\\| models/nano \\| ${figure(loadMs)} .*\\| ${figure(tokensPerSecond)} \\|`, "m"));
  assert.ok(report.commands.some(({ line }) => line.includes("--geometry tests/fixtures/family/checkpoints/q3-a/config.json")));
});

test("a benchmark without a program fails and says what is missing", async (context) => {
  const missing = await start(context, "--qwenvl", "/nowhere/qwenvl", "--only", "kernels", "--only", "models");
  const { status, output } = await missing.end();
  assert.equal(status, 1, output);
  const { report, page } = await missing.results();
  const reason = "/nowhere/qwenvl does not exist: build it with `cargo build --release -p qwen-vl-cli`, or name another with --qwenvl";
  const asked = ["failed", reason];
  const others = ["not run", "not asked for"];
  assert.deepEqual(
    report.stages.map((stage) => [stage.status, stage.reason]),
    [asked, asked, others, others],
  );
  assert.deepEqual([report.complete, report.environment.adapter, report.bandwidth.source], [true, null, "unknown"]);
  assert.ok(page.includes(`## Kernels\n\nfailed: ${reason}\n`));

  const other = await start(context, "--qwenvl", process.execPath, "--only", "kernels");
  assert.equal((await other.end()).status, 1);
  const { report: failed } = await other.results();
  assert.equal(failed.stages[0].status, "failed");
  assert.match(failed.stages[0].reason, /^ended with /);
});

test("a benchmark with wrong options is refused", async (context) => {
  for (const [args, message] of [
    [["--only", "kernel"], "--only is `kernel`, expected one of kernels, models, package, wllama"],
    [["--minutes", "0"], "--minutes is `0`, expected a positive number"],
    [["--bandwidth", "fast"], "--bandwidth is `fast`, expected a positive number"],
    [["--folder", "x"], "Unknown option '--folder'"],
  ]) {
    const { status, output } = await (await start(context, ...args)).end();
    assert.equal(status, 2);
    assert.ok(output.startsWith(`error: ${message}`), output);
  }
});

test("a benchmark that is ended leaves what it had", async (context) => {
  const run = await start(context, "--qwenvl", qwenvl, "--bandwidth", "100");
  const measured = async () => (await run.results().catch(() => undefined))?.report.stages[0].rows.length > 0;
  while (!(await measured())) {
    assert.equal(run.child.exitCode, null, "it ended too early");
    await sleep(100);
  }
  run.child.kill("SIGTERM");
  const { status, output } = await run.end();
  assert.equal(status, 1, output);
  const { report, page } = await run.results();
  assert.deepEqual([report.complete, report.bandwidth.source, report.bandwidth.gigabytesPerSecond], [false, "given", 100]);
  assert.match(page, /^\*\*Incomplete/m);
  assert.ok(page.includes(`| ${report.stages[0].rows[0].name} |`));
  assert.equal(report.stages.at(-1).reason, "not yet");
});
