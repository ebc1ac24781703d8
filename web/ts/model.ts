import { wasmLocation, weightsCache } from "./cache.js";
import { check, type CheckOptions, type CheckReport } from "./check.js";
import { WorkerClient, type FileLocations } from "./client.js";
import { QwenVLError } from "./errors.js";
import { imagePayload, type ImageInput } from "./image.js";
import type { EngineRequest, ImagePayload } from "./protocol.js";
import { Run } from "./run.js";
import { Session, type SessionOptions } from "./session.js";
import type { AskOptions } from "./types.js";
import type { LoadProgress } from "./weights/progress.js";
import { cacheSpec, sourceSpec, type CacheChoice, type ModelSource, type SourceOptions } from "./weights/spec.js";

export interface LoadOptions extends SourceOptions, FileLocations {
  /** Ends the load; its promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
  /** Longest sequence of prompt and answer, tokens. GPU memory grows with it. */
  contextLength?: number;
  powerPreference?: "high-performance" | "low-power";
  /** Take the browser's software adapter: for tests. */
  forceFallbackAdapter?: boolean;
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
  /** `chatml` for chat models, `raw` for base models. */
  chatFormat: string;
  /** Longest sequence of prompt and answer, tokens. */
  contextLength: number;
  /** Positions that a picture takes in the prompt. */
  imageTokens: number;
  /** Bytes of all shards. */
  downloadBytes: number;
  /** Bytes of all GPU buffers after loading. */
  gpuBytes: number;
  adapter: { name: string; driver: string; backend: string; maxBindingBytes: number };
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
  async load(source: ModelSource, options: LoadOptions = {}): Promise<QwenVLModel> {
    const { signal, onProgress } = options;
    signal?.throwIfAborted();
    const from = sourceSpec(source, options);
    const client = WorkerClient.start(options);
    const cache = cacheSpec(options.cache ?? (from.spec.kind === "url" ? "opfs" : "none"));
    try {
      if (options.persist) await navigator.storage.persist();
      const params = {
        source: from.spec,
        cache: cache.spec,
        concurrency: options.concurrency ?? CONCURRENCY,
        whenBusy: options.whenBusy ?? "wait",
        ...wasmLocation(options),
        options: {
          ...(options.contextLength === undefined ? {} : { contextLength: options.contextLength }),
          forceFallbackAdapter: options.forceFallbackAdapter ?? false,
          lowPower: options.powerPreference === "low-power",
        },
      };
      const transfer = [...from.transfer, ...cache.transfer];
      const callOptions = { transfer, ...(signal ? { signal } : {}), ...(onProgress ? { onNote: onProgress } : {}) };
      return new QwenVLModel(client, await client.call("load", params, callOptions).result);
    } catch (error) {
      client.end(new QwenVLError("DISPOSED", "the load failed"));
      throw error;
    }
  },
};

/** HTTP/1.1 servers get six connections at most. */
const CONCURRENCY = 4;

/** What a run asks of the engine. */
interface PreparedRequest {
  prompt: EngineRequest["prompt"];
  images: ImagePayload[];
}

/** A model in its worker. */
export class QwenVLModel {
  readonly info: ModelInfo;
  readonly #client: WorkerClient;

  /** @internal */
  constructor(client: WorkerClient, info: ModelInfo) {
    this.#client = client;
    this.info = info;
  }

  /** Starts a conversation. */
  createSession(options: SessionOptions = {}): Session {
    return new Session(this, options);
  }

  /**
   * Continues a text: the base format, without a chat template.
   *
   * @param prompt pictures stand in it as `<img>any name</img>`
   * @param images the pictures, in the same order
   */
  complete(prompt: string, images: readonly ImageInput[] = [], options: AskOptions = {}): Run {
    return this.start(async () => {
      const payloads = images.map((image) => imagePayload(image, false, options.signal));
      return { prompt: { kind: "raw", text: prompt }, images: await Promise.all(payloads) };
    }, options);
  }

  /** Ends the worker and gives its memory back, on the GPU too. Whatever runs rejects. */
  async dispose(): Promise<void> {
    const gone = new QwenVLError("DISPOSED", "the model was disposed of");
    // The worker frees the GPU between two steps; one that hangs is ended without.
    const patience = new Promise((resolve) => setTimeout(resolve, 1000));
    await Promise.race([this.#client.call("dispose", {}).result.catch(() => undefined), patience]);
    this.#client.end(gone);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @internal Runs a request that is made when its turn comes. */
  start(prepare: () => Promise<PreparedRequest>, options: AskOptions & { ignoreStop?: boolean }): Run {
    const { signal } = options;
    return new Run((emit) => {
      let cancelled = false;
      let cancel = () => {
        cancelled = true;
      };
      const answer = (async () => {
        signal?.throwIfAborted();
        const { prompt, images } = await prepare();
        signal?.throwIfAborted();
        const params = { request: { prompt, generation: generation(options) }, images };
        const transfer = images.map((image) => (image.kind === "encoded" ? image.bytes.buffer : image.pixels.buffer));
        const call = this.#client.call("ask", params, { transfer, onNote: emit, ...(signal ? { signal } : {}) });
        cancel = () => call.cancel();
        if (cancelled) cancel();
        return await call.result;
      })();
      return { answer, cancel: () => cancel() };
    });
  }

  /** @internal The logits that the latest token was chosen from. */
  logits(): Promise<Float32Array> {
    return this.#client.call("logits", {}).result;
  }
}

function generation(options: AskOptions & { ignoreStop?: boolean }): EngineRequest["generation"] {
  const { maxTokens, greedy, temperature, topP, topK, seed, ignoreStop } = options;
  return {
    ...(maxTokens === undefined ? {} : { max_new_tokens: maxTokens }),
    ...(greedy === undefined ? {} : { greedy }),
    ...(temperature === undefined ? {} : { temperature }),
    ...(topP === undefined ? {} : { top_p: topP }),
    ...(topK === undefined ? {} : { top_k: topK }),
    ...(seed === undefined ? {} : { seed }),
    ...(ignoreStop === undefined ? {} : { ignore_stop: ignoreStop }),
  };
}
