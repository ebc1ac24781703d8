/** Inside a worker: loads a checkpoint into the engine and answers requests, one after the other. */

import { errorData, QwenVLError } from "../wire/errors.js";
import type { Backend } from "../wire/client.js";
import type { ModelInfo } from "../api/model.js";
import type { Call, Calls, EngineBenchmarkReport, ImagePayload, PictureInfo, Reply, Request, Steps } from "../wire/protocol.js";
import { answerFromEngine, eventFromEngine, type EngineAnswer, type EngineEvent, type EngineScore } from "../wire/engine.js";
import { compileAhead, offersSubgroups, watchDevice } from "./compile.js";
import { readBitmap } from "../api/image.js";
import type * as Gpu from "../wasm/qwen_vl_web.js";
import type { Engine, Images, Loader } from "../wasm/qwen_vl_web.js";
import { filesOf, WeightCache, type CachedModel } from "../weights/cache.js";
import { cacheProblem, loadWeights, type ShardSink } from "../weights/load.js";
import { maintain } from "../weights/maintain.js";
import type { Manifest } from "../weights/manifest.js";
import { ProgressCounter } from "../weights/progress.js";
import { openStore, makeSource, type CacheSpec } from "../weights/spec.js";
import type { Target } from "../weights/transfer.js";

/** What is used of a worker's global scope; a port will do as well. */
export interface Scope {
  postMessage(message: Reply, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

/** The wasm edge: `web` for the GPU, `web/cpu` for the processor. */
export type Edge = Omit<typeof Gpu, "default" | "initSync"> & { default(options?: { module_or_path: string }): Promise<unknown> };

/** Serves a page: takes its requests from `scope` and replies there. One model at a time. What is returned gives its memory back. */
export function serve(scope: Scope, edge: Edge, backend: Backend): () => void {
  const server = new Server(scope, edge, backend);
  return () => server.end();
}

class Server {
  readonly #scope: Scope;
  readonly #edge: Edge;
  readonly #backend: Backend;
  readonly #controllers = new Map<number, AbortController>();
  #engine: Engine | undefined;
  /** Positions that a picture takes in the prompt. */
  #imageTokens = 0;
  #queue: Promise<void> = Promise.resolve();
  /** While a model loads: pictures are encoded before all of it is here, one after the other. */
  #loading: { ahead: Promise<void>; progress: ProgressCounter } | undefined;

  constructor(scope: Scope, edge: Edge, backend: Backend) {
    this.#scope = scope;
    this.#edge = edge;
    this.#backend = backend;
    scope.onmessage = ({ data: request }) => this.#receive(request);
  }

  end(): void {
    for (const controller of this.#controllers.values()) controller.abort();
    this.#dispose();
  }

  #receive(request: Request): void {
    if (request.kind === "cancel") {
      this.#controllers.get(request.id)?.abort();
      return;
    }
    if (request.kind === "dispose") for (const controller of this.#controllers.values()) controller.abort();
    const controller = new AbortController();
    this.#controllers.set(request.id, controller);
    const work = () => this.#answer(request, controller.signal);
    if (request.kind === "encode" && this.#loading) {
      const { ahead, progress } = this.#loading;
      this.#loading.ahead = ahead.then(work).then(() => progress.pictureEncoded());
    } else this.#queue = this.#queue.then(work);
  }

  async #answer(request: Exclude<Request, { kind: "cancel" }>, signal: AbortSignal): Promise<void> {
    const { id } = request;
    try {
      const result = await this.#serve(request, signal);
      this.#scope.postMessage({ kind: "done", id, result });
    } catch (error) {
      const data = errorData(error);
      // After a trap the module's memory is in no known state.
      if (error instanceof WebAssembly.RuntimeError) this.#scope.postMessage({ kind: "fatal", error: data });
      else this.#scope.postMessage({ kind: "error", id, error: data });
    } finally {
      this.#controllers.delete(id);
    }
  }

  #serve(request: Exclude<Request, { kind: "cancel" }>, signal: AbortSignal): Promise<Calls[Call]["result"]> {
    switch (request.kind) {
      case "load":
        return this.#load(request, signal);
      case "cache":
        return this.#maintainCache(request, signal);
      case "ask":
        return this.#ask(request, signal);
      case "score":
        return this.#score(request, signal);
      case "encode":
        return this.#encode(request);
      case "release":
        // It may have gone with the model.
        this.#engine?.releaseImage(request.image);
        return Promise.resolve(undefined);
      case "count":
        return Promise.resolve(this.#loaded().count(request.prompt));
      case "benchmark":
        return this.#benchmark(request, signal);
      case "logits":
        return this.#loaded().logits();
      case "dispose":
        return Promise.resolve(this.#dispose());
    }
  }

  /** Returns what is left of it on the GPU, by our own accounting. */
  #dispose(): number {
    const engine = this.#engine;
    this.#engine = undefined;
    engine?.destroy();
    return engine?.gpuBytes ?? 0;
  }

  #loaded(): Engine {
    if (!this.#engine) throw new QwenVLError("DISPOSED", "no model is loaded");
    return this.#engine;
  }

  async #load(request: Extract<Request, { kind: "load" }>, signal: AbortSignal): Promise<ModelInfo> {
    if (!globalThis.isSecureContext) throw new QwenVLError("INSECURE_CONTEXT", "the page is not in a secure context");
    if (this.#backend === "webgpu" && !("gpu" in navigator)) {
      throw new QwenVLError("WEBGPU_UNAVAILABLE", "this browser has no WebGPU in workers");
    }

    const progress = this.#progressOf(request.id);
    const started = this.#startEngine(request.wasmUrl);
    // It may fail while nobody waits for it yet.
    started.catch(() => undefined);
    let compiled = Promise.resolve();
    let encodes: () => void = () => undefined;
    this.#loading = { ahead: new Promise((resolve) => (encodes = resolve)), progress };
    const makeSink = async (manifest: string) => {
      await started;
      const onGpu = this.#backend === "webgpu";
      const subgroups = onGpu && (await offersSubgroups(request.options));
      const create = (taken: () => GPUDevice | undefined) =>
        this.#edge.Loader.create(manifest, { ...request.options, subgroups }, (shaders: readonly string[]) => {
          const device = taken();
          if (device) compiled = compileAhead(device, shaders);
        });
      const loader = await (onGpu ? watchDevice(create, subgroups) : create(() => undefined));
      // What it could not allocate is told before anything is fetched for it.
      await loader.drained();
      loader.checkGpu();
      return new EngineSink(
        loader,
        (engine) => (this.#engine = engine),
        () => compiled.then(encodes),
      );
    };
    const { concurrency, whenBusy } = request;
    try {
      const cache = await this.#openCache(request.cache, progress);
      const weights = { source: makeSource(request.source), cache, makeSink, progress, concurrency, whenBusy, signal };
      const { manifest, sink } = await loadWeights(weights);
      progress.phase("upload");
      await sink.loader.drained();
      sink.loader.complete();
      signal.throwIfAborted();
      progress.phase("compile");
      await compiled;
      // Pictures that came by now are encoded first; from here on they wait for their turn among the other requests.
      const ahead = this.#loading?.ahead;
      this.#loading = undefined;
      await ahead;
      const engine = this.#loaded();
      engine.prepare();
      engine.checkGpu();
      if (request.keptImages !== undefined) engine.keepImages(request.keptImages);
      signal.throwIfAborted();
      if (request.selfCheck) {
        progress.phase("warmup");
        await engine.selfCheck();
        signal.throwIfAborted();
      }
      return this.#finishLoad(engine, manifest, progress);
    } catch (error) {
      this.#dispose();
      throw error;
    } finally {
      this.#loading = undefined;
      encodes();
    }
  }

