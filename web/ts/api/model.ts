import { wasmLocation, weightsCache } from "./cache.js";
import { check, type CheckOptions, type CheckReport } from "./check.js";
import { WorkerClient, type Backend, type FileLocations } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import { BenchmarkReport, type BenchmarkOptions } from "./benchmark.js";
import { Question, type Content } from "./content.js";
import type { ImageOrientation } from "./image.js";
import { encodePicture, ImageRef, Picture, transferables, type ImageInput } from "./picture.js";
import type { EngineRequest, ImagePayload, KernelSet, PictureInfo, Precision } from "../wire/protocol.js";
import { Run } from "./run.js";
import { Session, type SessionOptions } from "./session.js";
import { captionPrompt, groundPrompt, readPrompt, regionPrompt, TASK_TOKENS, vqaPrompt, type CaptionStyle } from "./tasks.js";
import type { Answer, AskOptions, Box, GenerationOptions, Grounded, Score } from "../wire/types.js";
import { PHASES, type LoadProgress } from "../weights/progress.js";
import { cacheSpec, sourceSpec, type CacheChoice, type ModelSource, type SourceOptions } from "../weights/spec.js";

export interface LoadOptions extends SourceOptions, FileLocations {
  /** Ends the load; its promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
  /** Longest sequence of prompt and answer, tokens. GPU memory grows with it. */
  contextLength?: number;
  /** How keys and values are kept on the GPU: `"f32"` (default), or in half or a quarter of that memory, which changes answers a little. */
  kv?: "f32" | "f16" | "q8";
  /**
   * How far the products of many positions (pictures and prompts) may round where the GPU is faster for it, which the load measures:
   * `"f32"` (default) not at all, `"f16"` to half precision where the GPU has `shader-f16`, `"q8"` also activations to 8 bits. Their sums,
   * and everything else, are f32. `info.adapter.kernels` tells what was chosen.
   */
  precision?: Precision;
  /** @internal Kernels to use rather than the fastest: for tests. */
  kernels?: KernelSet;
  /** Of answers that are given none themselves: the same question then has the same answer. */
  seed?: number;
  /**
   * What computes: `"auto"` (default) is WebGPU, or where there is none the processor, which takes small models only: others are refused
   * with `WEBGPU_UNAVAILABLE` or `NO_ADAPTER`.
   */
  backend?: "auto" | Backend;
  /**
   * Where it computes: `true` (default) is a worker of the package's own; `false` the page's own thread, which then has to wait for it; or
   * a worker whose script imports `qwen-vl-web/worker`, which is the model's from then on and ends with it.
   */
  worker?: boolean | Worker;
  powerPreference?: "high-performance" | "low-power";
  /** Take the browser's software adapter: for tests. */
  forceFallbackAdapter?: boolean;
  /** For pictures that do not say it themselves; `"from-image"` by default, `"none"` is what the original does. */
  imageOrientation?: ImageOrientation;
  /**
   * Whether the kernels are checked on this GPU before the model counts as loaded, which also compiles them; `true` by default. If they
   * are wrong the model is loaded again with the plainest ones, and if these are, the load fails with `GPU_INCORRECT`.
   */
  selfCheck?: boolean;
  /**
   * Pictures that are remembered once they were encoded, beside those of {@link QwenVLModel.encodeImage}; 16 by default, of up to 4 MiB
   * each.
   */
  keptImages?: number;
  /** Where the weights are kept for the next visit: by default the site's private file system, and nowhere for a folder. */
  cache?: CacheChoice;
  /** Asks the browser never to evict the weights; some browsers ask the user then. */
  persist?: boolean;
  /** Files that are loaded side by side; 4 by default. */
  concurrency?: number;
  /** What to do while another tab is loading the same model: `"wait"` (default), or `"fail"` with `BUSY`. */
  whenBusy?: "wait" | "fail";
}

