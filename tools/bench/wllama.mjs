// Compares a converted model with llama.cpp's build for browsers (@wllama/wllama), which gets random weights of the same geometry. They run
// in turns, in one page of Chromium on its software adapter, or with --hardware on the machine's GPU:
//   node tools/bench/wllama.mjs --model FOLDER --chromium PROGRAM [--rounds N] [--threads N] [--tokens N] [--side N] [--native "PROGRAM …"]
// A Qwen3-VL is asked about a picture of --side pixels, another one in each round. Of other models only the decoder is compared.
// wllama may use threads (the page is isolated from other origins), and its WebGPU build if the adapter has shader-f16.
// --config FILE in place of --model: wllama alone runs a decoder of this configuration, which `qwenvl bench --geometry … --json` prints.
// --native: `qwenvl` has its turn, too, on the machine's own adapter. --json: print one JSON object and nothing else.

import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serveBlank } from "../../pkg-tests/blank.mjs";
import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { randomDecoder, randomVision } from "./gguf.mjs";

const PROMPT_TOKENS = 128;
/** llama.cpp gets a tokenizer that makes a token of every byte. With these questions both prompts have the same length. */
const [QUESTION, SAME_LENGTH] = [" a".repeat(33).trim(), "What do you see here?"];

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    model: text,
    config: text,
    package: { ...text, default: "web" },
    chromium: { ...text, default: "chromium" },
    rounds: { ...text, default: "5" },
    threads: { ...text, default: "2" },
    tokens: { ...text, default: "8" },
    side: { ...text, default: "448" },
    native: text,
    hardware: { type: "boolean" },
    json: { type: "boolean" },
  },
});
if (!values.model === !values.config) throw new Error("expected --model with the folder of a converted model, or --config with a file");
const readJson = async (path) => JSON.parse(await readFile(path, "utf8"));
const manifest = values.model
  ? await readJson(join(values.model, "manifest.json"))
  : { config: await readJson(values.config), processor: {}, generation: { eos_token_id: 0 } };
const { config } = manifest;
if (!config.decoder) throw new Error(`${values.model} was written by an older version: convert the model again`);
const withPicture = values.model !== undefined && config.family === "qwen3_vl";
const files = { "/decoder.gguf": randomDecoder(manifest), ...(withPicture ? { "/vision.gguf": randomVision(manifest) } : {}) };
const tokens = Number(values.tokens);

const wllama = fileURLToPath(new URL("node_modules/@wllama/wllama/esm/", import.meta.url));
const server = await serveBlank(
  values.package,
  { "/wllama/": wllama, ...(values.model ? { "/model/": values.model } : {}) },
  {
    isolated: true,
    handle(path, response) {
      const file = files[path];
      if (!file) return false;
      response.writeHead(200, { "content-type": "application/octet-stream", "content-length": file.length }).end(file);
      return true;
    },
  },
);
const scratch = await mkdtemp(join(tmpdir(), "qwen-vl-wllama-"));
// A launch of hundreds of rows takes a software adapter longer than the watchdog waits.
const flags = ["--disable-gpu-watchdog"];
const browser = await launch({ name: "chromium", program: values.chromium, hardware: values.hardware, flags });
const print = values.json ? () => {} : console.log;
let loaded;
const results = { ...(values.model ? { ours: [] } : {}), wllama: [], ...(values.native ? { native: [] } : {}) };
try {
  const { page, problems } = await openPage(browser, server.origin);
  const paths = Object.keys(files);
  loaded = await page.evaluate(load, {
    origin: server.origin,
    paths,
    threads: Number(values.threads),
    ours: values.model !== undefined,
    hardware: values.hardware,
  });
  const megabytes = paths.map((path) => `${(files[path].length / 1e6).toFixed(0)} MB`).join(" and ");
  const weights = `${config.decoder.layers} layers of ${config.decoder.width}, ${megabytes} of random weights`;
  print(`${weights}; adapter: ${loaded.adapter}; wllama: ${loaded.runsOn}`);
  for (let round = 0; round < Number(values.rounds); round++) {
    const picture = withPicture && join(scratch, `${round}.png`);
    if (picture) await writeFile(picture, Buffer.from(await page.evaluate(drawPicture, Number(values.side), round), "base64"));
    const job = { withPicture, prompt: PROMPT_TOKENS, tokens, round, questions: [QUESTION, SAME_LENGTH] };
    if (values.native) results.native.push(picture ? askNative(values.native, picture) : benchNative(values.native));
    if (values.model) results.ours.push(await page.evaluate(runOurs, job));
    results.wllama.push(await page.evaluate(runWllama, job));
    for (const [name, of] of Object.entries(results)) print(`round ${round + 1}  ${describe(name, of.at(-1))}`);
  }
  problems.forEach((problem) => console.error(problem));
} finally {
  await browser.close();
  server.close();
  await rm(scratch, { recursive: true });
}
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const medians = Object.fromEntries(
  Object.entries(results).map(([name, of]) => [
    name,
    {
      prompt: of[0].prompt,
      firstMs: median(of.map(({ firstMs }) => firstMs)),
      rate: median(of.map(({ rate }) => rate)),
    },
  ]),
);
for (const [name, of] of Object.entries(medians)) {
  const { firstMs, rate } = medians.wllama;
  const ratios = `  ${(firstMs / of.firstMs).toFixed(2)}x and ${(of.rate / rate).toFixed(2)}x as fast as wllama`;
  print(`medians  ${describe(name, of)}${name === "wllama" ? "" : ratios}`);
}
if (values.json) console.log(JSON.stringify({ ...loaded, medians }));

