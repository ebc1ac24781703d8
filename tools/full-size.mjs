// A question, with or without a picture, put to a large model: in Node on Dawn, or in Chromium on its software adapter.
//   VK_DRIVER_FILES=ICD node tools/full-size.mjs --model FOLDER --image FILE
//   node tools/full-size.mjs --model FOLDER --chromium PROGRAM
// --json prints one JSON object and nothing else. Its rate is of decoding alone, where the answer's includes reading all logits back.
// A model of the published size with random weights is made by (19 GB on the way):
//   cargo run --release -p qwen-vl-testkit --example full_size -- CONFIG.json QWEN.TIKTOKEN FOLDER    # and lies in FOLDER/web then

import { readFile } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { serveBlank } from "../pkg-tests/blank.mjs";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { residentBytes } from "../pkg-tests/weights/memory-watch.mjs";

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    model: text,
    package: { ...text, default: "web" },
    chromium: text,
    image: text,
    prompt: { ...text, default: "What is in the picture? Answer:" },
    tokens: { ...text, default: "4" },
    kv: { ...text, default: "f16" },
    json: { type: "boolean" },
  },
});

const server = await serveBlank(values.package, { "/model/": values.model, ...(values.image ? { "/image/": dirname(values.image) } : {}) });
const image = values.image && `${server.origin}/image/${basename(values.image)}`;
const job = {
  library: "qwen-vl-web",
  url: `${server.origin}/model/`,
  prompt: values.prompt,
  image,
  tokens: Number(values.tokens),
  options: { cache: "none", kv: values.kv, contextLength: 512, selfCheck: false },
};
// Launches take a software adapter longer than the watchdog of Chromium's GPU process waits.
const browser = values.chromium && (await launch({ name: "chromium", program: values.chromium, flags: ["--disable-gpu-watchdog"] }));
try {
  let resident;
  if (browser) {
    const { page, problems } = await openPage(browser, server.origin);
    print(await page.evaluate(answer, job));
    problems.forEach((problem) => console.error(problem));
    resident = await residentBytes(browser);
  } else {
    const { becomePage } = await import("../pkg-tests/dawn/page.mjs");
    job.options.worker = false;
    job.library = await packageModule(values.package);
    print(await becomePage(server.origin).evaluate(answer, job));
    resident = process.resourceUsage().maxRSS * 1024;
  }
  if (!values.json) {
    const of = browser ? "(GPU process and renderers, at the end)" : "at most";
    console.log(`resident memory    ${(resident / 1024 ** 3).toFixed(2)} GiB ${of}`);
  }
} finally {
  await browser?.close();
  server.close();
}
// Dawn would wait for what nobody needs any more.
process.exit();

/** Returns the address of a package's main module. */
async function packageModule(folder) {
  const { exports } = JSON.parse(await readFile(resolve(folder, "package.json"), "utf8"));
  return pathToFileURL(resolve(folder, exports["."].default)).href;
}

function print(result) {
  if (values.json) printJson(result);
  else printLines(result);
}

function printJson({ loadMs, info, usage, timings, perToken }) {
  const { encodeMs, prefillMs } = timings;
  const { promptTokens } = usage;
  console.log(
    JSON.stringify({ adapter: info.adapter.name, loadMs, gpuBytes: info.gpuBytes, promptTokens, encodeMs, prefillMs, ...perToken }),
  );
}

function printLines({ loadMs, info, tokens, text, usage, timings, perToken }) {
  const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
  console.log(`adapter            ${info.adapter.name}`);
  console.log(`loaded             ${(info.downloadBytes / 1024 ** 3).toFixed(2)} GiB in ${seconds(loadMs)}`);
  console.log(`buffers            ${(info.gpuBytes / 1024 ** 3).toFixed(2)} GiB`);
  console.log(`picture            ${seconds(timings.encodeMs)}`);
  console.log(`prompt             ${usage.promptTokens} tokens in ${seconds(timings.prefillMs)}`);
  console.log(`answer             ${timings.decodeTokensPerSecond.toFixed(3)} tokens/s`);
  console.log(`a token            ${perToken.dispatches} dispatches, reads ${(perToken.bytes / 1e9).toFixed(3)} GB`);
  console.log(`tokens             ${tokens.join(" ")}  ${JSON.stringify(text)}`);
}

/** Runs in the page. The later generations get a chat; the 2023 model, which may be a base model, a text to continue. */
async function answer({ library, url, prompt, image, tokens, options }) {
  const { QwenVL } = await import(library);
  const began = performance.now();
  const model = await QwenVL.load(url, options);
  const loadMs = performance.now() - began;
  const sampling = { greedy: true, maxTokens: tokens, minTokens: tokens };
  const run =
    model.info.family === "qwen_vl"
      ? model.complete(`${image ? "<img>a</img>" : ""}${prompt}`, image ? [image] : [], sampling)
      : model.createSession().ask([...(image ? [{ image }] : []), prompt], sampling);
  const { tokens: ids, text, usage, timings } = await run;
  const lengths = { contexts: [64 + tokens], prompts: [], decodeTokens: tokens };
  const { dispatchesPerToken, decode } = await model.benchmark({ ...lengths, runs: 1, picture: false });
  const { tokensPerSecond, gigabytesPerSecond } = decode[0];
  const perToken = { tokensPerSecond, dispatches: dispatchesPerToken, bytes: (gigabytesPerSecond * 1e9) / tokensPerSecond };
  return { loadMs, info: model.info, tokens: ids, text, usage, timings, perToken };
}
