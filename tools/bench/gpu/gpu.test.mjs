import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chooseBandwidth, PUBLISHED, publishedBandwidth } from "./bandwidth.mjs";
import { errorLine, runner } from "./commands.mjs";
import { nvidiaGpu, powerMeter } from "./power.mjs";
import { figure, markdown } from "./report.mjs";
import { deadlines, newEntry, NotRun, runStage, succeeded } from "./run.mjs";
import { FULL, STAGES } from "./stages.mjs";

const ROOT = new URL("../../../", import.meta.url);

async function scratch(context) {
  const folder = await mkdtemp(join(tmpdir(), "qwen-vl-gpu-"));
  context.after(() => rm(folder, { recursive: true }));
  return folder;
}

const stages = STAGES.map(newEntry);
Object.assign(stages[0], {
  status: "in part",
  reason: null,
  adapter: "NVIDIA H200",
  software: false,
  watts: { mean: 301.26, max: 699.9, samples: 40, source: "nvidia-smi" },
  rows: [
    { set: "plain", name: "decode: a | b", millis: 0.01234, gflopPerSecond: 2718.4, gigabytesPerSecond: 765.43, bandwidthPercent: 15.946 },
  ],
  leftOut: [{ what: "f16", reason: "adapter `NVIDIA H200` has no feature `shader-f16`" }],
});
Object.assign(stages[1], {
  status: "done",
  reason: null,
  adapter: "NVIDIA H200",
  software: false,
  rows: [
    {
      model: "Qwen3-VL-2B",
      set: "subgroups",
      gpuBytes: 1.75e9,
      decode: [
        {
          context: 512,
          tokensPerSecond: 250.4,
          gigabytesPerSecond: 285,
          bandwidthPercent: 5.9375,
          dispatches: 179,
          microsecondsPerDispatch: 22.31,
        },
      ],
      prompts: [{ tokens: 128, millis: 20.44, tokensPerSecond: 6262.2 }],
      pictureMillis: null,
    },
  ],
});
Object.assign(stages[2], {
  status: "done",
  reason: null,
  adapter: "llvmpipe",
  software: true,
  rows: [
    {
      model: "models/nano",
      loadMs: 937.9,
      gpuBytes: 4539536,
      encodeMs: 12.3,
      promptTokens: 74,
      prefillMs: 51.5,
      tokensPerSecond: 152.1,
      gigabytesPerSecond: 0.1045,
      bandwidthPercent: null,
      dispatches: 27,
      microsecondsPerDispatch: 243.5,
    },
  ],
});
Object.assign(stages[3], { status: "not run", reason: "wllama is not installed" });

test("the benchmark's page has the figures of the report", () => {
  const page = markdown({
    complete: false,
    dryRun: false,
    date: "2026-01-02T03:04:05.000Z",
    commit: "abc",
    minutes: 10,
    seconds: 61.5,
    environment: {
      adapter: "NVIDIA H200",
      driver: "555.1",
      backend: "vulkan",
      chosenKernels: "matvec of 64 lanes",
      emptyDispatch: 2.5,
      os: "Linux 6",
      cpu: "16 × CPU",
      node: "v20",
      nvidia: { name: "NVIDIA H200", driver: "555.1", limitWatts: 700 },
    },
    bandwidth: { gigabytesPerSecond: 4100, source: "copy", copy: 4100, published: 4800 },
    stages,
    commands: [
      { line: "qwenvl bench", seconds: 1.25, error: null },
      { line: "node x", seconds: 2, error: "ended with 1" },
    ],
  });
  assert.equal(
    page,
    `# Benchmark of a GPU

**Incomplete: the benchmark was still running, or was ended, when this was written.**

**The figures of "The package in Node, on Dawn" are of a software adapter (llvmpipe). They are not figures of a GPU.**

|  |  |
| --- | --- |
| adapter | NVIDIA H200 |
| driver | vulkan, 555.1 |
| nvidia-smi | NVIDIA H200, driver 555.1, limit 700 W |
| memory bandwidth | 4100 GB/s, measured by a copy of 64 MiB (published: 4800); percentages refer to it |
| an empty dispatch | 2.50 µs |
| kernels that a load chooses | matvec of 64 lanes |
| machine | Linux 6; 16 × CPU; Node v20 |
| commit | abc |
| time | 2026-01-02T03:04:05.000Z, 61.5 s of 600 s |

## Kernels

Adapter: NVIDIA H200. Power: mean 301 W, at most 700 W (nvidia-smi, 40 samples).

### \`plain\`

| kernel | ms | GFLOP/s | GB/s | % of bandwidth |
| --- | --- | --- | --- | --- |
| decode: a \\| b | 0.0123 | 2718 | 765 | 15.9 |

## Whole models

Adapter: NVIDIA H200. Power: unknown.

### Decoding

| model | kernels | context | tokens/s | GB/s | % of bandwidth | dispatches a token | µs a dispatch |
| --- | --- | --- | --- | --- | --- | --- | --- |
| Qwen3-VL-2B | \`subgroups\` | 512 | 250 | 285 | 5.94 | 179 | 22.3 |

### Prompts

| model | kernels | tokens | ms | tokens/s |
| --- | --- | --- | --- | --- |
| Qwen3-VL-2B | \`subgroups\` | 128 | 20.4 | 6262 |

### A picture of 448×448

| model | kernels | ms | GPU buffers, GB |
| --- | --- | --- | --- |
| Qwen3-VL-2B | \`subgroups\` | not measured | 1.75 |

## The package in Node, on Dawn

Adapter: llvmpipe. Power: unknown.

| model | load, ms | first picture, ms | prompt, tokens | first prompt, ms | tokens/s | GB/s | % of bandwidth | dispatches a token | µs a dispatch |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| models/nano | 938 | 12.3 | 74 | 51.5 | 152 | 0.104 | unknown | 27 | 244 |

## llama.cpp in a browser (wllama)

not run: wllama is not installed

## Left out

- Kernels, f16: adapter \`NVIDIA H200\` has no feature \`shader-f16\`

## Commands

In the root of the repository:

\`\`\`sh
qwenvl bench    # 1.3 s
node x    # 2.0 s; ended with 1
\`\`\`
`,
  );
  assert.deepEqual([12345.6, 100, 9.999, 0.5, 0].map(figure), ["12346", "100", "10.00", "0.500", "0.00"]);
});

