#!/usr/bin/env node
/** `npx qwen-vl-web quantize SOURCE OUT`: the converter without Rust. */

import { readFile, readdir, rename, rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { isRecordOf } from "../convert/output.js";
import { runConversion, type ConvertProgress, type OpenWorker } from "../api/conversion.js";
import { WorkerClient, type Remote } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { ConversionPlan } from "../wire/generated.js";
import type { ConvertOpened, ConvertOpenParams } from "../wire/protocol.js";
import { rangeSpec, type RangeSpec } from "../weights/spec.js";
import { lockFolder } from "./lock.js";

const USAGE = `npx qwen-vl-web quantize SOURCE OUT [options]

Converts a checkpoint of Qwen-VL, Qwen2-VL, Qwen2.5-VL or Qwen3-VL into a web checkpoint.
SOURCE is a Hugging Face folder, its address, or a repository as hf:OWNER/NAME[@REVISION]. OUT is the folder to make.
An interrupted run leaves OUT.partial behind; the same command resumes there.

  --scheme SCHEME       q4 (default), q8, f16 or f32
  --group-size N        weights that share a scale in q4 and q8: 32 (default), 64 or 128
  --keep MODULE=SCHEME  store a module in another scheme; may be repeated
  --allow-nonfinite     store NaN and infinite weights as zero
  --shard-size MIB      close a shard at this size; 64 by default
  --threads N           threads; as many as there are cores by default
  --plan                print what a conversion would do, as JSON, and write nothing

HF_TOKEN is an access token of the Hub, HF_ENDPOINT its address.`;

interface Arguments {
  source: string;
  out: string;
  options: ReturnType<typeof parse>["values"];
}

function parse(args: string[]) {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  return parseArgs({
    args,
    allowPositionals: true,
    options: {
      scheme: text,
      "group-size": text,
      keep: { ...text, multiple: true },
      "allow-nonfinite": flag,
      "shard-size": text,
      threads: text,
      plan: flag,
      help: flag,
    },
  });
}

async function main(): Promise<void> {
  const { values: options, positionals } = parse(process.argv.slice(2));
  const [command, source, out] = positionals;
  if (options.help || command === undefined) {
    console.log(USAGE);
    return;
  }
  if (command !== "quantize" || source === undefined || (out === undefined && !options.plan) || positionals.length > 3) {
    throw new Usage(`wrong arguments: ${positionals.join(" ")}`);
  }
  await (options.plan ? plan({ source, out: "", options }) : convert({ source, out: out as string, options }));
}

class Usage extends Error {}

async function plan(args: Arguments): Promise<void> {
  const { client, opened } = await start(args, undefined, new AbortController().signal);
  const { manifest: _manifest, ...facts } = opened.plan;
  console.log(JSON.stringify({ name: opened.listing.name, source: opened.listing.place, licence: opened.listing.licence, ...facts }));
  client.end(new QwenVLError("DISPOSED", "the plan is made"));
}

async function convert(args: Arguments): Promise<void> {
  const { out, options } = args;
  const partial = `${out.replace(/[/\\]+$/, "")}.partial`;
  const workers = options.threads === undefined ? availableParallelism() : number("threads", options.threads, 1, 256);
  const interrupt = new AbortController();
  process.once("SIGINT", () =>
    interrupt.abort(new Error(`interrupted: the finished shards are in ${partial}, the same command resumes there`)),
  );
  const release = await lockFolder(out);
  let plan: ConversionPlan;
  try {
    const present = await readdir(out).catch(() => []);
    if (present.length > 0) throw new Usage(`${out} holds \`${present[0]}\`: choose another output folder`);
    const run = { workers, signal: interrupt.signal, onProgress: showProgress };
    ({ plan } = await runConversion((signal, like) => start(args, partial, signal, like), run));
    await rm(out, { recursive: true, force: true });
    await rename(partial, out);
    for (const name of await readdir(out)) if (isRecordOf(plan.fingerprint, name)) await rm(join(out, name));
  } finally {
    await release();
  }
  for (const note of plan.notes) console.error(`note: ${note}`);
  const total = plan.shards.reduce((sum, { bytes }) => sum + bytes, 0);
  console.log(`${total} bytes in ${plan.shards.length} shards, ${plan.bitsPerWeight.toFixed(2)} bits a weight, are in ${out}`);
}

/** Draws the progress if stderr is a terminal. */
function showProgress({ phase, bytes, totalBytes, bytesPerSecond, etaSeconds }: ConvertProgress): void {
  if (!process.stderr.isTTY) return;
  const left = etaSeconds === undefined ? "" : `, ${Math.ceil(etaSeconds)} s left`;
  const percent = ((bytes / totalBytes) * 100).toFixed(1);
  process.stderr.write(`\r\x1b[K${phase} ${percent} %, ${(bytesPerSecond / 1e6).toFixed(1)} MB/s of the source${left}`);
  if (phase === "finish") process.stderr.write("\r\x1b[K");
}

/** Starts a thread and opens the checkpoint in it. */
async function start(
  { source, options }: Arguments,
  out: string | undefined,
  signal: AbortSignal,
  like?: ConvertOpened,
): Promise<OpenWorker> {
  // Before the worker starts: wrong arguments must not leave one behind.
  const params: ConvertOpenParams = {
    source: sourceOf(source),
    settings: {
      ...(options.scheme === undefined ? {} : { scheme: options.scheme }),
      ...(options["group-size"] === undefined ? {} : { groupSize: number("group-size", options["group-size"], 1, 128) }),
      ...(options.keep === undefined ? {} : { keep: options.keep }),
      ...(options["allow-nonfinite"] === undefined ? {} : { allowNonfinite: options["allow-nonfinite"] }),
      ...(options["shard-size"] === undefined
        ? {}
        : { shardBytes: Math.floor(number("shard-size", options["shard-size"], 0, 64) * 2 ** 20) }),
    },
    supplies: like?.supplies ?? [],
    ...(like ? { listing: like.listing } : {}),
    ...(out === undefined ? {} : { output: { kind: "path", folder: out } }),
    wasm: new Uint8Array(await readFile(new URL("../wasm/qwen_vl_web_convert_bg.wasm", import.meta.url))),
  };
  const worker = new Worker(new URL("./worker.js", import.meta.url));
  const remote: Remote = {
    onmessage: undefined,
    onmessageerror: undefined,
    onerror: undefined,
    postMessage: (message: unknown) => worker.postMessage(message),
    terminate: () => void worker.terminate(),
  };
  const handler = (name: "onmessage" | "onerror") => remote[name] as (event: object) => void;
  worker.on("message", (data) => handler("onmessage")({ data }));
  worker.on("error", ({ message }: Error) => handler("onerror")({ message, preventDefault: () => undefined }));
  const client = new WorkerClient(remote);
  try {
    return { client, opened: await client.call("convertOpen", params, { signal }).result };
  } catch (error) {
    client.end(new QwenVLError("DISPOSED", "the conversion failed"));
    throw error;
  }
}

function sourceOf(source: string): RangeSpec {
  if (!/^(hf|https?):/.test(source)) return { kind: "path", folder: source };
  const { HF_TOKEN: accessToken, HF_ENDPOINT: hubUrl } = process.env;
  return rangeSpec(source, { ...(accessToken ? { accessToken } : {}), ...(hubUrl ? { hubUrl } : {}) }).spec;
}

function number(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!(value >= min && value <= max) || value === 0) throw new Usage(`--${name} is ${text}, expected a number up to ${max}`);
  return value;
}

try {
  await main();
} catch (error) {
  const usage = error instanceof Usage || (error as NodeJS.ErrnoException).code?.startsWith("ERR_PARSE_ARGS");
  console.error(`error: ${(error as Error).message}${usage ? "\n`npx qwen-vl-web --help` lists the options" : ""}`);
  process.exitCode = usage ? 2 : 1;
}