/** Facts about a loaded model. */
export interface ModelInfo {
  /** Name of the checkpoint that was converted. */
  source: string;
  /** What was done to its weights. */
  modifications: string;
  /** The licence of the weights and its notices: names of files in the model's folder. */
  notices: string[];
  /** What computes. */
  backend: Backend;
  /** `chatml` for chat models, `raw` for base models. */
  chatFormat: string;
  /** Longest sequence of prompt and answer, tokens. */
  contextLength: number;
  /** Positions that a picture takes in the prompt. */
  imageTokens: number;
  /** Bytes of all shards. */
  downloadBytes: number;
  /** Bytes of all GPU buffers after loading; without a GPU, of the weights in memory. */
  gpuBytes: number;
  adapter: {
    name: string;
    driver: string;
    backend: string;
    /** The variants of the kernels that run on it, in words; empty without a GPU. */
    kernels: string;
    maxBindingBytes: number;
  };
}

/** Where to start. */
export const QwenVL = {
  /** The models that this site keeps. */
  cache: weightsCache,

  /** Whether this machine can run a model, before it is fetched: see {@link CheckReport}. Never throws but for an abort. */
  check: (source?: string | URL, options: CheckOptions = {}): Promise<CheckReport> => check(source, options),

  /**
   * Loads a model into a worker.
   *
   * @param source address of a folder that `quantize` wrote, or of its `manifest.json`, relative to the page; or such a folder on this
   * machine: its files, as chosen or dropped, or a directory handle
   */
  load(source: ModelSource, options: LoadOptions = {}): Loading {
    const clients: WorkerClient[] = [];
    const loading = (async () => {
      options.signal?.throwIfAborted();
      return new QwenVLModel(await start(source, options, (client) => clients.push(client)), source, options);
    })();
    return Object.assign(loading, {
      async encodeImage(image: ImageInput, encoding: EncodeOptions = {}): Promise<ImageRef> {
        const orientation = encoding.imageOrientation ?? options.imageOrientation ?? "from-image";
        const picture = Picture.of(image, orientation, encoding.signal);
        // What fails here fails again, and is told, when the model is asked to hold the picture.
        await Promise.all(clients.map((client) => encodePicture(client, picture, false, encoding.signal))).catch(() => undefined);
        return (await loading).hold(picture, encoding.signal);
      },
    });
  },
};

/** A model on its way. */
export interface Loading extends Promise<QwenVLModel> {
  /**
   * Looks at a picture as soon as the vision tower is here, while the rest of the model is still coming. The reference is given when the
   * model is.
   */
  encodeImage(image: ImageInput, options?: EncodeOptions): Promise<ImageRef>;
}

export interface EncodeOptions {
  imageOrientation?: ImageOrientation;
  signal?: AbortSignal;
}

/** HTTP/1.1 servers get six connections at most. */
const CONCURRENCY = 4;

/** A worker with a model in it. */
interface Started {
  client: WorkerClient;
  info: ModelInfo;
  ms: number;
  restoredBytes: number;
}

/** One way to load a model. */
interface Way {
  backend: Backend;
  worker: boolean | Worker;
  kernels: KernelSet | undefined;
}

/** Loads a model, in another way where the first is not open on this machine. */
async function start(
  source: ModelSource,
  options: LoadOptions,
  onStart: (client: WorkerClient) => void = () => undefined,
): Promise<Started> {
  const { backend = "auto", worker = true } = options;
  const gpuHere = "gpu" in (globalThis.navigator ?? {});
  let way: Way = { backend: backend === "auto" ? (gpuHere ? "webgpu" : "cpu") : backend, worker, kernels: options.kernels };
  let reached = 0;
  const onProgress = (progress: LoadProgress) => {
    // What another way does again is not told again.
    const at = PHASES.indexOf(progress.phase);
    if (at < reached) return;
    reached = at;
    options.onProgress?.(progress);
  };
  for (let refused: unknown; ;) {
    try {
      return await startOnce(source, { ...options, onProgress }, way, onStart);
    } catch (error) {
      const code = error instanceof QwenVLError ? error.code : undefined;
      const noGpu = way.backend === "webgpu" && (code === "WEBGPU_UNAVAILABLE" || code === "NO_ADAPTER");
      // The worker ended with its load.
      if (typeof worker === "object") throw error;
      if (code === "GPU_INCORRECT" && way.kernels !== "plain") way = { ...way, kernels: "plain" };
      else if (noGpu && code === "WEBGPU_UNAVAILABLE" && way.worker === true && gpuHere) way = { ...way, worker: false };
      else if (noGpu && backend === "auto") [way, refused] = [{ ...way, backend: "cpu", worker }, error];
      // Too large for the processor: then what is wrong with the GPU is what matters.
      else throw code === "WEBGPU_UNAVAILABLE" && refused !== undefined ? refused : error;
    }
  }
}

