/** The worker's side of the connection to the page: answers calls with the engine, one after the other. */

import { answerFromEngine, eventFromEngine } from "../wire/engine.js";
import type { EngineAnswer, EngineBenchmarkReport, EngineEvent, EngineScore, ModelFacts, PictureInfo, VideoPlan } from "../wire/engine.js";
import { errorData, QwenVLError } from "../wire/errors.js";
import type { Estimate } from "../wire/generated.js";
import type { Backend, Call, CallKind, Calls, ModelInfo, Reply, Request, Steps } from "../wire/protocol.js";
import { filesOf, WeightCache } from "../weights/cache.js";
import { KernelRecords } from "../weights/kernels.js";
import { loadWeights } from "../weights/load.js";
import { inspectModel } from "../weights/inspect.js";
import { maintain, type CacheContents } from "../weights/maintain.js";
import type { Manifest } from "../weights/manifest.js";
import { ProgressCounter } from "../weights/progress.js";
import { makeSource, openStore, type CacheSpec } from "../weights/spec.js";
import type { Engine } from "../wasm/qwen_vl_web.js";
import { RemoteConstraint } from "./constraint.js";
import type { Edge } from "./edge.js";
import { engineImages, frameOf } from "./images.js";
import { Gate, Model } from "./model.js";

/** The parts of a worker's global scope that are used; a message port has them, too. */
export interface Scope {
  postMessage(message: Reply, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

/** Answers the calls of a page that arrive at `scope`. One model at a time. Returns a function that frees the model. */
export function serve(scope: Scope, edge: Edge, backend: Backend): () => void {
  const server = new Server(scope, edge, backend);
  return () => server.end();
}

/** Longest time between an operation that a browser refuses on a lost device and its report of the loss, in milliseconds. */
const LOSS_MS = 500;
/** Longest time that a load takes for the licence and the notices. */
const NOTICES_MS = 3000;

function lossOf(reason: unknown): QwenVLError {
  return new QwenVLError("DEVICE_LOST", `the GPU device was lost: ${String(reason)}`);
}

type CallOf<K extends CallKind> = Extract<Call, { kind: K }>;

class Server {
  readonly #scope: Scope;
  readonly #edge: Edge;
  readonly #backend: Backend;
  readonly #controllers = new Map<number, AbortController>();
  /** The model that is loaded or being loaded. */
  #model: Model | undefined;
  #queue: Promise<void> = Promise.resolve();
  /** The load in progress: pictures can be encoded before it completes. */
  #loading: { early: Gate; progress: ProgressCounter } | undefined;

  constructor(scope: Scope, edge: Edge, backend: Backend) {
    this.#scope = scope;
    this.#edge = edge;
    this.#backend = backend;
    scope.onmessage = ({ data: request }) => this.#receive(request);
  }

  /** Aborts all calls and frees the model. */
  end(): void {
    for (const controller of this.#controllers.values()) controller.abort();
    void this.#free();
  }

  #receive(request: Request): void {
    if (request.kind === "cancel") {
      this.#controllers.get(request.id)?.abort();
      return;
    }
    // A long call ends now; the reply comes after it.
    if (request.kind === "dispose") this.end();
    const controller = new AbortController();
    this.#controllers.set(request.id, controller);
    const work = () => this.#answer(request, controller.signal);
    if (request.kind === "encode" && this.#loading) {
      const { early, progress } = this.#loading;
      early.add(() => work().then(() => progress.pictureEncoded()));
    } else this.#queue = this.#queue.then(work);
  }

  /** Never rejects. */
  async #answer(call: Call, signal: AbortSignal): Promise<void> {
    const { id } = call;
    try {
      const result = await this.#result(call, signal);
      this.#scope.postMessage({ kind: "done", id, result });
    } catch (caught) {
      const error = await this.#causeOf(caught);
      const data = errorData(error);
      // After a trap the module's memory is in an unknown state.
      if (error instanceof WebAssembly.RuntimeError) this.#scope.postMessage({ kind: "fatal", error: data });
      else this.#scope.postMessage({ kind: "error", id, error: data });
    } finally {
      this.#controllers.delete(id);
    }
  }

  async #result(call: Call, signal: AbortSignal): Promise<Calls[CallKind]["result"]> {
    switch (call.kind) {
      case "load":
        return this.#load(call, signal);
      case "cache":
        return this.#maintainCache(call, signal);
      case "inspect":
        return this.#inspect(call, signal);
      case "ask":
        return this.#ask(call, signal);
      case "score":
        return this.#score(call, signal);
      case "encode":
        return this.#encode(call);
      case "planVideo":
        return this.#engine.planVideo(call.source, call.options) as VideoPlan;
      case "frame":
        return frameOf(this.#edge, call.image, call.size);
      case "release":
        // After the model is freed there is nothing to release.
        if (this.#model && !this.#model.isFreed) this.#model.engine.releaseImage(call.image);
        return undefined;
      case "count":
        return this.#count(call);
      case "benchmark":
        return this.#benchmark(call, signal);
      case "logits":
        return this.#engine.logits();
      case "tokens":
        return this.#engine.tokenTable();
      case "dispose":
        return this.#free();
    }
  }

  /** Frees the model. A call in progress rejects with `DISPOSED`. Returns the bytes of GPU buffers that are left. Never rejects. */
  async #free(): Promise<number> {
    return (await this.#model?.free()) ?? 0;
  }

  get #engine(): Engine {
    if (!this.#model) throw new QwenVLError("DISPOSED", "no model is loaded");
    return this.#model.engine;
  }

  async #load(call: CallOf<"load">, signal: AbortSignal): Promise<ModelInfo> {
    if (!globalThis.isSecureContext) throw new QwenVLError("INSECURE_CONTEXT", "the page is not in a secure context");
    if (this.#backend === "webgpu" && !("gpu" in navigator)) {
      throw new QwenVLError("WEBGPU_UNAVAILABLE", "this browser has no WebGPU in workers");
    }
    await this.#free();
    const progress = this.#progressOf(call.id);
    const early = new Gate();
    this.#loading = { early, progress };
    try {
      const { manifest, model } = await this.#loadWeights(call, signal, progress, early.open);
      progress.phase("upload");
      await model.upload();
      signal.throwIfAborted();
      progress.phase("compile");
      await model.compiled;
      // Encode the pictures that have arrived so far. From now on pictures wait in the queue, as all other calls do.
      this.#loading = undefined;
      await early.done;
      model.prepare(call.keptImages);
      signal.throwIfAborted();
      if (call.selfCheck) {
        progress.phase("warmup");
        await model.engine.selfCheck();
        signal.throwIfAborted();
      }
      await model.keepKernels();
      this.#watchLoss(model);
      progress.phase("ready");
      return this.#modelInfo(model.engine, manifest);
    } catch (error) {
      // Before the device is destroyed, which is a loss too.
      const cause = await this.#causeOf(error);
      void this.#free();
      throw cause;
    } finally {
      this.#loading = undefined;
      early.open();
    }
  }

  /** Returns the loss of the GPU device if an internal error follows from it: Firefox refuses operations before it reports the loss. */
  async #causeOf(error: unknown): Promise<unknown> {
    const model = this.#model;
    if (!model?.hasEngine || model.isFreed || error instanceof WebAssembly.RuntimeError || errorData(error).code !== "INTERNAL")
      return error;
    const lost = model.engine.lost().then(lossOf);
    const cause = await Promise.race([lost, new Promise<undefined>((resolve) => setTimeout(resolve, LOSS_MS))]);
    return model.isFreed ? error : (cause ?? error);
  }

