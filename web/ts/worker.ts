/** The worker: loads a checkpoint into the engine and answers requests, one after the other. */

import { errorData, QwenVLError } from "./errors.js";
import type { ModelInfo } from "./model.js";
import type { Call, Calls, EngineBenchmarkReport, ImagePayload, PictureInfo, Reply, Request, Steps } from "./protocol.js";
import { answerFromEngine, eventFromEngine, type EngineAnswer, type EngineEvent, type EngineScore } from "./engine.js";
import { compileAhead, watchDevice } from "./compile.js";
import { readBitmap } from "./image.js";
import init, { checkManifest, type Engine, Hasher, Images, Loader, onPanic } from "./wasm/qwen_vl_web.js";
import { filesOf, WeightCache, type CachedModel } from "./weights/cache.js";
import { cacheProblem, loadWeights, type ShardSink } from "./weights/load.js";
import { maintain } from "./weights/maintain.js";
import type { Manifest } from "./weights/manifest.js";
import { ProgressCounter } from "./weights/progress.js";
import { makeBackend, makeSource, type CacheSpec } from "./weights/spec.js";
import type { Target } from "./weights/transfer.js";

/** What this file uses of a worker's global scope; the library of the page's types does not have it. */
interface WorkerScope {
  postMessage(message: Reply, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
const controllers = new Map<number, AbortController>();
let engine: Engine | undefined;
/** Positions that a picture takes in the prompt. */
let imageTokens = 0;
let queue: Promise<void> = Promise.resolve();
/** While a model loads: pictures are encoded before all of it is here, one after the other. */
let loading: { ahead: Promise<void>; progress: ProgressCounter } | undefined;

scope.onmessage = ({ data: request }) => {
  if (request.kind === "cancel") {
    controllers.get(request.id)?.abort();
    return;
  }
  if (request.kind === "dispose") for (const controller of controllers.values()) controller.abort();
  const controller = new AbortController();
  controllers.set(request.id, controller);
  const work = () => answer(request, controller.signal);
  if (request.kind === "encode" && loading) {
    const { ahead, progress } = loading;
    loading.ahead = ahead.then(work).then(() => progress.pictureEncoded());
  } else queue = queue.then(work);
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
    case "cache":
      return maintainCache(request, signal);
    case "ask":
      return ask(request, signal);
    case "score":
      return score(request, signal);
    case "encode":
      return encode(request);
    case "release":
      // It may have gone with the model.
      engine?.releaseImage(request.image);
      return Promise.resolve(undefined);
    case "count":
      return Promise.resolve(loaded().count(request.prompt));
    case "benchmark":
      return benchmark(request, signal);
    case "logits":
      return loaded().logits();
    case "dispose":
      return Promise.resolve(disposeOf(engine));
  }
}

/** Returns what is left of it on the GPU, by our own accounting. */
function disposeOf(model: Engine | undefined): number {
  model?.destroy();
  engine = undefined;
  return model?.gpuBytes ?? 0;
}

function loaded(): Engine {
  if (!engine) throw new QwenVLError("DISPOSED", "no model is loaded");
  return engine;
}

async function load(request: Extract<Request, { kind: "load" }>, signal: AbortSignal): Promise<ModelInfo> {
  if (!globalThis.isSecureContext) throw new QwenVLError("INSECURE_CONTEXT", "the page is not in a secure context");
  if (!("gpu" in navigator)) throw new QwenVLError("WEBGPU_UNAVAILABLE", "this browser has no WebGPU in workers");

  const progress = progressOf(request.id);
  const started = startEngine(request.wasmUrl);
  // It may fail while nobody waits for it yet.
  started.catch(() => undefined);
  let compiled = Promise.resolve();
  let encodes: () => void = () => undefined;
  loading = { ahead: new Promise((resolve) => (encodes = resolve)), progress };
  const makeSink = async (manifest: string) => {
    await started;
    const { result: loader, device } = await watchDevice(() => Loader.create(manifest, request.options));
    // What it could not allocate is told before anything is fetched for it, and before the GPU is busy with kernels.
    await loader.drained();
    loader.checkGpu();
    if (device) compiled = compileAhead(device, loader.shaders());
    return new EngineSink(loader, () => compiled.then(encodes));
  };
  const { concurrency, whenBusy } = request;
  try {
    const cache = await openCache(request.cache, progress);
    const weights = { source: makeSource(request.source), cache, makeSink, progress, concurrency, whenBusy, signal };
    const { manifest, sink } = await loadWeights(weights);
    progress.phase("upload");
    await sink.loader.drained();
    sink.loader.complete();
    signal.throwIfAborted();
    progress.phase("compile");
    await compiled;
    // Pictures that came by now are encoded first; from here on they wait for their turn among the other requests.
    const ahead = loading?.ahead;
    loading = undefined;
    await ahead;
    engine = loaded();
    engine.compile();
    engine.checkGpu();
    if (request.keptImages !== undefined) engine.keepImages(request.keptImages);
    signal.throwIfAborted();
    if (request.selfCheck) {
      progress.phase("warmup");
      await engine.selfCheck();
      signal.throwIfAborted();
    }
    return finishLoad(engine, manifest, progress);
  } catch (error) {
    engine?.destroy();
    engine = undefined;
    throw error;
  } finally {
    loading = undefined;
    encodes();
  }
}

function finishLoad(engine: Engine, manifest: Manifest, progress: ProgressCounter): ModelInfo {
  void engine.lost().then((reason) => {
    scope.postMessage({ kind: "lost", error: { code: "DEVICE_LOST", message: `the GPU device was lost: ${String(reason)}` } });
  });
  imageTokens = manifest.config.visual.n_queries;
  progress.phase("ready");
  return {
    source: manifest.provenance.source,
    modifications: manifest.provenance.modifications,
    notices: manifest.files.map(({ file }) => file).filter((file) => file !== manifest.processor.tokenizer_file),
    chatFormat: manifest.generation.chat_format,
    contextLength: engine.contextLength,
    imageTokens,
    downloadBytes: filesOf(manifest).reduce((sum, { bytes }) => sum + bytes, 0),
    gpuBytes: engine.gpuBytes,
    adapter: engine.adapter as ModelInfo["adapter"],
  };
}

/** The engine as it takes weights. */
class EngineSink implements ShardSink {
  readonly loader: Loader;
  /** Called when pictures can be encoded. */
  #onEncodes: (() => void) | undefined;