async function startOnce(
  source: ModelSource,
  options: LoadOptions,
  { backend, worker, kernels }: Way,
  onStart: (client: WorkerClient) => void,
): Promise<Started> {
  const { signal, onProgress } = options;
  const from = sourceSpec(source, options);
  const client =
    worker === true ? WorkerClient.start(options, backend) : worker === false ? await WorkerClient.here(backend) : new WorkerClient(worker);
  onStart(client);
  // Files that are read piece by piece are for workers.
  const usual = worker === false ? "cache-api" : "opfs";
  const cache = cacheSpec(options.cache ?? (from.spec.kind === "url" ? usual : "none"));
  try {
    if (options.persist) await navigator.storage.persist();
    const params = {
      source: from.spec,
      cache: cache.spec,
      concurrency: options.concurrency ?? CONCURRENCY,
      whenBusy: options.whenBusy ?? "wait",
      ...wasmLocation(options, backend),
      selfCheck: options.selfCheck ?? true,
      ...(options.keptImages === undefined ? {} : { keptImages: options.keptImages }),
      options: {
        ...(options.contextLength === undefined ? {} : { contextLength: options.contextLength }),
        ...(options.kv === undefined ? {} : { kv: options.kv }),
        forceFallbackAdapter: options.forceFallbackAdapter ?? false,
        lowPower: options.powerPreference === "low-power",
        ...(options.precision === undefined ? {} : { precision: options.precision }),
        ...(kernels === undefined ? {} : { kernels }),
      },
    };
    const transfer = [...from.transfer, ...cache.transfer];
    const began = performance.now();
    let restoredBytes = 0;
    const onNote = (progress: LoadProgress) => {
      restoredBytes = progress.restoredBytes;
      onProgress?.(progress);
    };
    const info = await client.call("load", params, { transfer, onNote, ...(signal ? { signal } : {}) }).result;
    return { client, info, ms: performance.now() - began, restoredBytes };
  } catch (error) {
    client.end(new QwenVLError("DISPOSED", "the load failed"));
    throw error;
  }
}

/** What a run asks of the engine. */
interface PreparedRequest {
  prompt: EngineRequest["prompt"];
  pictures: readonly Picture[];
}

/** A text to continue, with its pictures: they stand in it as `<img>any name</img>`, in this order. */
export interface RawPrompt {
  prompt: string;
  images?: readonly ImageInput[];
}

/** Options of what is asked about single pictures. */
export interface TaskOptions extends AskOptions {
  imageOrientation?: ImageOrientation;
}

export interface ScoreOptions {
  /** `"mean"` over a candidate's tokens, as the original ranks answers (default), or their `"sum"`. */
  normalize?: "mean" | "sum";
  imageOrientation?: ImageOrientation;
  signal?: AbortSignal;
}

/** The GPU device is gone, or the worker: see {@link QwenVLModel.recover}. */
export class LostEvent extends Event {
  readonly error: QwenVLError;

  /** @internal */
  constructor(error: QwenVLError) {
    super("lost");
    this.error = error;
  }
}

/** What a model tells of itself. */
export interface ModelEventMap {
  lost: LostEvent;
  recovered: Event;
}

/** A model in its worker. */
export class QwenVLModel extends EventTarget {
  readonly #source: ModelSource;
  readonly #options: LoadOptions;
  #started: Started;
  #recovering: Promise<void> | undefined;
  #gone: QwenVLError | undefined;
  /** Runs that have not ended. */
  #running = 0;

  /** @internal */
  constructor(started: Started, source: ModelSource, options: LoadOptions) {
    super();
    this.#source = source;
    this.#options = options;
    this.#started = started;
    this.#listen(started);
  }

  get info(): ModelInfo {
    return this.#started.info;
  }

  /** For pictures that do not say it themselves. */
  get imageOrientation(): ImageOrientation {
    return this.#options.imageOrientation ?? "from-image";
  }

  /** Starts a conversation, or goes on with one: `createSession(JSON.parse(JSON.stringify(session)))`. */
  createSession(options: SessionOptions = {}): Session {
    return new Session(this, options);
  }