  async #loadWeights(
    call: CallOf<"load">,
    signal: AbortSignal,
    progress: ProgressCounter,
    onEncodes: () => void,
  ): Promise<{ manifest: Manifest; model: Model }> {
    const started = this.#startModule(call.wasmUrl);
    // The manifest is fetched meanwhile. A failure is reported when `started` is awaited.
    started.catch(() => undefined);
    const { concurrency, whenBusy, options } = call;
    const cache = await this.#openCache(call.cache, progress);
    const choosesKernels = options.tuning !== false && options.kernels === undefined;
    const records = cache && choosesKernels ? new KernelRecords(cache.store) : undefined;
    const makeSink = async (text: string) => {
      await started;
      this.#model = await Model.create(this.#edge, this.#backend, text, options, records, onEncodes);
      // The page begins the conversion now: it is known that the model can be allocated.
      if (call.source.kind === "conversion") progress.phase("convert");
      return this.#model;
    };
    const settings = { source: makeSource(call.source), cache, progress, concurrency, whenBusy, signal, noticesMs: NOTICES_MS };
    const { manifest, sink: model } = await loadWeights({ ...settings, makeSink });
    return { manifest, model };
  }

  #modelInfo(engine: Engine, manifest: Manifest): ModelInfo {
    const { family, contextLength, pictureTokens } = engine.facts as ModelFacts;
    const [min, max] = pictureTokens;
    return {
      source: manifest.provenance.source,
      modifications: manifest.provenance.modifications,
      notices: manifest.files.map(({ file }) => file).filter((file) => file !== manifest.processor.tokenizer_file),
      backend: this.#backend,
      family,
      chatFormat: manifest.generation.chat_format,
      contextLength,
      pictureTokens: { min, max },
      downloadBytes: filesOf(manifest).reduce((sum, { bytes }) => sum + bytes, 0),
      gpuBytes: engine.gpuBytes,
      adapter: engine.adapter as ModelInfo["adapter"],
    };
  }

  /** Reports the loss of the GPU device, unless it is lost because the model is freed. */
  #watchLoss(model: Model): void {
    void model.engine.lost().then((reason) => {
      if (!model.isFreed) this.#scope.postMessage({ kind: "lost", error: errorData(lossOf(reason)) });
    });
  }

  async #inspect({ source, cache, options, wasmUrl }: CallOf<"inspect">, signal: AbortSignal): Promise<Calls["inspect"]["result"]> {
    await this.#startModule(wasmUrl);
    // A page without storage has no stored model; the check of the storage itself is the page's.
    const store = await openStore(cache).catch(() => undefined);
    const estimate = (manifest: string) => this.#edge.estimate(manifest, options) as Estimate;
    return inspectModel(makeSource(source), store && new WeightCache(store), estimate, signal);
  }

  async #maintainCache(call: CallOf<"cache">, signal: AbortSignal): Promise<CacheContents> {
    const progress = this.#progressOf(call.id);
    const store = await openStore(call.cache);
    if (!store) throw new QwenVLError("INVALID_ARGUMENT", '`cache` is "none", expected a cache store to work on');
    await this.#startModule(call.wasmUrl);
    const tools = { checkManifest: this.#edge.checkManifest, newHash: () => new this.#edge.Hasher() };
    return maintain(call.operation, store, tools, progress, signal);
  }

  #progressOf(id: number): ProgressCounter {
    return new ProgressCounter((event) => this.#scope.postMessage({ kind: "event", id, event }));
  }

  /** Opens the cache. A load continues without it if it cannot be opened. */
  async #openCache(spec: CacheSpec, progress: ProgressCounter): Promise<WeightCache | undefined> {
    const report = (problem: unknown) => progress.cacheProblem(errorData(problem));
    try {
      const store = await openStore(spec);
      return store && new WeightCache(store, report);
    } catch (problem) {
      report(problem);
      return undefined;
    }
  }

  /** Instantiates the wasm module. */
  async #startModule(wasmUrl: string | undefined): Promise<void> {
    try {
      await (wasmUrl === undefined ? this.#edge.default() : this.#edge.default({ module_or_path: wasmUrl }));
    } catch (cause) {
      throw new QwenVLError("DOWNLOAD", "the package's wasm file could not be loaded", { cause });
    }
    // The promise of a future that panics never settles, so the page gets a message.
    this.#edge.onPanic((message: string) => this.#scope.postMessage({ kind: "fatal", error: { code: "INTERNAL", message } }));
  }

  async #ask(call: CallOf<"ask">, signal: AbortSignal): Promise<Calls["ask"]["result"]> {
    const constraint = call.constraint && new RemoteConstraint(call.constraint, signal);
    try {
      const images = await engineImages(this.#edge, this.#engine, call.images);
      if (!images) return "missing";
      const onEvent = (event: EngineEvent) => this.#scope.postMessage({ kind: "event", id: call.id, event: eventFromEngine(event) });
      const answer = (await this.#engine.ask(call.request, images, onEvent, signal, constraint)) as EngineAnswer;
      return { answer: answerFromEngine(answer), pictures: answer.images };
    } finally {
      constraint?.close();
    }
  }

  async #score({ prompt, candidates, images: payloads, limits }: CallOf<"score">, signal: AbortSignal): Promise<Calls["score"]["result"]> {
    const images = await engineImages(this.#edge, this.#engine, payloads);
    if (!images) return "missing";
    const scores = (await this.#engine.score({ prompt, candidates, pictures: limits }, images, () => undefined, signal)) as
      EngineScore[] | null;
    // `null` after an abort: the caller has its rejection already.
    return scores ?? [];
  }

  async #count({ prompt, images: payloads, limits }: CallOf<"count">): Promise<Calls["count"]["result"]> {
    const images = await engineImages(this.#edge, this.#engine, payloads);
    return images ? this.#engine.count(prompt, images, limits) : "missing";
  }

  async #encode({ image, limits, hold }: CallOf<"encode">): Promise<Calls["encode"]["result"]> {
    const engine = this.#engine;
    const images = await engineImages(this.#edge, engine, [image]);
    if (!images) return "missing";
    const info = (await engine.holdImage(images, limits)) as PictureInfo;
    if (!hold) engine.releaseImage(info.id);
    return info;
  }

  async #benchmark(call: CallOf<"benchmark">, signal: AbortSignal): Promise<EngineBenchmarkReport> {
    const onStep = (event: Steps) => this.#scope.postMessage({ kind: "event", id: call.id, event });
    const report = (await this.#engine.benchmark(call.options, onStep, signal)) as EngineBenchmarkReport | null;
    if (!report) throw new QwenVLError("INTERNAL", "the benchmark was aborted");
    return report;
  }
}