test("the benchmark's bandwidth is the given one, else that of a copy, else the published one", async () => {
  assert.deepEqual(chooseBandwidth({ given: 900, copy: 800, published: 1008 }), {
    gigabytesPerSecond: 900,
    source: "given",
    copy: 800,
    published: 1008,
  });
  assert.equal(chooseBandwidth({ copy: 800, published: 1008 }).source, "copy");
  assert.equal(chooseBandwidth({ published: 1008 }).gigabytesPerSecond, 1008);
  assert.deepEqual(chooseBandwidth({}), { gigabytesPerSecond: null, source: "unknown", copy: null, published: null });

  assert.equal(publishedBandwidth("NVIDIA GeForce RTX 4090"), 1008);
  assert.equal(publishedBandwidth("AMD Radeon RX 7900 XTX (RADV NAVI31)"), 960);
  assert.equal(publishedBandwidth("Intel(R) Iris(R) Xe Graphics (TGL GT2)"), 68);
  for (const other of ["NVIDIA GeForce RTX 3060 Ti", "NVIDIA L40S", "AMD Radeon RX 6800 XT", "llvmpipe (LLVM 15.0.6, 256 bits)"]) {
    assert.equal(publishedBandwidth(other), null, other);
  }

  const estimates = await readFile(new URL("docs/estimates.md", ROOT), "utf8");
  const rows = [...estimates.matchAll(/^\| ([^|]+?) \| [\d.]+ \| (\d+) \|$/gm)];
  assert.equal(rows.length, 6);
  for (const [, name, bandwidth] of rows) assert.equal(PUBLISHED[name.replace(/, .*/, "")], Number(bandwidth), name);
});

test("a stage of the benchmark gets its share and the time that was left, and leaves out what does not fit", async () => {
  assert.deepEqual(deadlines([{ share: 1 }, { share: 3 }], 100), [25, 100]);
  const run = async (body, time = { seconds: 60 }) => {
    const entry = newEntry({ name: "a", title: "A" });
    const context = { ...time, run: async () => "", signal: new AbortController().signal, save: async () => {}, bandwidth: 200 };
    await runStage({ run: body }, entry, context);
    return entry;
  };
  const done = await run(async ({ attempt, add, bandwidth }) => attempt("x", "kind", async () => add(bandwidth(50))));
  assert.deepEqual([done.status, done.reason, done.rows], ["done", null, [{ gigabytesPerSecond: 50, bandwidthPercent: 25 }]]);

  const part = await run(async ({ attempt, add, adapter }) => {
    adapter("Google SwiftShader");
    await attempt("x", "kind", async () => add(1));
    await attempt("y", "kind", () => Promise.reject(new Error("broken")));
  });
  assert.deepEqual([part.status, part.software, part.leftOut], ["in part", true, [{ what: "y", reason: "broken" }]]);

  const failed = await run(async ({ attempt }) => attempt("y", "kind", () => Promise.reject(new Error("broken"))));
  assert.deepEqual([failed.status, failed.reason], ["failed", "broken"]);
  const absent = await run(() => Promise.reject(new NotRun("nothing installed")));
  assert.deepEqual([absent.status, absent.reason], ["not run", "nothing installed"]);
  const late = await run(() => assert.fail("it has no time"), { seconds: 1 });
  assert.deepEqual([late.status, late.reason], ["not run", "the time was used up"]);

  const skipped = () => assert.fail("it does not fit");
  let clock = 0;
  const spend = (seconds) => async () => void (clock += seconds * 1000);
  const short = await run(
    async ({ attempt }) => {
      await attempt("a", "slow", spend(16));
      await attempt("b", "slow", skipped);
      await attempt("c", "quick", spend(1));
      await attempt("d", "quick", spend(11.5));
      await attempt("e", "quick", skipped);
    },
    { seconds: 30, now: () => clock },
  );
  assert.deepEqual(short.leftOut, [
    { what: "b", reason: "14.0 s were left, and the last part of this kind took 16.0 s" },
    { what: "e", reason: "the time was used up" },
  ]);
  assert.equal(short.seconds, 28.5);

  assert.equal(succeeded([done, absent], []), true);
  assert.equal(succeeded([failed, absent], []), false);
  assert.equal(succeeded([done, { ...absent, name: "b" }], ["b"]), false);
});