  /**
   * Continues a text: the base format, without a chat template.
   *
   * @param prompt pictures stand in it as `<img>any name</img>`
   * @param images the pictures, in the same order
   */
  complete(prompt: string, images: readonly ImageInput[] = [], options: TaskOptions = {}): Run {
    const pictures = images.map((image) => this.#picture(image, options));
    return this.start(async () => ({ prompt: { kind: "raw", text: prompt }, pictures }), options);
  }

  /** Describes a picture, in the words of the evaluation scripts; with `grounded` it points at what it names. */
  caption(image: ImageInput, options: CaptionStyle & TaskOptions = {}): Run {
    return this.#task(captionPrompt(options), image, TASK_TOKENS.caption, options);
  }

  /** A short answer to a question about a picture. */
  vqa(image: ImageInput, question: string, options: TaskOptions = {}): Run {
    return this.#task(vqaPrompt(question), image, TASK_TOKENS.vqa, options);
  }

  /** The text in a picture, each piece with its place. */
  read(image: ImageInput, options: TaskOptions = {}): Run {
    return this.#task(readPrompt(), image, TASK_TOKENS.read, options);
  }

  /** What is in a region of a picture, in thousandths of its sides or in its pixels. */
  describeRegion(image: ImageInput, box: Box, options: TaskOptions & { unit?: "norm" | "pixels" } = {}): Run {
    const picture = this.#picture(image, options);
    const generation = { greedy: true, maxTokens: TASK_TOKENS.region, ...options };
    return this.start(async () => {
      const { width, height } =
        options.unit === "pixels" ? await this.encode(picture, false, options.signal) : { width: 1000, height: 1000 };
      const part = (value: number, whole: number) => Math.min(Math.max(Math.round((value / whole) * 1000), 0), 999);
      const norm: Box = [part(box[0], width), part(box[1], height), part(box[2], width), part(box[3], height)];
      return { prompt: { kind: "raw", text: regionPrompt(norm) }, pictures: [picture] };
    }, generation);
  }

  /** Where things are in a picture: one object for each phrase that the model could place. */
  async ground(image: ImageInput, phrases: string | readonly string[], options: TaskOptions = {}): Promise<Grounded[]> {
    const picture = this.#picture(image, options);
    const found: Grounded[] = [];
    for (const phrase of typeof phrases === "string" ? [phrases] : phrases) {
      const prompt = { kind: "raw", text: groundPrompt(phrase) } as const;
      const run = this.start(async () => ({ prompt, pictures: [picture] }), { greedy: true, maxTokens: TASK_TOKENS.ground, ...options });
      const [object] = (await run).objects;
      if (object) found.push({ ...object, ref: object.ref ?? phrase });
    }
    return found;
  }

  /**
   * How likely each of several texts is to follow. The prompt is run once for all.
   *
   * @param content a question of a chat, or a text as it is with its pictures, as in the original's multiple choice
   * @param candidates with the blank before them, if there is to be one: `" A"`
   */
  async score(content: Content | RawPrompt, candidates: readonly string[], options: ScoreOptions = {}): Promise<Score[]> {
    const { signal, normalize = "mean" } = options;
    signal?.throwIfAborted();
    const orientation = options.imageOrientation ?? this.imageOrientation;
    let request: PreparedRequest;
    if (typeof content === "object" && "prompt" in content) {
      const pictures = (content.images ?? []).map((image) => Picture.of(image, orientation, signal));
      request = { prompt: { kind: "raw", text: content.prompt }, pictures };
    } else {
      const question = new Question(content, orientation, signal);
      for (const picture of question.picturesWithPixelBoxes([])) await this.encode(picture, false, signal);
      request = { prompt: { kind: "chat", history: [], query: question.text([]), overflow: "error" }, pictures: question.pictures };
    }
    const scores = await this.#counted(() =>
      this.#withPictures(
        request.pictures,
        (client, images) =>
          client.call("score", { prompt: request.prompt, candidates: [...candidates], images }, callOptions(images, signal)).result,
      ),
    );
    return scores.map(({ tokens, logprobs }) => {
      const sum = logprobs.reduce((sum, logprob) => sum + logprob, 0);
      return { logprob: normalize === "mean" ? sum / logprobs.length : sum, perToken: logprobs, tokens };
    });
  }

  /** Looks at a picture ahead of its question, and remembers it until the reference is disposed of. */
  async encodeImage(image: ImageInput, options: EncodeOptions = {}): Promise<ImageRef> {
    options.signal?.throwIfAborted();
    return this.hold(this.#picture(image, options), options.signal);
  }

  /** @internal */
  async hold(picture: Picture, signal?: AbortSignal): Promise<ImageRef> {
    const info = await this.encode(picture, true, signal);
    const release = () => void this.#started.client.call("release", { image: info.id }).result.catch(() => undefined);
    return new ImageRef(picture, info, this.info.imageTokens, release);
  }

  /** Tokens of a text. */
  countTokens(text: string): Promise<number> {
    return text === "" ? Promise.resolve(0) : this.count({ kind: "raw", text });
  }

  /** Measures load, picture, prompt and answer on this machine; `String(report)` is a table. The model is busy meanwhile. */
  async benchmark(options: BenchmarkOptions = {}): Promise<BenchmarkReport> {
    const { contexts, prompts, decodeTokens, runs, picture, signal, onProgress } = options;
    const engine = {
      ...(contexts ? { contexts: [...contexts] } : {}),
      ...(prompts ? { prompts: [...prompts] } : {}),
      ...(decodeTokens === undefined ? {} : { decode_tokens: decodeTokens }),
      ...(runs === undefined ? {} : { runs }),
      ...(picture === undefined ? {} : { picture }),
    };
    const { client, info, ms, restoredBytes } = await this.#ready();
    const call = { ...(signal ? { signal } : {}), ...(onProgress ? { onNote: onProgress } : {}) };
    // The engine's own adapter has no more to say of itself than its name.
    const adapter = info.backend === "cpu" ? undefined : globalThis.navigator?.gpu?.requestAdapter();
    const gpu = (await adapter?.catch(() => null))?.info;
    const report = await this.#counted(() => client.call("benchmark", { options: engine }, call).result);
    return new BenchmarkReport(info, gpu, { ms, restoredBytes }, report, options);
  }

  /**
   * Loads the model again after its GPU device, or its worker, was lost; from the cache, where it is kept. Sessions, their pictures and
   * references go on as if nothing had happened; what was running has failed with `DEVICE_LOST` and can be asked again.
   */
  recover(options: Pick<LoadOptions, "signal" | "onProgress"> = {}): Promise<void> {
    if (this.#gone) return Promise.reject(this.#gone);
    this.#recovering ??= (async () => {
      this.#started.client.end(new QwenVLError("DEVICE_LOST", "the model is being loaded again"));
      const { signal: _, onProgress, ...rest } = this.#options;
      const started = await start(this.#source, { ...rest, ...(onProgress ? { onProgress } : {}), ...options });
      if (this.#gone) return started.client.end(this.#gone);
      this.#started = started;
      this.#listen(started);
      this.dispatchEvent(new Event("recovered"));
    })().finally(() => (this.#recovering = undefined));
    return this.#recovering;
  }

  /** Ends the worker and gives its memory back, on the GPU too. Whatever runs rejects. */
  async dispose(): Promise<void> {
    await this.giveBack();
  }

  /** @internal Bytes of GPU buffers that are left, by our own accounting; `undefined` if the worker had to be ended before it could tell. */
  async giveBack(): Promise<number | undefined> {
    if (this.#gone) return undefined;
    this.#gone = new QwenVLError("DISPOSED", "the model was disposed of");
    const { client } = this.#started;
    client.onLost = undefined;
    // The worker frees the GPU between two steps; one that hangs is ended without.
    const patience = new Promise<undefined>((resolve) => setTimeout(resolve, 1000, undefined));
    const left = await Promise.race([client.call("dispose", {}).result.catch(() => undefined), patience]);
    client.end(this.#gone);
    return left;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  override addEventListener<K extends keyof ModelEventMap>(
    type: K,
    listener: (event: ModelEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void {
    super.addEventListener(type, listener as EventListener, options);
  }

  override removeEventListener<K extends keyof ModelEventMap>(
    type: K,
    listener: (event: ModelEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void {
    super.removeEventListener(type, listener as EventListener, options);
  }

  /** @internal Runs a request that is made when its turn comes. */
  start(prepare: () => Promise<PreparedRequest>, options: AskOptions & { ignoreStop?: boolean }): Run {
    const { signal } = options;
    return new Run((emit) => {
      let cancelled = false;
      let cancel = () => {
        cancelled = true;
      };
      const run = async (): Promise<Answer> => {
        signal?.throwIfAborted();
        const { prompt, pictures } = await prepare();
        signal?.throwIfAborted();
        const { seed } = this.#options;
        const request = { prompt, generation: generation({ ...(seed === undefined ? {} : { seed }), ...options }) };
        const { answer, pictures: infos } = await this.#withPictures(pictures, (client, images) => {
          const call = client.call("ask", { request, images }, { ...callOptions(images, signal), onNote: emit });
          cancel = () => call.cancel();
          if (cancelled) cancel();
          return call.result;
        });
        // Of those that were looked at: the last ones, if turns were left out.
        if (answer.finishReason !== "cancelled")
          pictures.slice(pictures.length - infos.length).forEach((picture, at) => (picture.info = infos[at]));
        return answer;
      };
      if (options.queue === false && this.#running > 0) {
        return { answer: Promise.reject(new QwenVLError("BUSY", "the model is answering another question")), cancel };
      }
      return { answer: this.#counted(run), cancel: () => cancel() };
    });
  }

  /** @internal Encodes a picture, unless that was done. */
  async encode(picture: Picture, hold: boolean, signal?: AbortSignal): Promise<PictureInfo> {
    return encodePicture((await this.#ready()).client, picture, hold, signal);
  }

  /** @internal Tokens of a prompt. */
  async count(prompt: EngineRequest["prompt"], signal?: AbortSignal): Promise<number> {
    return (await this.#ready()).client.call("count", { prompt }, signal ? { signal } : {}).result;
  }

  /** @internal The logits that the latest token was chosen from. */
  logits(): Promise<Float32Array> {
    return this.#started.client.call("logits", {}).result;
  }

  /** Does work during which the model is busy. */
  async #counted<T>(work: () => Promise<T>): Promise<T> {
    this.#running += 1;
    try {
      return await work();
    } finally {
      this.#running -= 1;
    }
  }

  #listen({ client }: Started): void {
    client.onLost = (error) => this.dispatchEvent(new LostEvent(error));
  }

  /** The worker, once it has recovered. */
  async #ready(): Promise<Started> {
    if (this.#gone) throw this.#gone;
    await this.#recovering;
    return this.#started;
  }

  #picture(image: ImageInput, options: { imageOrientation?: ImageOrientation; signal?: AbortSignal }): Picture {
    return Picture.of(image, options.imageOrientation ?? this.imageOrientation, options.signal);
  }

  #task(prompt: string, image: ImageInput, maxTokens: number, options: TaskOptions): Run {
    return this.complete(prompt, [image], { greedy: true, maxTokens, ...options });
  }

  /** Sends pictures by name where the worker should know them, and whole if it does not. */
  async #withPictures<T>(
    pictures: readonly Picture[],
    send: (client: WorkerClient, images: ImagePayload[]) => Promise<T | "missing">,
  ): Promise<T> {
    for (let whole = false; ; whole = true) {
      const images = await Promise.all(pictures.map((picture) => picture.payload(whole)));
      const result = await send((await this.#ready()).client, images);
      if (result !== "missing") return result;
    }
  }
}

function callOptions(images: readonly ImagePayload[], signal?: AbortSignal): { transfer: Transferable[]; signal?: AbortSignal } {
  return { transfer: transferables(images), ...(signal ? { signal } : {}) };
}

function generation(options: GenerationOptions & { ignoreStop?: boolean }): EngineRequest["generation"] {
  const { stop, logprobs } = options;
  const settings = {
    max_new_tokens: options.maxTokens,
    min_new_tokens: options.minTokens,
    greedy: options.greedy,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    repetition_penalty: options.repetitionPenalty,
    seed: options.seed,
    stop: stop === undefined ? undefined : typeof stop === "string" ? [stop] : [...stop],
    stop_tokens: options.stopTokens && [...options.stopTokens],
    logprobs: logprobs === true ? 0 : logprobs === false ? undefined : logprobs,
    kv_reuse: options.kvReuse,
    ignore_stop: options.ignoreStop,
  };
  // What is absent must not be there at all: the engine then takes the checkpoint's.
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}