  constructor(loader: Loader, onEncodes: () => void) {
    this.loader = loader;
    this.#onEncodes = onEncodes;
  }

  vocabulary(bytes: Uint8Array): void {
    engine = this.loader.engine(bytes);
    this.#look();
  }

  #look(): void {
    if (!this.#onEncodes || !engine || !this.loader.encodes()) return;
    this.#onEncodes();
    this.#onEncodes = undefined;
  }

  target(shard: number): Target {
    const { loader } = this;
    return {
      write: (bytes, checked) => {
        loader.write(shard, bytes, checked);
        this.#look();
      },
      restart: () => loader.restart(shard),
      drain: () => loader.drained(),
    };
  }
}

async function maintainCache(request: Extract<Request, { kind: "cache" }>, signal: AbortSignal): Promise<CachedModel[]> {
  const progress = progressOf(request.id);
  const backend = await makeBackend(request.cache);
  if (!backend) throw new QwenVLError("INVALID_ARGUMENT", "there is no cache to work on");
  let problem: unknown;
  const cache = new WeightCache(backend, (found) => (problem = found));
  await startEngine(request.wasmUrl);
  const models = await maintain(request.operation, cache, { checkManifest, newHash: () => new Hasher() }, progress, signal);
  // Here, unlike in a load, storing is what was asked for.
  if (problem) throw QwenVLError.fromData(cacheProblem(problem));
  return models;
}

function progressOf(id: number): ProgressCounter {
  return new ProgressCounter((note) => scope.postMessage({ kind: "note", id, note }));
}

async function openCache(spec: CacheSpec, progress: ProgressCounter): Promise<WeightCache | undefined> {
  const tell = (problem: unknown) => progress.cacheProblem(cacheProblem(problem));
  try {
    const backend = await makeBackend(spec);
    return backend && new WeightCache(backend, tell);
  } catch (problem) {
    tell(problem);
    return undefined;
  }
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

async function ask(request: Extract<Request, { kind: "ask" }>, signal: AbortSignal): Promise<Calls["ask"]["result"]> {
  const images = imageList(request.images);
  if (!images) return "missing";
  const onEvent = (event: EngineEvent) => {
    scope.postMessage({ kind: "note", id: request.id, note: eventFromEngine(event) });
    return !signal.aborted;
  };
  const answer = (await loaded().ask(request.request, images, onEvent)) as EngineAnswer;
  return { answer: answerFromEngine(answer, imageTokens), pictures: answer.images };
}

async function score(request: Extract<Request, { kind: "score" }>, signal: AbortSignal): Promise<Calls["score"]["result"]> {
  const images = imageList(request.images);
  if (!images) return "missing";
  const { prompt, candidates } = request;
  const scores = (await loaded().score({ prompt, candidates }, images, () => !signal.aborted)) as EngineScore[] | null;
  // Whoever aborted does not listen any more.
  return scores ?? [];
}

async function encode({ image, hold }: Extract<Request, { kind: "encode" }>): Promise<Calls["encode"]["result"]> {
  const images = imageList([image]);
  if (!images) return "missing";
  const info = (await loaded().holdImage(images)) as PictureInfo;
  if (!hold) loaded().releaseImage(info.id);
  return info;
}

async function benchmark(request: Extract<Request, { kind: "benchmark" }>, signal: AbortSignal): Promise<EngineBenchmarkReport> {
  const onStep = (note: Steps) => {
    scope.postMessage({ kind: "note", id: request.id, note });
    return !signal.aborted;
  };
  const report = (await loaded().benchmark(request.options, onStep)) as EngineBenchmarkReport | null;
  if (!report) throw new QwenVLError("INTERNAL", "the benchmark was stopped");
  return report;
}

/** Pictures as the engine takes them; nothing if one that it should know is not there any more. */
function imageList(payloads: ImagePayload[]): Images | undefined {
  const images = new Images();
  for (const payload of payloads) {
    switch (payload.kind) {
      case "encoded":
        images.pushEncoded(payload.bytes, payload.upright);
        break;
      case "rgba":
        images.pushRgba(payload.width, payload.height, payload.pixels);
        break;
      case "bitmap": {
        const { width, height, data } = readBitmap(payload.bitmap);
        payload.bitmap.close();
        images.pushRgba(width, height, new Uint8Array(data.buffer));
        break;
      }
      case "kept":
        if (!loaded().keepsImage(payload.id)) return undefined;
        images.pushKept(payload.id);
        break;
    }
  }
  return images;
}
