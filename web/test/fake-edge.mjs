// A stand-in for the wasm edge and its worker, in Node. As in `web/src/shared.rs`, one call runs at a time and others fail with BUSY, and
// `destroy` ends the call in progress.

import { setImmediate } from "node:timers/promises";
import { serve } from "../dist/worker/serve.js";
import { makeModel } from "./memory.mjs";

const failure = (code) => Object.assign(new Error(code), { code });

/** An object of the edge that is used by one call at a time. */
class Shared {
  isDestroyed = false;
  #call;
  #end;

  sync(work) {
    if (this.isDestroyed) throw failure("DISPOSED");
    if (this.#call) throw failure("BUSY");
    return work();
  }

  /** Runs a call until it settles, or until the object is destroyed. */
  async run(work) {
    this.sync(() => undefined);
    const ended = new Promise((_, reject) => (this.#end = () => reject(failure("DISPOSED"))));
    this.#call = Promise.race([work(), ended]);
    try {
      return await this.#call;
    } finally {
      this.#call = undefined;
    }
  }

  /** Resolves when the call in progress has ended. */
  async destroy() {
    this.isDestroyed = true;
    this.#end?.();
    await this.#call?.catch(() => undefined);
  }
}

/** A promise that the test settles. */
export function gate() {
  const held = {};
  held.passed = new Promise((resolve, reject) => Object.assign(held, { open: resolve, fail: reject }));
  held.passed.catch(() => undefined);
  return held;
}

/** Lets all messages and promise reactions happen that can happen now. */
export async function settled() {
  for (let round = 0; round < 20; round += 1) await setImmediate();
}

/** The wasm edge. Tests replace what its calls do, and read from `log` what happened. */
export class FakeEdge {
  log = [];
  /** Kinds of the pictures that were passed, in order. */
  pushed = [];
  /** True if the engine keeps the pictures that it has encoded. */
  keeps = false;
  /** Limits of encoded pictures, in order. */
  limits = [];
  /** Requests of `ask`, in order. */
  asked = [];
  encoding = () => Promise.resolve();
  checking = () => Promise.resolve();
  answering = () => Promise.resolve();
  writing = () => undefined;
  engineMaking = () => undefined;
  drained = () => Promise.resolve();
  /** Options of the latest load. */
  loaded = {};
  /** Record of the kernels that a load measures. */
  kernelRecord = undefined;
  gpuBytes = 1000;
  facts = { family: "qwen_vl", contextLength: 2048, pictureTokens: [256, 256] };
  estimated = {
    contextLength: 2048,
    gpu: { weights: 600, kvCache: 300, scratch: 100, picture: 10, total: 1000, largestBinding: 400 },
    cpu: { bytes: 900, limit: 1000, fits: true },
  };

  constructor() {
    const edge = this;
    this.Images = class {
      count = 0;
      pushEncoded() {
        this.#push("encoded");
      }
      pushRgba() {
        this.#push("rgba");
      }
      pushImageData() {
        this.#push("pixels");
      }
      pushKept() {
        this.#push("kept");
      }
      #push(kind) {
        this.count += 1;
        edge.pushed.push(kind);
      }
      free() {
        edge.log.push("images freed");
      }
    };
    this.Hasher = class {};
    this.Loader = class FakeLoader {
      #shared = new Shared();
      static async create(_manifest, options) {
        edge.log.push("created");
        edge.loaded = options;
        return new FakeLoader();
      }
      kernelRecord = edge.kernelRecord;
      drained = () => this.#shared.sync(() => edge.drained());
      checkGpu = () => this.#shared.sync(() => undefined);
      write = (shard, bytes) => this.#shared.sync(() => edge.writing(shard, bytes));
      restart = () => this.#shared.sync(() => undefined);
      complete = () => this.#shared.sync(() => undefined);
      encodes = () => this.#shared.sync(() => true);
      engine = () =>
        this.#shared.sync(() => {
          edge.engineMaking();
          return makeEngine(edge);
        });
      destroy() {
        if (this.#shared.isDestroyed) return;
        void this.#shared.destroy();
        edge.log.push("loader destroyed");
      }
    };
  }

  default() {
    return Promise.resolve();
  }

  onPanic() {}

  checkManifest() {}

  browserDecodes() {
    return false;
  }

  /** Refuses a manifest as the engine does, and returns {@link estimated} for others. */
  estimate(text) {
    let problem;
    try {
      if (!Array.isArray(JSON.parse(text)?.shards)) problem = "missing field `shards`";
    } catch (error) {
      problem = error.message;
    }
    if (problem) throw Object.assign(new Error(`manifest.json: ${problem}`), { code: "MANIFEST_INVALID" });
    return this.estimated;
  }
}

/** A prompt whose messages are texts: of parts, the texts. */
function withTexts(prompt) {
  if (prompt.kind !== "chat") return prompt;
  const text = (parts) => parts.map((part) => part.text ?? "").join("");
  return { ...prompt, query: text(prompt.query), history: prompt.history.map(([query, answer]) => [text(query), answer]) };
}

function makeEngine(edge) {
  const shared = new Shared();
  return {
    ask: (request, images, onEvent, signal) =>
      shared.run(async () => {
        const prompt = withTexts(request.prompt);
        edge.asked.push({ ...request, prompt });
        const question = prompt.query ?? prompt.text;
        await edge.answering(question);
        const raw = `answer to ${question}`;
        onEvent({ type: "text", delta: raw, raw });
        return answer(raw, signal.aborted ? "cancelled" : "stop", images.count);
      }),
    holdImage: (_images, limits) =>
      shared.run(async () => {
        edge.log.push("encoding");
        edge.limits.push(limits);
        await edge.encoding();
        return { id: "picture", width: 1, height: 1, seen: [448, 448], tokens: 256 };
      }),
    selfCheck: () => shared.run(() => edge.checking()),
    keepImages: () => shared.sync(() => undefined),
    keepsImage: () => shared.sync(() => edge.keeps),
    releaseImage: () => shared.sync(() => undefined),
    count: (_prompt, images) => shared.sync(() => 1 + images.count),
    prepare: () => shared.sync(() => undefined),
    checkGpu: () => shared.sync(() => undefined),
    lost: () => shared.sync(() => new Promise(() => undefined)),
    async destroy() {
      if (shared.isDestroyed) return;
      edge.log.push("destroyed");
      await shared.destroy();
      edge.gpuBytes = 0;
      edge.log.push("released");
    },
    get gpuBytes() {
      return edge.gpuBytes;
    },
    facts: edge.facts,
    adapter: { name: "fake", driver: "", backend: "", kernels: "", maxBindingBytes: 0 },
  };
}

function answer(raw, finish_reason, count) {
  const timings = { encode_ms: 0, prefill_ms: 0, first_token_ms: 0, decode_ms: 0, decode_tokens_per_second: 0 };
  const empty = { prompt_ids: [1], reused_tokens: 0, dropped_turns: 0, images: [], tokens: [1], objects: [], logprobs: null };
  const images = Array.from({ length: count }, () => ({ id: "picture", width: 1, height: 1, seen: [448, 448], tokens: 256 }));
  return { ...empty, images, text: raw, raw, finish_reason, timings };
}

/** A worker of the page that serves `edge`. Messages take a task each, as real ones do. */
export function fakeWorker(edge, backend = "cpu") {
  const later = (work) => void setImmediate().then(work);
  const scope = {
    onmessage: null,
    postMessage: (data) => later(() => worker.terminated || worker.onmessage({ data })),
  };
  const worker = {
    onmessage: null,
    terminated: false,
    postMessage: (data) => later(() => worker.terminated || scope.onmessage({ data })),
    terminate() {
      worker.terminated = true;
      edge.log.push("terminated");
      worker.end?.();
    },
  };
  worker.end = serve(scope, edge, backend);
  return worker;
}

/** The files of a small model, as a user chooses them. With `damaged` the last shard has a wrong byte. */
export function modelFiles({ damaged = false } = {}) {
  return [...makeModel(1).files].map(([name, bytes]) => {
    const copy = Buffer.from(bytes);
    if (damaged && name === "shard-3") copy[0] ^= 1;
    return new File([copy], name);
  });
}
