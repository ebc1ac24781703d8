import { WorkerClient } from "./client.js";
import { QwenVLError } from "./errors.js";
import { imagePayload, type ImageInput } from "./image.js";
import type { EngineRequest, ImagePayload } from "./protocol.js";
import { Run } from "./run.js";
import { Session, type SessionOptions } from "./session.js";
import type { AskOptions } from "./types.js";

/** How far a load is. */
export interface LoadProgress {
  phase: "manifest" | "download" | "ready";
  /** Bytes of weights on the GPU. */
  bytes: number;
  totalBytes: number;
  /** Shards that are complete. */
  shard: number;
  shards: number;
}

export interface LoadOptions {
  /** Ends the load; its promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
  /** Longest sequence of prompt and answer, tokens. GPU memory grows with it. */
  contextLength?: number;
  powerPreference?: "high-performance" | "low-power";
  /** Take the browser's software adapter: for tests. */
  forceFallbackAdapter?: boolean;
  /** Where the package's wasm file is, if it was moved. */
  wasmUrl?: string | URL;
  /** Where the package's worker script is, if it was moved. */
  workerUrl?: string | URL;
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
  /**
   * Loads a model into a worker.
   *
   * @param source address of a folder that `quantize` wrote, or of its `manifest.json`; relative to the page
   */
  async load(source: string | URL, options: LoadOptions = {}): Promise<QwenVLModel> {
    const { signal, onProgress, wasmUrl, workerUrl } = options;
    signal?.throwIfAborted();
    const url = manifestUrl(source);
    if (typeof Worker === "undefined") throw new QwenVLError("WEBGPU_UNAVAILABLE", "there are no workers here: models run in browsers");
    // The literal lets bundlers find the worker.
    const worker = workerUrl
      ? new Worker(workerUrl, { type: "module" })
      : new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    const client = new WorkerClient(worker);
    try {
      const params = {
        url,
        ...(wasmUrl ? { wasmUrl: absolute(wasmUrl).href } : {}),
        options: {
          ...(options.contextLength === undefined ? {} : { contextLength: options.contextLength }),
          forceFallbackAdapter: options.forceFallbackAdapter ?? false,
          lowPower: options.powerPreference === "low-power",
        },
      };
      const callOptions = { ...(signal ? { signal } : {}), ...(onProgress ? { onNote: onProgress } : {}) };
      return new QwenVLModel(client, await client.call("load", params, callOptions).result);
    } catch (error) {
      client.end(new QwenVLError("DISPOSED", "the load failed"));
      throw error;
    }
  },
};

/** Relative to the page, not to the worker's script. */
function absolute(address: string | URL): URL {
  try {
    return new URL(address, globalThis.document?.baseURI);
  } catch (cause) {
    throw new QwenVLError("INVALID_ARGUMENT", `not an address: ${String(address)}`, { cause });
  }
}

function manifestUrl(source: string | URL): string {
  const url = absolute(source);
  if (!url.pathname.endsWith(".json")) {
    if (!url.pathname.endsWith("/")) url.pathname += "/";
    url.pathname += "manifest.json";
  }
  return url.href;
}

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