test("a program of the benchmark that fails, hangs or is missing is reported with its command", async () => {
  const commands = [];
  const signal = new AbortController().signal;
  const run = runner({ root: "/", signal, commands });
  const node = (script, seconds = 20) => run(process.execPath, ["-e", script], seconds);
  assert.equal(await node("console.log('a')"), "a\n");
  await assert.rejects(node("console.error('error: first\\nerror: second\\nat x'); process.exit(3)"), {
    message: "ended with 3: error: second",
  });
  await assert.rejects(node("setTimeout(() => {}, 60_000)", 0.2), { message: "did not end within the 0.2 s that were left" });
  await assert.rejects(run("/nowhere/qwenvl", [], 1), { message: "/nowhere/qwenvl does not exist" });
  assert.deepEqual(
    commands.map(({ line, error }) => [line, error]),
    [
      ["node -e 'console.log('\\''a'\\'')'", null],
      ["node -e 'console.error('\\''error: first\\nerror: second\\nat x'\\''); process.exit(3)'", "ended with 3: error: second"],
      ["node -e 'setTimeout(() => {}, 60_000)'", "did not end within the 0.2 s that were left"],
      ["nowhere/qwenvl", "/nowhere/qwenvl does not exist"],
    ],
  );
  assert.equal(
    errorLine("Error [ERR_X]: Cannot find package 'webgpu'\n    at f\n\nNode.js v20\n"),
    "Error [ERR_X]: Cannot find package 'webgpu'",
  );
});

test("the power comes from nvidia-smi, from hwmon, or is unknown", async (context) => {
  const folder = await scratch(context);
  const monitor = join(folder, "drm/card1/device/hwmon/hwmon3");
  await mkdir(monitor, { recursive: true });
  assert.equal(await powerMeter(null, join(folder, "drm")), null);
  await writeFile(join(monitor, "power1_average"), "150000000\n");
  const stop = (await powerMeter(null, join(folder, "drm")))();
  await sleep(500);
  const { mean, max, source, samples } = stop();
  assert.deepEqual([mean, max, source], [150, 150, "hwmon"]);
  assert.ok(samples > 0);

  const smi = join(folder, "nvidia-smi");
  await writeFile(
    smi,
    `#!/bin/sh
case "$*" in
  *name*) printf '0, NVIDIA T4, 555.1, 15360, 70.00\\n1, NVIDIA H200, 555.1, 143771, [N/A]\\n' ;;
  *"-i 1"*) printf '100.5\\n[N/A]\\n300.5\\n'; exec sleep 60 ;;
esac
`,
  );
  await chmod(smi, 0o755);
  const path = process.env.PATH;
  process.env.PATH = `${folder}:${path}`;
  try {
    const gpu = await nvidiaGpu("NVIDIA H200");
    assert.deepEqual(gpu, { index: "1", name: "NVIDIA H200", driver: "555.1", memoryMebibytes: 143771, limitWatts: null });
    assert.equal((await nvidiaGpu("another")).name, "NVIDIA T4");
    const stopSmi = (await powerMeter(gpu))();
    await sleep(500);
    assert.deepEqual(stopSmi(), { mean: 200.5, max: 300.5, samples: 2, source: "nvidia-smi" });
  } finally {
    process.env.PATH = path;
  }
});

test("the models of the benchmark have configurations, one of each generation", async () => {
  const read = async ([file]) => JSON.parse(await readFile(new URL(file, ROOT), "utf8"));
  const configs = await Promise.all(Object.values(FULL.models).map(read));
  const generations = new Set(configs.map(({ model_type = "qwen" }) => model_type));
  assert.deepEqual([...generations].sort(), ["qwen", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"]);
  assert.ok(FULL.models[FULL.rival]);
});
