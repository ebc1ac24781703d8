// The stages of the benchmark. Each is independent of the others and adds rows to the report; `stage` is explained in run.mjs.

import { access, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { NotRun } from "./run.mjs";

/** Kernel sets, the most likely choice of a GPU first. */
const GPU_SETS = ["subgroups", "plain", "f16", "packed"];
/** A case that does not exist: with it, `qwenvl bench` creates the device and runs nothing. */
const NO_CASE = "no case";
const FACTS = "tests/fixtures/family/facts";

/** Sizes of the measurements on a GPU. */
export const FULL = {
  /** Parts of the names of the kernels: one command each, the most important first. */
  kernels: ["decode", "prefill", "vision"],
  /** Configurations of models, with more options of `qwenvl bench`. */
  models: {
    "Qwen-VL-Chat (2023)": ["crates/isa/models/Qwen-VL-Chat.config.json"],
    "Qwen3-VL-2B": [`${FACTS}/Qwen3-VL-2B-Instruct.config.json`],
    "Qwen2.5-VL-3B": [`${FACTS}/Qwen2.5-VL-3B-Instruct.config.json`],
    "Qwen2-VL-2B": [`${FACTS}/Qwen2-VL-2B-Instruct.config.json`],
    "Qwen3-VL-4B": [`${FACTS}/Qwen3-VL-4B-Instruct.config.json`],
  },
  /** Number of kernel sets that run whole models. */
  modelSets: GPU_SETS.length,
  lengths: { prompts: "128,320,1024", contexts: "512,2048", "decode-tokens": 32, runs: 3 },
  image: "models/sample/images/00006.png",
  /** The model that runs in llama.cpp, too. */
  rival: "Qwen3-VL-2B",
  answer: 64,
  rounds: 3,
};

/** Sizes in a dry run: small enough for a software adapter. */
export const DRY = {
  kernels: ["decode: 4096 → 4096"],
  models: {
    "mini-a (2023)": ["tests/fixtures/checkpoints/mini-a/config.json"],
    "q3-a (Qwen3-VL)": ["tests/fixtures/family/checkpoints/q3-a/config.json", "--no-picture"],
  },
  modelSets: 2,
  lengths: { prompts: "16", contexts: "32,64", "decode-tokens": 4, runs: 3 },
  image: null,
  rival: "mini-a (2023)",
  answer: 4,
  rounds: 1,
};

/** Length of the prompt that llama.cpp gets, tokens, as in wllama.mjs. */
const RIVAL_PROMPT = 128;

/** The stages in the order of their value, with their parts of the time and the function that runs them. */
export const STAGES = [
  { name: "kernels", title: "Kernels", share: 0.25, run: kernels },
  { name: "models", title: "Whole models", share: 0.5, run: models },
  { name: "package", title: "The package in Node, on Dawn", share: 0.1, run: packageInDawn },
  { name: "wllama", title: "llama.cpp in a browser (wllama)", share: 0.15, run: wllama },
];

/**
 * Finds the adapter, the kernel sets that it runs, and the speed of a copy.
 *
 * @returns {Promise<object>} the part of the report's `environment` that `qwenvl` knows; `error` is the reason why it knows nothing
 */
export async function probeAdapter({ qwenvl, run, dryRun }) {
  const bench = async (...args) => JSON.parse(await run(qwenvl, ["bench", "--json", ...args]));
  const found = {
    adapter: null,
    driver: null,
    backend: null,
    software: null,
    chosenKernels: null,
    copy: null,
    emptyDispatch: null,
    sets: [],
  };
  try {
    const tiny = [
      "--geometry",
      ...DRY.models["mini-a (2023)"],
      "--no-picture",
      "--prompts",
      "8",
      "--contexts",
      "16",
      "--decode-tokens",
      "1",
    ];
    const { adapter, driver, backend, device_type, kernels, report } = await bench(...tiny);
    Object.assign(found, { adapter, driver, backend, software: device_type === "Cpu", chosenKernels: kernels });
    found.copy = report.limits.copy_gigabytes_per_second;
    found.emptyDispatch = report.limits.microseconds_per_dispatch;
  } catch (error) {
    const advice = "build it with `cargo build --release -p qwen-vl-cli`, or name another with --qwenvl";
    return { ...found, error: /does not exist/.test(error.message) ? `${error.message}: ${advice}` : error.message };
  }
  for (const name of found.software || dryRun ? ["cpu", ...GPU_SETS] : GPU_SETS) {
    const missing = await bench("--kernels", name, "--only", NO_CASE).then(
      () => null,
      (error) => error.message,
    );
    found.sets.push({ name, missing });
  }
  return found;
}

async function kernels(stage) {
  stage.adapter(stage.environment.adapter, stage.environment.software);
  const sets = usableSets(stage);
  for (const only of stage.sizes.kernels) {
    for (const set of sets) {
      await stage.attempt(`${set}: ${only}`, only, async () => {
        const { cases } = JSON.parse(await stage.run(stage.options.qwenvl, ["bench", "--json", "--kernels", set, "--only", only]));
        for (const { name, millis, gflop_per_second, gigabytes_per_second } of cases) {
          const rates = { gflopPerSecond: gflop_per_second, ...stage.bandwidth(gigabytes_per_second) };
          stage.add({ set, name, millis, ...rates });
        }
      });
    }
  }
}

async function models(stage) {
  stage.adapter(stage.environment.adapter, stage.environment.software);
  const lengths = Object.entries(stage.sizes.lengths).flatMap(([name, value]) => [`--${name}`, String(value)]);
  for (const set of usableSets(stage).slice(0, stage.sizes.modelSets)) {
    for (const [model, config] of Object.entries(stage.sizes.models)) {
      await stage.attempt(`${model}, ${set}`, model, async () => {
        const args = ["bench", "--json", "--kernels", set, "--kv", "f16", "--geometry", ...config, ...lengths];
        const { report, decode_dispatches, allocated } = JSON.parse(await stage.run(stage.options.qwenvl, args));
        stage.add({
          model,
          set,
          gpuBytes: allocated,
          decode: report.decode.map(({ context, tokens_per_second, bytes_per_token }, at) => ({
            context,
            ...decoding(stage, tokens_per_second, bytes_per_token, decode_dispatches[at]),
          })),
          prompts: report.prefill.map(({ tokens, millis, tokens_per_second }) => ({ tokens, millis, tokensPerSecond: tokens_per_second })),
          // Without a picture the time is 0.
          pictureMillis: report.encode_ms || null,
        });
      });
    }
  }
}

async function packageInDawn(stage) {
  const { package: folder, model = "models/nano" } = stage.options;
  await needPackage(stage, "webgpu");
  const { image, answer } = stage.sizes;
  await stage.attempt(model, model, async () => {
    const script = ["tools/full-size.mjs", "--json", "--package", folder, "--model", model, "--tokens", String(answer)];
    const result = JSON.parse(await stage.run(process.execPath, [...script, ...(image ? ["--image", image] : [])]));
    stage.adapter(result.adapter);
    const { loadMs, gpuBytes, promptTokens, prefillMs, tokensPerSecond, bytes, dispatches } = result;
    const encodeMs = image ? result.encodeMs : null;
    stage.add({ model, loadMs, gpuBytes, encodeMs, promptTokens, prefillMs, ...decoding(stage, tokensPerSecond, bytes, dispatches) });
  });
}

/** Compares the decoder of one geometry, ours natively; then the model that the user named, ours in the same page. */
async function wllama(stage) {
  const { options, sizes } = stage;
  await needPackage(stage, "puppeteer-core");
  await need(join(options.root, "tools/bench/node_modules/@wllama/wllama"), "wllama is not installed: run `npm install` in tools/bench");
  await stage.attempt(`${sizes.rival}, the decoder`, "decoder", async () => {
    const { config, ...ours } = await rivalNatively(stage);
    const file = join(options.out, "wllama-config.json");
    await writeFile(file, JSON.stringify(config));
    const rows = await inBrowser(stage, ["--config", file]);
    for (const row of [ours, ...rows]) stage.add({ model: `${sizes.rival}, the decoder`, ...row });
  });
  if (options.model) {
    await stage.attempt(options.model, options.model, async () => {
      for (const row of await inBrowser(stage, ["--model", options.model])) stage.add({ model: options.model, ...row });
    });
  }
}

async function rivalNatively({ run, options, sizes }) {
  const lengths = { prompts: RIVAL_PROMPT, contexts: RIVAL_PROMPT + sizes.answer, "decode-tokens": sizes.answer, runs: sizes.rounds };
  const bench = ["bench", "--json", "--no-picture", "--kv", "f16", "--geometry", sizes.models[sizes.rival][0]];
  const args = Object.entries(lengths).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { config, adapter, report } = JSON.parse(await run(options.qwenvl, [...bench, ...args]));
  const { millis, tokens } = report.prefill[0];
  const tokensPerSecond = report.decode[0].tokens_per_second;
  return { config, who: "ours, natively", where: adapter, promptTokens: tokens, firstMs: millis, tokensPerSecond };
}

async function inBrowser(stage, what) {
  const { package: folder, browser } = stage.options;
  // On a machine with only a software adapter, the browser takes its own.
  const hardware = stage.environment.software ? [] : ["--hardware"];
  const sizes = ["--rounds", String(stage.sizes.rounds), "--tokens", String(stage.sizes.answer)];
  const script = ["tools/bench/wllama.mjs", "--json", ...hardware, ...what, "--package", folder, "--chromium", browser, ...sizes];
  const { adapter, runsOn, medians } = JSON.parse(await stage.run(process.execPath, script));
  stage.adapter(adapter);
  return Object.entries(medians).map(([name, { prompt, firstMs, rate }]) => ({
    who: name === "wllama" ? "llama.cpp in the browser" : "ours in the browser",
    where: name === "wllama" ? `${adapter}: ${runsOn}` : adapter,
    promptTokens: prompt,
    firstMs,
    tokensPerSecond: rate,
  }));
}

/** Returns the sets that the adapter runs; leaves the others out. */
function usableSets(stage) {
  const { error, sets } = stage.environment;
  if (error) throw new Error(error);
  for (const { name, missing } of sets) if (missing) stage.leaveOut(name, missing);
  return sets.filter(({ missing }) => !missing).map(({ name }) => name);
}

/** Returns the figures of decoding: a token's time is divided by the number of its dispatches. */
function decoding(stage, tokensPerSecond, bytes, dispatches) {
  const rates = stage.bandwidth((tokensPerSecond * bytes) / 1e9);
  return { tokensPerSecond, ...rates, dispatches, microsecondsPerDispatch: 1e6 / tokensPerSecond / dispatches };
}

async function needPackage({ options }, library) {
  await need(resolve(options.root, options.package, "package.json"), "the package is not built: run `cargo xtask test --only package`");
  await need(join(options.root, "node_modules", library), `the npm package \`${library}\` is not installed: run \`npm ci\``);
}

async function need(path, reason) {
  await access(path).catch(() => {
    throw new NotRun(reason);
  });
}