  #finishLoad(engine: Engine, manifest: Manifest, progress: ProgressCounter): ModelInfo {
    void engine.lost().then((reason) => {
      this.#scope.postMessage({ kind: "lost", error: { code: "DEVICE_LOST", message: `the GPU device was lost: ${String(reason)}` } });
    });
    this.#imageTokens = manifest.config.visual.n_queries;
    progress.phase("ready");
    return {
      source: manifest.provenance.source,
      modifications: manifest.provenance.modifications,
      notices: manifest.files.map(({ file }) => file).filter((file) => file !== manifest.processor.tokenizer_file),
      backend: this.#backend,
      chatFormat: manifest.generation.chat_format,
      contextLength: engine.contextLength,
      imageTokens: this.#imageTokens,
      downloadBytes: filesOf(manifest).reduce((sum, { bytes }) => sum + bytes, 0),
      gpuBytes: engine.gpuBytes,
      adapter: engine.adapter as ModelInfo["adapter"],
    };
  }

  async #maintainCache(request: Extract<Request, { kind: "cache" }>, signal: AbortSignal): Promise<CachedModel[]> {
    const progress = this.#progressOf(request.id);
    const backend = await openStore(request.cache);
    if (!backend) throw new QwenVLError("INVALID_ARGUMENT", "there is no cache to work on");
    let problem: unknown;
    const cache = new WeightCache(backend, (found) => (problem = found));
    await this.#startEngine(request.wasmUrl);
    const tools = { checkManifest: this.#edge.checkManifest, newHash: () => new this.#edge.Hasher() };
    const models = await maintain(request.operation, cache, tools, progress, signal);
    // Here, unlike in a load, storing is what was asked for.
    if (problem) throw QwenVLError.fromData(cacheProblem(problem));
    return models;
  }

  #progressOf(id: number): ProgressCounter {
    return new ProgressCounter((note) => this.#scope.postMessage({ kind: "note", id, note }));
  }

  async #openCache(spec: CacheSpec, progress: ProgressCounter): Promise<WeightCache | undefined> {
    const tell = (problem: unknown) => progress.cacheProblem(cacheProblem(problem));
    try {
      const backend = await openStore(spec);
      return backend && new WeightCache(backend, tell);
    } catch (problem) {
      tell(problem);
      return undefined;
    }
  }

  async #startEngine(wasmUrl: string | undefined): Promise<void> {
    try {
      await (wasmUrl === undefined ? this.#edge.default() : this.#edge.default({ module_or_path: wasmUrl }));
    } catch (cause) {
      throw new QwenVLError("DOWNLOAD", "the package's wasm file could not be loaded", { cause });
    }
    // A panic inside a future never reaches its promise: without this the caller would wait for ever.
    this.#edge.onPanic((message: string) => this.#scope.postMessage({ kind: "fatal", error: { code: "INTERNAL", message } }));
  }

  async #ask(request: Extract<Request, { kind: "ask" }>, signal: AbortSignal): Promise<Calls["ask"]["result"]> {
    const images = this.#imageList(request.images);
    if (!images) return "missing";
    const onEvent = (event: EngineEvent) => {
      this.#scope.postMessage({ kind: "note", id: request.id, note: eventFromEngine(event) });
      return !signal.aborted;
    };
    const answer = (await this.#loaded().ask(request.request, images, onEvent)) as EngineAnswer;
    return { answer: answerFromEngine(answer, this.#imageTokens), pictures: answer.images };
  }

  async #score(request: Extract<Request, { kind: "score" }>, signal: AbortSignal): Promise<Calls["score"]["result"]> {
    const images = this.#imageList(request.images);
    if (!images) return "missing";
    const { prompt, candidates } = request;
    const scores = (await this.#loaded().score({ prompt, candidates }, images, () => !signal.aborted)) as EngineScore[] | null;
    // Whoever aborted does not listen any more.
    return scores ?? [];
  }

  async #encode({ image, hold }: Extract<Request, { kind: "encode" }>): Promise<Calls["encode"]["result"]> {
    const images = this.#imageList([image]);
    if (!images) return "missing";
    const info = (await this.#loaded().holdImage(images)) as PictureInfo;
    if (!hold) this.#loaded().releaseImage(info.id);
    return info;
  }

  async #benchmark(request: Extract<Request, { kind: "benchmark" }>, signal: AbortSignal): Promise<EngineBenchmarkReport> {
    const onStep = (note: Steps) => {
      this.#scope.postMessage({ kind: "note", id: request.id, note });
      return !signal.aborted;
    };
    const report = (await this.#loaded().benchmark(request.options, onStep)) as EngineBenchmarkReport | null;
    if (!report) throw new QwenVLError("INTERNAL", "the benchmark was stopped");
    return report;
  }

  /** Pictures as the engine takes them; nothing if one that it should know is not there any more. */
  #imageList(payloads: ImagePayload[]): Images | undefined {
    const images = new this.#edge.Images();
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
          if (!this.#loaded().keepsImage(payload.id)) return undefined;
          images.pushKept(payload.id);
          break;
      }
    }
    return images;
  }
}

/** The engine as it takes weights. */
class EngineSink implements ShardSink {
  readonly loader: Loader;
  readonly #onEngine: (engine: Engine) => void;
  /** Called when pictures can be encoded. */
  #onEncodes: (() => void) | undefined;
  #hasEngine = false;

  constructor(loader: Loader, onEngine: (engine: Engine) => void, onEncodes: () => void) {
    this.loader = loader;
    this.#onEngine = onEngine;
    this.#onEncodes = onEncodes;
  }

  vocabulary(bytes: Uint8Array): void {
    this.#onEngine(this.loader.engine(bytes));
    this.#hasEngine = true;
    this.#look();
  }

  #look(): void {
    if (!this.#onEncodes || !this.#hasEngine || !this.loader.encodes()) return;
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
