import { QwenVLError } from "../wire/errors.js";
import { BACKGROUND_MS, DISPOSAL_MS, type WorkerClient } from "../wire/client.js";
import { generationForEngine, limitsForEngine, type EngineLimits, type PictureInfo, type PromptInput } from "../wire/engine.js";
import type { ImagePayload, ModelInfo } from "../wire/protocol.js";
import type { Answer, AskOptions, Box, Grounded, PictureLimits, Score, VideoOptions } from "../wire/types.js";
import type { ModelSource } from "../weights/spec.js";
import { untilAborted } from "../wire/abort.js";
import { BENCHMARK_CHECKS, BenchmarkReport, type BenchmarkOptions } from "./benchmark.js";
import type { Constrainer, OpenConstraint } from "./constrain.js";
import { Question, toThousandths, type Content, type QuestionView } from "./content.js";
import { imageView, type ImageOptions } from "./image.js";
import { loadIntoWorker, type LoadedWorker, type LoadOptions } from "./load.js";
import {
  abortSignal,
  anyBoolean,
  anyString,
  arrayOf,
  ASK_CHECKS,
  checkArgument,
  checkBox,
  checkIsObject,
  checkOptions,
  IMAGE_CHECKS,
  LIMIT_CHECKS,
  oneOf,
  type Check,
  type Checks,
} from "./options.js";
import { encodePicture, ImageRef, Picture, transferables, type ImageInput } from "./picture.js";
import { Run, RunState } from "./run.js";
import { Session, type EncodingOptions, type PreparedRequest, type SessionOptions } from "./session.js";
import { groundConstraint, taskPictureTokens, taskPrompt, taskTokens, type CaptionStyle, type Task } from "./tasks.js";
import { readVideo, VIDEO_CHECKS, type VideoInput, type VideoTools } from "./video.js";

/** A text to continue, with its pictures, in the format of {@link QwenVLModel.complete}. */
export interface RawPrompt {
  prompt: string;
  images?: readonly ImageInput[];
}

/** Options of tasks about a single picture. */
export interface TaskOptions extends AskOptions, ImageOptions {}

export interface GroundOptions extends TaskOptions {
  /** Holds the answers of Qwen2.5-VL and Qwen3-VL to the JSON of their boxes, which then has no other text. */
  strict?: boolean;
}

export interface EncodeOptions extends ImageOptions, PictureLimits {
  signal?: AbortSignal;
}

export interface ScoreOptions extends ImageOptions, PictureLimits {
  /** `"mean"` over a candidate's tokens, as the original ranks answers (default), or their `"sum"`. */
  normalize?: "mean" | "sum";
  signal?: AbortSignal;
}

const ENCODE_CHECKS: Checks<EncodeOptions> = { ...IMAGE_CHECKS, ...LIMIT_CHECKS, signal: abortSignal };
const SCORE_CHECKS: Checks<ScoreOptions> = { ...ENCODE_CHECKS, normalize: oneOf("mean", "sum") };
const anyPictures: Check = { expected: "an array of pictures", accepts: Array.isArray };
const TASK_CHECKS: Checks<TaskOptions & { unit?: "norm" | "pixels" }> = {
  ...ASK_CHECKS,
  ...IMAGE_CHECKS,
  unit: oneOf("norm", "pixels"),
};

/** The GPU device is lost, or the worker: see {@link QwenVLModel.recover}. */
export class LostEvent extends Event {
  readonly error: QwenVLError;

  /** @internal */
  constructor(error: QwenVLError) {
    super("lost");
    this.error = error;
  }
}

/** Events of a model. */
export interface ModelEventMap {
  lost: LostEvent;
  recovered: Event;
}