function describe(name, { prompt, firstMs, rate }) {
  const what = `${withPicture ? "picture and " : ""}prompt of ${prompt}`;
  return `${name.padEnd(8)} ${what}: ${(firstMs / 1000).toFixed(2)} s, decoding: ${rate.toFixed(2)} tokens/s`;
}

function askNative(command, picture) {
  const [program, ...options] = command.split(" ");
  const ask = ["ask", "--json", "--greedy", "--kv", "f16", "--model", values.model, "--image", picture, "--max-new-tokens", values.tokens];
  const { timings, prompt_ids, tokens } = JSON.parse(execFileSync(program, [...options, ...ask, QUESTION]));
  if (tokens.length < values.tokens) throw new Error(`the native answer ended after ${tokens.length} tokens`);
  return { prompt: prompt_ids.length, firstMs: timings.first_token_ms, rate: timings.decode_tokens_per_second };
}

function benchNative(command) {
  const [program, ...options] = command.split(" ");
  const lengths = { prompts: PROMPT_TOKENS, contexts: PROMPT_TOKENS + tokens, "decode-tokens": tokens, runs: 1 };
  const bench = Object.entries(lengths).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const output = execFileSync(program, [...options, "bench", "--json", "--no-picture", "--model", values.model, ...bench]);
  const { prefill, decode } = JSON.parse(output).report;
  return { prompt: PROMPT_TOKENS, firstMs: prefill[0].millis, rate: decode[0].tokens_per_second };
}

// What follows runs in the page.

/** Loads wllama, and ours if asked; returns the adapter, and what wllama runs on. */
async function load({ origin, paths, threads, ours, hardware }) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("the browser has no WebGPU adapter");
  const { vendor, architecture, description, isFallbackAdapter } = adapter.info;
  const name = [vendor, architecture, description].filter(Boolean).join(" ");
  if (hardware && isFallbackAdapter) throw new Error(`the browser takes a software adapter (${name}) and not the machine's GPU`);
  const { Wllama } = await import("/wllama/index.js");
  window.wllama = new Wllama({ default: `${origin}/wllama/wasm/wllama.wasm` });
  const files = await Promise.all(paths.map(async (path) => (await fetch(path)).blob()));
  await window.wllama.loadModel(files, { n_ctx: 512, n_gpu_layers: 999, n_threads: threads });
  if (ours) {
    const { QwenVL } = await import("qwen-vl-web");
    window.model = await QwenVL.load(`${origin}/model/`, { cache: "none", contextLength: 512, kv: "f16", selfCheck: false });
  }
  // Its WebGPU build needs f16 in shaders, and it says nothing where it does without.
  const webgpu = adapter.features.has("shader-f16") ? "WebGPU" : "no WebGPU, as the adapter has no shader-f16";
  return {
    adapter: name,
    runsOn: `${window.wllama.getNumThreads()} threads, ${webgpu}`,
  };
}

/** Draws squares of random colours and keeps them; returns a PNG in base64. */
async function drawPicture(side, round) {
  const canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d");
  for (let at = 0; at < 64; at++) {
    context.fillStyle = `hsl(${(at * 47 + round * 31) % 360} 70% 50%)`;
    context.fillRect(((at % 8) * side) / 8, (Math.floor(at / 8) * side) / 8, side / 8, side / 8);
  }
  window.picture = await canvas.convertToBlob({ type: "image/png" });
  return btoa(String.fromCharCode(...new Uint8Array(await window.picture.arrayBuffer())));
}

async function runOurs({ withPicture, prompt, tokens, questions }) {
  if (withPicture) {
    const session = window.model.createSession();
    const { usage, timings } = await session.ask([{ image: window.picture }, questions[0]], {
      greedy: true,
      maxTokens: tokens,
      minTokens: tokens,
    });
    return { prompt: usage.promptTokens, firstMs: timings.firstTokenMs, rate: timings.decodeTokensPerSecond };
  }
  const { prefill, decode } = await window.model.benchmark({
    prompts: [prompt],
    contexts: [prompt + tokens],
    decodeTokens: tokens,
    runs: 1,
    picture: false,
  });
  return { prompt, firstMs: (prompt * 1000) / prefill[0].tokensPerSecond, rate: decode[0].tokensPerSecond };
}

/** Uses another picture or another text in each round, so that nothing is reused. */
async function runWllama({ withPicture, prompt, tokens, round, questions }) {
  const options = { max_tokens: tokens, temperature: 0, cache_prompt: false, ignore_eos: true };
  const began = performance.now();
  let timings;
  if (withPicture) {
    const content = [
      { type: "image", data: await window.picture.arrayBuffer() },
      { type: "text", text: questions[1] },
    ];
    ({ timings } = await window.wllama.createChatCompletion({ messages: [{ role: "user", content }], ...options }));
  } else {
    const text = Array.from({ length: prompt }, (_, at) => String.fromCharCode(97 + ((at * 7 + round * 11) % 26))).join("");
    ({ timings } = await window.wllama.createCompletion({ prompt: text, ...options }));
    if (timings.prompt_n !== prompt) throw new Error(`wllama ran ${JSON.stringify(timings)}`);
  }
  if (timings.predicted_n < tokens) throw new Error(`wllama ran ${JSON.stringify(timings)}`);
  // The first token comes with the prompt.
  const firstMs = performance.now() - began - timings.predicted_ms;
  return { prompt: timings.prompt_n, firstMs, rate: ((timings.predicted_n - 1) * 1000) / timings.predicted_ms };
}
