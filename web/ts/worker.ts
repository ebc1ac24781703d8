/** The worker: fetches a checkpoint into the engine and answers requests, one after the other. */

import { download, openBody } from "./download.js";
import { errorData, QwenVLError } from "./errors.js";
import type { LoadProgress, ModelInfo } from "./model.js";
import type { Call, Calls, ImagePayload, Reply, Request } from "./protocol.js";
import { answerFromEngine, eventFromEngine, type EngineAnswer, type EngineEvent } from "./engine.js";
import init, { type Engine, Images, Loader, onPanic } from "./wasm/qwen_vl_web.js";

/** What this file uses of a worker's global scope; the library of the page's types does not have it. */
interface WorkerScope {
  postMessage(message: Reply, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

/** The keys of `manifest.json` that are used here; the engine checks all of it. */
interface Manifest {
  config: { visual: { n_queries: number } };
  processor: { tokenizer_file: string };
  generation: { chat_format: string };
  provenance: { source: string; modifications: string };
  files: FileEntry[];
  shards: FileEntry[];
}

interface FileEntry {
  file: string;
  bytes: number;
  sha256: string;
}

/** Progress is told this often at most, so that the page is not flooded. */
const PROGRESS_INTERVAL_MS = 100;

const scope = globalThis as unknown as WorkerScope;
const controllers = new Map<number, AbortController>();
let engine: Engine | undefined;
/** Positions that a picture takes in the prompt. */
let imageTokens = 0;
let queue: Promise<void> = Promise.resolve();

scope.onmessage = ({ data: request }) => {
  if (request.kind === "cancel") {
    controllers.get(request.id)?.abort();
    return;
  }
  if (request.kind === "dispose") for (const controller of controllers.values()) controller.abort();
  const controller = new AbortController();
  controllers.set(request.id, controller);
  queue = queue.then(() => answer(request, controller.signal));
};

async function answer(request: Exclude<Request, { kind: "cancel" }>, signal: AbortSignal): Promise<void> {
  const { id } = request;
  try {
    const result = await serve(request, signal);
    scope.postMessage({ kind: "done", id, result });
  } catch (error) {
    const data = errorData(error);
    // After a trap the module's memory is in no known state.
    if (error instanceof WebAssembly.RuntimeError) scope.postMessage({ kind: "fatal", error: data });
    else scope.postMessage({ kind: "error", id, error: data });
  } finally {
    controllers.delete(id);
  }
}

function serve(request: Exclude<Request, { kind: "cancel" }>, signal: AbortSignal): Promise<Calls[Call]["result"]> {
  switch (request.kind) {
    case "load":
      return load(request, signal);
    case "ask":
      return ask(request, signal);
    case "logits":
      return loaded().logits();
    case "dispose":
      engine?.destroy();
      engine = undefined;
      return Promise.resolve(undefined);
  }
}

function loaded(): Engine {
  if (!engine) throw new QwenVLError("DISPOSED", "no model is loaded");
  return engine;
}

async function load(request: Extract<Request, { kind: "load" }>, signal: AbortSignal): Promise<ModelInfo> {
  if (!globalThis.isSecureContext) throw new QwenVLError("INSECURE_CONTEXT", "the page is not in a secure context");
  if (!("gpu" in navigator)) throw new QwenVLError("WEBGPU_UNAVAILABLE", "this browser has no WebGPU in workers");

  const [manifestBytes] = await Promise.all([download(request.url, signal), startEngine(request.wasmUrl)]);
  const manifestText = new TextDecoder().decode(manifestBytes);
  // Every rule of a manifest is checked here, before its addresses and sizes are used.
  const loader = await Loader.create(manifestText, request.options);
  const manifest = JSON.parse(manifestText) as Manifest;
  const totalBytes = manifest.shards.reduce((sum, shard) => sum + shard.bytes, 0);
  const progress: LoadProgress = { phase: "manifest", bytes: 0, totalBytes, shard: 0, shards: manifest.shards.length };
  const tell = () => scope.postMessage({ kind: "note", id: request.id, note: { ...progress } });
  tell();

  const fileUrl = ({ file }: FileEntry) => new URL(file, request.url).href;
  const tokenizer = manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file);
  if (!tokenizer) throw new QwenVLError("MANIFEST_INVALID", "the manifest lists no tokenizer file");
  const vocabulary = await download(fileUrl(tokenizer), signal);
  await checkHash(tokenizer, vocabulary);

  progress.phase = "download";
  let told = 0;
  for (const [index, shard] of manifest.shards.entries()) {
    let received = 0;
    for await (const piece of openBody(fileUrl(shard), signal)) {
      loader.write(index, piece);
      received += piece.byteLength;
      progress.bytes += piece.byteLength;
      if (performance.now() - told > PROGRESS_INTERVAL_MS) {
        told = performance.now();
        tell();
      }
    }
    if (received !== shard.bytes) throw wrongFile(shard, shard.bytes, received);
    progress.shard = index + 1;
    tell();
  }
  signal.throwIfAborted();
  engine = await loader.finish(vocabulary);
  imageTokens = manifest.config.visual.n_queries;
  progress.phase = "ready";
  tell();
  return {
    source: manifest.provenance.source,
    modifications: manifest.provenance.modifications,
    chatFormat: manifest.generation.chat_format,
    contextLength: engine.contextLength,
    imageTokens,
    downloadBytes: totalBytes,
    gpuBytes: engine.gpuBytes,
    adapter: engine.adapter as ModelInfo["adapter"],
  };
}

async function startEngine(wasmUrl: string | undefined): Promise<void> {
  try {
    await (wasmUrl === undefined ? init() : init({ module_or_path: wasmUrl }));
  } catch (cause) {
    throw new QwenVLError("DOWNLOAD", "the package's wasm file could not be loaded", { cause });
  }
  // A panic inside a future never reaches its promise: without this the caller would wait for ever.
  onPanic((message: string) => scope.postMessage({ kind: "fatal", error: { code: "INTERNAL", message } }));
}

async function checkHash(entry: FileEntry, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  if (bytes.byteLength !== entry.bytes) throw wrongFile(entry, entry.bytes, bytes.byteLength);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== entry.sha256) throw wrongFile(entry, entry.sha256, found);
}

function wrongFile({ file }: FileEntry, expected: number | string, found: number | string): QwenVLError {
  const what = typeof expected === "number" ? "bytes" : "SHA-256";
  const details = { shard: file, expected, found };
  return new QwenVLError("INTEGRITY", `\`${file}\`: ${what} ${found}, the manifest says ${expected}`, { details });
}

async function ask(request: Extract<Request, { kind: "ask" }>, signal: AbortSignal): Promise<Calls["ask"]["result"]> {
  const onEvent = (event: EngineEvent) => {
    scope.postMessage({ kind: "note", id: request.id, note: eventFromEngine(event) });
    return !signal.aborted;
  };
  const answer = (await loaded().ask(request.request, imageList(request.images), onEvent)) as EngineAnswer;
  return answerFromEngine(answer, request.images.length * imageTokens);
}

function imageList(payloads: ImagePayload[]): Images {
  const images = new Images();
  for (const payload of payloads) {
    if (payload.kind === "encoded") images.pushEncoded(payload.bytes, payload.upright);
    else images.pushRgba(payload.width, payload.height, payload.pixels);
  }
  return images;
}
