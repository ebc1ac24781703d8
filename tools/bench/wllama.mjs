// Compares the decoder of a converted model with llama.cpp's build for browsers (@wllama/wllama), which gets random Q4_0 weights of the same
// geometry. They run in turns, in one page of Chromium on its software adapter:
//   node tools/bench/wllama.mjs --model FOLDER --chromium PROGRAM [--rounds N] [--threads N] [--native "PROGRAM …"]
// wllama may use threads (the page is isolated from other origins), and its WebGPU build if the adapter has shader-f16.
// --native: `qwenvl` has its turn, too, on the machine's own adapter.

import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serveBlank } from "../../pkg-tests/blank.mjs";
import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { randomGguf } from "./gguf.mjs";

const PROMPT_TOKENS = 128;
const DECODED_TOKENS = 8;

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    model: text,
    package: { ...text, default: "web" },
    chromium: { ...text, default: "chromium" },
    rounds: { ...text, default: "5" },
    threads: { ...text, default: "2" },
    native: text,
  },
});
if (!values.model) throw new Error("--model is missing: the folder of a converted model");
const { config } = JSON.parse(await readFile(join(values.model, "manifest.json"), "utf8"));
const gguf = randomGguf(config);

const wllama = fileURLToPath(new URL("node_modules/@wllama/wllama/esm/", import.meta.url));
const server = await serveBlank(
  values.package,
  { "/model/": values.model, "/wllama/": wllama },
  {
    isolated: true,
    handle(path, response) {
      if (path !== "/random.gguf") return false;
      response.writeHead(200, { "content-type": "application/octet-stream", "content-length": gguf.length }).end(gguf);
      return true;
    },
  },
);
// A launch of hundreds of rows takes a software adapter longer than the watchdog waits.
const browser = await launch({ name: "chromium", program: values.chromium, flags: ["--disable-gpu-watchdog"] });
const rates = { ours: [], wllama: [], ...(values.native ? { native: [] } : {}) };
try {
  const { page, problems } = await openPage(browser, server.origin);
  const log = await page.evaluate(load, server.origin, Number(values.threads));
  console.log(`${config.num_hidden_layers} layers of ${config.hidden_size}, ${(gguf.length / 1e6).toFixed(0)} MB of Q4_0; wllama: ${log}`);
  const tokens = { prompt: PROMPT_TOKENS, decoded: DECODED_TOKENS };
  for (let round = 0; round < Number(values.rounds); round++) {
    rates.ours.push(await page.evaluate(runOurs, tokens));
    rates.wllama.push(await page.evaluate(runWllama, tokens, round));
    if (values.native) rates.native.push(runNative(values.native));
    for (const [name, of] of Object.entries(rates)) console.log(`round ${round + 1}  ${describe(name, of.at(-1))}`);
  }
  problems.forEach((problem) => console.error(problem));
} finally {
  await browser.close();
  server.close();
}
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const medians = Object.fromEntries(
  Object.entries(rates).map(([name, of]) => [
    name,
    { prompt: median(of.map(({ prompt }) => prompt)), decode: median(of.map(({ decode }) => decode)) },
  ]),
);
for (const [name, of] of Object.entries(medians)) {
  const { prompt, decode } = medians.wllama;
  console.log(
    `medians  ${describe(name, of)}${name === "wllama" ? "" : `  ${(of.prompt / prompt).toFixed(2)}x and ${(of.decode / decode).toFixed(2)}x`}`,
  );
}

function describe(name, { prompt, decode }) {
  return `${name.padEnd(8)} prompt of ${PROMPT_TOKENS}: ${prompt.toFixed(2)} tokens/s, decoding: ${decode.toFixed(2)} tokens/s`;
}

function runNative(command) {
  const [program, ...options] = command.split(" ");
  const lengths = [
    "--prompts",
    PROMPT_TOKENS,
    "--contexts",
    PROMPT_TOKENS + DECODED_TOKENS,
    "--decode-tokens",
    DECODED_TOKENS,
    "--runs",
    1,
  ];
  const output = execFileSync(program, [...options, "bench", "--json", "--no-picture", "--model", values.model, ...lengths.map(String)]);
  const { report } = JSON.parse(output);
  return { prompt: report.prefill[0].tokens_per_second, decode: report.decode[0].tokens_per_second };
}

// What follows runs in the page.

/** Loads both; returns what wllama runs on. */
async function load(origin, threads) {
  const { Wllama } = await import("/wllama/index.js");
  const { QwenVL } = await import("qwen-vl-web");
  window.wllama = new Wllama({ default: `${origin}/wllama/wasm/wllama.wasm` });
  const file = await (await fetch("/random.gguf")).blob();
  await window.wllama.loadModel([file], { n_ctx: 512, n_gpu_layers: 999, n_threads: threads });
  window.model = await QwenVL.load(`${origin}/model/`, { cache: "none", contextLength: 512, selfCheck: false });
  // Its WebGPU build needs f16 in shaders, and it says nothing where it does without.
  const f16 = (await navigator.gpu.requestAdapter())?.features.has("shader-f16");
  return `${window.wllama.getNumThreads()} threads, ${f16 ? "WebGPU" : "no WebGPU, as the adapter has no shader-f16"}`;
}

async function runOurs({ prompt, decoded }) {
  const { prefill, decode } = await window.model.benchmark({
    prompts: [prompt],
    contexts: [prompt + decoded],
    decodeTokens: decoded,
    runs: 1,
    picture: false,
  });
  return { prompt: prefill[0].tokensPerSecond, decode: decode[0].tokensPerSecond };
}

/** Uses another text in each round, so that nothing is reused. */
async function runWllama({ prompt, decoded }, round) {
  const text = Array.from({ length: prompt }, (_, at) => String.fromCharCode(97 + ((at * 7 + round * 11) % 26))).join("");
  const { timings } = await window.wllama.createCompletion({
    prompt: text,
    max_tokens: decoded,
    temperature: 0,
    cache_prompt: false,
    ignore_eos: true,
  });
  if (timings.prompt_n !== prompt || timings.predicted_n < decoded) throw new Error(`wllama ran ${JSON.stringify(timings)}`);
  // The first token comes with the prompt.
  return { prompt: timings.prompt_per_second, decode: ((timings.predicted_n - 1) * 1000) / timings.predicted_ms };
}