/** A model that is loaded into a worker. */
export class QwenVLModel extends EventTarget {
  readonly #source: ModelSource;
  readonly #options: LoadOptions;
  #loaded: LoadedWorker;
  #recovering: Promise<void> | undefined;
  /** Reason why the model cannot be used any more. */
  #disposed: QwenVLError | undefined;
  /** Number of runs in progress. */
  #running = 0;
  /** Absent before the first constraint. */
  #constrainer: Promise<Constrainer> | undefined;
  readonly #videos: VideoTools = {
    plan: async (source, options) => (await this.#ready()).client.call("planVideo", { source, options }).result,
    frame: async (image, size) => {
      const { client } = await this.#ready();
      return client.call("frame", { image, ...(size ? { size } : {}) }, { transfer: transferables([image]) }).result;
    },
  };

  /** @internal */
  constructor(loaded: LoadedWorker, source: ModelSource, options: LoadOptions) {
    super();
    this.#source = source;
    this.#options = options;
    this.#loaded = loaded;
    this.#listen(loaded);
  }

  get info(): ModelInfo {
    return this.#loaded.info;
  }

  /** @internal Options of pictures that have none themselves. */
  get imageView(): QuestionView {
    return { ...imageView(this.#options), videos: this.info.family === "qwen_vl" ? undefined : this.#videos };
  }

  /** Starts a conversation, or continues one: `createSession(JSON.parse(JSON.stringify(session)))`. */
  createSession(options: SessionOptions = {}): Session {
    return new Session(this, options);
  }

  /**
   * Continues a text as it is, without a chat template.
   *
   * @param prompt text with pictures: `<img>any name</img>` for the 2023 model, `<|vision_start|><|image_pad|><|vision_end|>` for later ones
   * @param images the pictures, in the same order
   */
  complete(prompt: string, images: readonly ImageInput[] = [], options: TaskOptions = {}): Run {
    // Captured now, even if the run has to wait.
    const pictures = Array.isArray(images) ? images.map((image: ImageInput) => this.#picture(image, options)) : [];
    return this.start(async () => {
      checkOptions(options, { ...ASK_CHECKS, ...IMAGE_CHECKS });
      checkArgument("images", images, anyPictures);
      checkArgument("prompt", prompt, anyString);
      return { prompt: { kind: "raw", text: prompt }, pictures };
    }, options);
  }

  /** Describes a picture. With `grounded` the caption has boxes of the things that it names. */
  caption(image: ImageInput, options: CaptionStyle & TaskOptions = {}): Run {
    checkIsObject("options", options);
    const { lang, grounded } = options;
    const style = { ...(lang === undefined ? {} : { lang }), ...(grounded === undefined ? {} : { grounded }) };
    return this.#task({ kind: "caption", ...style }, image, options);
  }

  /** Answers a question about a picture in a few words. */
  vqa(image: ImageInput, question: string, options: TaskOptions = {}): Run {
    return this.#task({ kind: "vqa", question }, image, options);
  }

  /** Reads the text in a picture, with the place of each piece; Qwen2-VL reports no places. */
  read(image: ImageInput, options: TaskOptions = {}): Run {
    return this.#task({ kind: "read" }, image, options);
  }

  /** Describes a region of a picture, which is given in thousandths of the picture's sides or in pixels. */
  describeRegion(image: ImageInput, box: Box, options: TaskOptions & { unit?: "norm" | "pixels" } = {}): Run {
    const picture = this.#picture(image, options);
    return this.start(
      async () => {
        checkOptions(options, TASK_CHECKS);
        checkBox("box", box);
        const size = options.unit === "pixels" ? await this.encode(picture, false, options) : { width: 1000, height: 1000 };
        return { prompt: taskPrompt({ kind: "region", box: toThousandths(box, size) }, this.info.family), pictures: [picture] };
      },
      this.#taskOptions({ kind: "region", box }, options),
    );
  }

  /**
   * Locates things in a picture. The 2023 model returns one object for each phrase that it could place, later ones all that they find. Their
   * pictures have at least 1024 tokens here, if the load allows it.
   */
  async ground(image: ImageInput, phrases: string | readonly string[], options: GroundOptions = {}): Promise<Grounded[]> {
    const list = typeof phrases === "string" ? [phrases] : phrases;
    checkArgument("phrases", list, arrayOf(anyString, "strings"));
    checkOptions(options, { ...ASK_CHECKS, ...IMAGE_CHECKS, strict: anyBoolean });
    const { strict, ...rest } = options;
    if (strict && rest.constraint) throw new QwenVLError("INVALID_ARGUMENT", "`strict` and `constraint` are set: leave one out");
    const settings = strict ? { ...rest, constraint: groundConstraint(this.info.family) } : rest;
    const picture = this.#picture(image, options);
    const found: Grounded[] = [];
    for (const phrase of list) {
      const task: Task = { kind: "ground", phrase };
      const prompt = taskPrompt(task, this.info.family);
      const { objects } = await this.start(async () => ({ prompt, pictures: [picture] }), this.#taskOptions(task, settings));
      const placed = this.info.family === "qwen_vl" ? objects.slice(0, 1) : objects;
      found.push(...placed.map((object) => ({ ...object, ref: object.ref ?? phrase })));
    }
    return found;
  }

  /**
   * Returns the likelihood of each of several texts as a continuation. The prompt runs once for all of them.
   *
   * @param content a question of a chat; or a raw text with its pictures, as in the original's multiple choice
   * @param candidates each with the space before it, if there is one: `" A"`
   */
  async score(content: Content | RawPrompt, candidates: readonly string[], options: ScoreOptions = {}): Promise<Score[]> {
    checkOptions(options, SCORE_CHECKS);
    checkArgument("candidates", candidates, arrayOf(anyString, "strings"));
    const { signal, normalize = "mean" } = options;
    signal?.throwIfAborted();
    return untilAborted(signal, this.#score(content, candidates, normalize, options));
  }

  /** Encodes a picture ahead of its question and keeps it until the reference is disposed of. */
  async encodeImage(image: ImageInput, options: EncodeOptions = {}): Promise<ImageRef> {
    checkOptions(options, ENCODE_CHECKS);
    options.signal?.throwIfAborted();
    return untilAborted(options.signal, this.hold(this.#picture(image, options), options));
  }

  /** Reads a video ahead of its question, encodes its frames and keeps them until the reference is disposed of. */
  async encodeVideo(video: VideoInput, options: VideoOptions & { signal?: AbortSignal } = {}): Promise<ImageRef> {
    checkOptions(options, { ...VIDEO_CHECKS, signal: abortSignal });
    const { signal, ...rest } = options;
    signal?.throwIfAborted();
    const { videos } = this.imageView;
    if (!videos) throw new QwenVLError("UNSUPPORTED_MODEL", "the 2023 model takes no videos: ask about frames of it, see `sampleFrames`");
    const picture = Picture.ofVideo(video, readVideo(video, rest, videos, signal), rest);
    return untilAborted(signal, this.hold(picture, signal ? { signal } : {}));
  }

  /** @internal */
  async hold(picture: Picture, options: EncodingOptions): Promise<ImageRef> {
    const info = await this.encode(picture, true, options);
    // The worker may have ended: then there is nothing to release.
    const release = () => void this.#loaded.client.call("release", { image: info.id }).result.catch(() => undefined);
    return new ImageRef(picture, info, release);
  }

  /** Returns the number of tokens of a text. */
  async countTokens(text: string): Promise<number> {
    checkArgument("text", text, anyString);
    return text === "" ? 0 : this.count({ prompt: { kind: "raw", text }, pictures: [] }, {});
  }

  /** Measures load, picture, prompt and answer on this machine. `String(report)` is a table. The model is busy meanwhile. */
  async benchmark(options: BenchmarkOptions = {}): Promise<BenchmarkReport> {
    checkOptions(options, BENCHMARK_CHECKS);
    const { contexts, prompts, decodeTokens, runs, picture, signal, onProgress } = options;
    const engine = {
      ...(contexts ? { contexts: [...contexts] } : {}),
      ...(prompts ? { prompts: [...prompts] } : {}),
      ...(decodeTokens === undefined ? {} : { decode_tokens: decodeTokens }),
      ...(runs === undefined ? {} : { runs }),
      ...(picture === undefined ? {} : { picture }),
    };
    const { client, info, loadMs, restoredBytes } = await this.#ready();
    const call = { ...(signal ? { signal } : {}), ...(onProgress ? { onEvent: onProgress } : {}) };
    // The adapter of the engine reports no more than its name.
    const adapter = info.backend === "cpu" ? undefined : globalThis.navigator?.gpu?.requestAdapter();
    const gpu = (await adapter?.catch(() => null))?.info;
    const report = await this.#counted(() => client.call("benchmark", { options: engine }, call).result);
    return new BenchmarkReport(info, gpu, { ms: loadMs, restoredBytes }, report, options);
  }

  /**
   * Loads the model again after its GPU device or its worker was lost, from the cache if it is stored there. Sessions, their pictures and
   * references stay valid. Runs that were in progress have failed with `DEVICE_LOST` and can be asked again. A model that was loaded with
   * a worker of the page cannot recover, because that worker has ended: this rejects with `DISPOSED`.
   */
  recover(options: Pick<LoadOptions, "signal" | "onProgress"> = {}): Promise<void> {
    if (this.#disposed) return Promise.reject(this.#disposed);
    if (typeof this.#options.worker === "object") {
      const message = "the model's own worker ended with it: load the model again with a new Worker";
      return Promise.reject(new QwenVLError("DISPOSED", message));
    }
    this.#recovering ??= (async () => {
      this.#loaded.client.end(new QwenVLError("DEVICE_LOST", "the model is being loaded again"));
      const { signal: _signal, onProgress, ...rest } = this.#options;
      const loaded = await loadIntoWorker(this.#source, { ...rest, ...(onProgress ? { onProgress } : {}), ...options });
      if (this.#disposed) {
        await loaded.client.shutDown(this.#disposed, BACKGROUND_MS);
        return;
      }
      this.#loaded = loaded;
      this.#listen(loaded);
      this.dispatchEvent(new Event("recovered"));
    })().finally(() => (this.#recovering = undefined));
    return this.#recovering;
  }

  /** Ends the worker and frees its memory, on the GPU too. Runs in progress end as cancelled, or reject with `DISPOSED`. */
  async dispose(): Promise<void> {
    await this.disposeCounting();
  }

  /** @internal Disposes of the model. Returns the bytes of GPU buffers that are left, see {@link WorkerClient.shutDown}. */
  async disposeCounting(): Promise<number | undefined> {
    if (this.#disposed) return undefined;
    this.#disposed = new QwenVLError("DISPOSED", "the model was disposed of");
    const left = await this.#loaded.client.shutDown(this.#disposed, DISPOSAL_MS);
    const reason = this.#disposed;
    void this.#constrainer?.then((constrainer) => constrainer.end(reason)).catch(() => undefined);
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

  /** @internal Starts a run. `prepare` returns its request when its turn comes. */
  start(prepare: () => Promise<PreparedRequest>, options: AskOptions & { ignoreStop?: boolean }): Run {
    return new Run((emit) => {
      const state = new RunState(emit);
      const answer = async (): Promise<Answer> => {
        checkOptions(options, ASK_CHECKS);
        const { signal } = options;
        signal?.throwIfAborted();
        if (options.queue === false && this.#running > 0) throw new QwenVLError("BUSY", "the model is answering another question");
        const work = this.#counted(() => this.#answer(prepare, options, state));
        return untilAborted(signal, Promise.race([work, state.cancelledEarly]));
      };
      return { answer: answer(), cancel: () => state.cancel() };
    });
  }

  /** @internal Encodes a picture, unless the worker has it. */
  async encode(picture: Picture, hold: boolean, options: EncodingOptions): Promise<PictureInfo> {
    return encodePicture((await this.#ready()).client, picture, limitsForEngine(options), hold, options.signal);
  }

  /** @internal Returns the number of tokens of a prompt. */
  async count({ prompt, pictures }: PreparedRequest, options: EncodingOptions): Promise<number> {
    // Only pictures of any size have to be there to be counted.
    const counted = this.info.family === "qwen_vl" ? [] : pictures;
    return this.#withPictures(counted, options, (client, images, limits) => {
      return client.call("count", { prompt, images, limits }, callOptions(images, options.signal)).result;
    });
  }

  /** @internal Returns the logits that the latest token was chosen from. */
  logits(): Promise<Float32Array> {
    return this.#loaded.client.call("logits", {}).result;
  }

  async #answer(prepare: () => Promise<PreparedRequest>, options: AskOptions & { ignoreStop?: boolean }, state: RunState): Promise<Answer> {
    const { signal } = options;
    const { prompt, pictures } = await prepare();
    signal?.throwIfAborted();
    if (state.isCancelled) return state.cancelledEarly;
    const { seed } = this.#options;
    const generation = generationForEngine({ ...(seed === undefined ? {} : { seed }), ...options });
    const { answer, pictures: infos } = await this.#withPictures(pictures, options, async (client, images, limits) => {
      const request = { prompt: withPrefix(prompt, options.prefix), generation, pictures: limits };
      const { constraint, prefix = "" } = options;
      const open = constraint && (await (await this.#constraints()).open(constraint, prefix, () => client.call("tokens", {}).result));
      if (open && signal?.aborted) {
        // The call is not sent, and the port stays here.
        open.port.postMessage(undefined);
        open.port.close();
      }
      const { transfer, ...rest } = callOptions(images, signal);
      const params = { request, images, ...(open ? { constraint: open.port } : {}) };
      const call = client.call("ask", params, {
        ...rest,
        transfer: open ? [...transfer, open.port] : transfer,
        onEvent: (event) => state.emit(event),
      });
      state.follow(call);
      return open ? untilLost(call, open) : call.result;
    });
    // If turns were left out, the prompt has the last of the pictures.
    if (answer.finishReason !== "cancelled") {
      const used = pictures.slice(pictures.length - infos.length);
      infos.forEach((info, index) => used[index]?.encoded(info, limitsForEngine(options)));
    }
    return answer;
  }

  async #constraints(): Promise<Constrainer> {
    const loading = (this.#constrainer ??= import("./constrain.js").then(
      ({ Constrainer }) => new Constrainer(this.#options, this.#options.worker === false),
    ));
    // The next constraint tries again.
    loading.catch(() => (this.#constrainer = undefined));
    const constrainer = await loading;
    if (this.#disposed) throw this.#disposed;
    return constrainer;
  }

  async #score(
    content: Content | RawPrompt,
    candidates: readonly string[],
    normalize: "mean" | "sum",
    options: ScoreOptions,
  ): Promise<Score[]> {
    const { signal } = options;
    const { prompt, pictures } = await this.#scorePrompt(content, options);
    const scores = await this.#counted(() =>
      this.#withPictures(pictures, options, (client, images, limits) => {
        return client.call("score", { prompt, candidates: [...candidates], images, limits }, callOptions(images, signal)).result;
      }),
    );
    return scores.map(({ tokens, logprobs }) => {
      const sum = logprobs.reduce((sum, logprob) => sum + logprob, 0);
      return { logprob: normalize === "mean" ? sum / logprobs.length : sum, perToken: logprobs, tokens };
    });
  }

  async #scorePrompt(content: Content | RawPrompt, options: ScoreOptions): Promise<PreparedRequest> {
    if (typeof content === "object" && content !== null && "prompt" in content) {
      const { images = [] } = content;
      checkArgument("prompt", content.prompt, anyString);
      checkArgument("images", images, anyPictures);
      const pictures = images.map((image) => this.#picture(image, options));
      return { prompt: { kind: "raw", text: content.prompt }, pictures };
    }
    const view = { ...this.imageView, ...imageView(options, this.imageView) };
    const question = new Question(content, view, options.signal);
    for (const picture of question.picturesWithPixelBoxes([])) await this.encode(picture, false, options);
    return { prompt: { kind: "chat", history: [], query: question.parts([]), overflow: "error" }, pictures: question.pictures };
  }

  /** Counts `work` as a run while it is in progress. */
  async #counted<T>(work: () => Promise<T>): Promise<T> {
    this.#running += 1;
    try {
      return await work();
    } finally {
      this.#running -= 1;
    }
  }

  #listen({ client }: LoadedWorker): void {
    client.onLost = (error) => this.dispatchEvent(new LostEvent(error));
  }

  /** Returns the worker, after a recovery in progress. */
  async #ready(): Promise<LoadedWorker> {
    if (this.#disposed) throw this.#disposed;
    await this.#recovering;
    return this.#loaded;
  }

  #picture(image: ImageInput, options: ImageOptions & { signal?: AbortSignal }): Picture {
    checkIsObject("options", options);
    return Picture.of(image, imageView(options, this.imageView), options.signal);
  }

  #task(task: Task, image: ImageInput, options: TaskOptions): Run {
    // Captured now, even if the run has to wait.
    const picture = this.#picture(image, options);
    return this.start(
      async () => {
        checkOptions(options, { ...ASK_CHECKS, ...IMAGE_CHECKS });
        return { prompt: taskPrompt(task, this.info.family), pictures: [picture] };
      },
      this.#taskOptions(task, options),
    );
  }

  /** Adds the defaults of a task: greedy, as in the evaluation scripts, unless a sampling option asks for sampling. */
  #taskOptions(task: Task, options: TaskOptions): TaskOptions {
    const samples = [options.temperature, options.topP, options.topK].some((option) => option !== undefined);
    const { family, pictureTokens } = this.info;
    const minPictureTokens = family === "qwen_vl" ? undefined : taskPictureTokens(task, options.maxPictureTokens ?? pictureTokens.max);
    return {
      ...(samples ? {} : { greedy: true }),
      ...(minPictureTokens === undefined ? {} : { minPictureTokens }),
      maxTokens: taskTokens(task.kind, family),
      ...options,
    };
  }

  /** Sends pictures by name if the worker has them, and sends them whole if it answers that one is missing. */
  async #withPictures<T>(
    pictures: readonly Picture[],
    options: PictureLimits,
    send: (client: WorkerClient, images: ImagePayload[], limits: EngineLimits) => Promise<T | "missing">,
  ): Promise<T> {
    const limits = limitsForEngine(options);
    for (let whole = false; ; whole = true) {
      const images = await Promise.all(pictures.map((picture) => picture.payload(whole, limits)));
      const result = await send((await this.#ready()).client, images, limits);
      if (result !== "missing") return result;
    }
  }
}

/** Returns the result of a call whose answer has a constraint. Without the worker of constraints it cannot continue. */
async function untilLost<T>(call: { result: Promise<T>; cancel(): void }, { onLost }: OpenConstraint): Promise<T> {
  let ignore: (() => void) | undefined;
  const lost = new Promise<never>((_, reject) => {
    ignore = onLost((reason) => {
      call.cancel();
      reject(reason);
    });
  });
  try {
    return await Promise.race([call.result, lost]);
  } finally {
    ignore?.();
  }
}

/** Returns a prompt with the beginning of its answer. */
function withPrefix(prompt: PromptInput, prefix: string | undefined): PromptInput {
  if (prefix === undefined) return prompt;
  if (prompt.kind === "raw") return { ...prompt, text: prompt.text + prefix };
  if (prompt.kind === "ids")
    throw new QwenVLError("INVALID_ARGUMENT", "`prefix` is set, but the prompt is a list of token ids: add its tokens");
  return { ...prompt, prefix };
}

function callOptions(images: readonly ImagePayload[], signal?: AbortSignal): { transfer: Transferable[]; signal?: AbortSignal } {
  return { transfer: transferables(images), ...(signal ? { signal } : {}) };
}
