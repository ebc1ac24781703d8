// A stand-in for the wasm edge and its worker, in Node. Its objects are borrowed as wasm-bindgen borrows: an asynchronous call of `&mut self`
// borrows until its promise settles, and any other use of the object meanwhile throws.

import { setImmediate } from "node:timers/promises";
import { serve } from "../dist/worker/serve.js";
import { makeModel } from "./memory.mjs";

/** Counts the uses of an object that are in progress. */
class Cell {
  #uses = 0;
  #freed = false;

  sync(work) {
    this.#check();
    return work();
  }

  async async(work) {
    this.#check();
    this.#uses += 1;
    try {
      return await work();
    } finally {
      this.#uses -= 1;
    }
  }

  free() {
    this.#check();
    this.#freed = true;
  }

  #check() {
    if (this.#freed) throw new Error("null pointer passed to rust");
    if (this.#uses > 0) throw new Error("recursive use of an object detected which would lead to unsafe aliasing in rust");
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
  /** Requests of `ask`, in order. */
  asked = [];
  encoding = () => Promise.resolve();
  checking = () => Promise.resolve();
  answering = () => Promise.resolve();
  writing = () => undefined;
  engineMaking = () => undefined;
  drained = () => Promise.resolve();
  gpuBytes = 1000;
  estimated = {
    contextLength: 2048,
    gpu: { weights: 600, kvCache: 300, scratch: 100, picture: 10, total: 1000, largestBinding: 400 },
    cpu: { bytes: 900, limit: 1000, fits: true },
  };

  constructor() {
    const edge = this;
    this.Images = class {
      pushEncoded() {}
      pushRgba() {}
      pushImageData() {}
      pushKept() {}
      free() {
        edge.log.push("images freed");
      }
    };
    this.Hasher = class {};
    this.Loader = class FakeLoader {
      #cell = new Cell();
      static async create() {
        edge.log.push("created");
        return new FakeLoader();
      }
      drained = () => this.#cell.sync(() => edge.drained());
      checkGpu = () => this.#cell.sync(() => undefined);
      write = (shard, bytes) => this.#cell.sync(() => edge.writing(shard, bytes));
      restart = () => this.#cell.sync(() => undefined);
      complete = () => this.#cell.sync(() => undefined);
      encodes = () => this.#cell.sync(() => true);
      engine = () =>
        this.#cell.sync(() => {
          edge.engineMaking();
          return makeEngine(edge);
        });
      free() {
        this.#cell.free();
        edge.log.push("loader freed");
      }
    };
  }

  default() {
    return Promise.resolve();
  }

  onPanic() {}

  checkManifest() {}

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

function makeEngine(edge) {
  const cell = new Cell();
  return {
    ask: (request, _images, onEvent) =>
      cell.async(async () => {
        edge.asked.push(request);
        await edge.answering(request.prompt.query ?? request.prompt.text);
        const raw = `answer to ${request.prompt.query ?? request.prompt.text}`;
        const stopped = onEvent({ type: "text", delta: raw, raw }) === false;
        return answer(raw, stopped ? "cancelled" : "stop");
      }),
    holdImage: () =>
      cell.async(async () => {
        edge.log.push("encoding");
        await edge.encoding();
        return { id: "picture", width: 1, height: 1 };
      }),
    selfCheck: () => cell.async(() => edge.checking()),
    keepImages: () => cell.sync(() => undefined),
    keepsImage: () => cell.sync(() => false),
    releaseImage: () => cell.sync(() => undefined),
    count: () => cell.sync(() => 1),
    prepare: () => cell.sync(() => undefined),
    checkGpu: () => cell.sync(() => undefined),
    lost: () => cell.sync(() => new Promise(() => undefined)),
    destroy: () =>
      cell.sync(() => {
        edge.log.push("destroyed");
        edge.gpuBytes = 0;
      }),
    free() {
      cell.free();
      edge.log.push("engine freed");
    },
    get gpuBytes() {
      return cell.sync(() => edge.gpuBytes);
    },
    contextLength: 2048,
    adapter: { name: "fake", driver: "", backend: "", kernels: "", maxBindingBytes: 0 },
  };
}

function answer(raw, finish_reason) {
  const timings = { encode_ms: 0, prefill_ms: 0, first_token_ms: 0, decode_ms: 0, decode_tokens_per_second: 0 };
  const empty = { prompt_ids: [1], reused_tokens: 0, dropped_turns: 0, images: [], tokens: [1], objects: [], logprobs: null };
  return { ...empty, text: raw, raw, finish_reason, timings };
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
