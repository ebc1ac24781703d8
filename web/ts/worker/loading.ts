/** Loads a checkpoint into the engine. */

import { QwenVLError } from "../wire/errors.js";
import type { Backend, EngineOptions } from "../wire/protocol.js";
import type { Loader } from "../wasm/qwen_vl_web.js";
import type { ShardSink } from "../weights/load.js";
import type { Target } from "../weights/transfer.js";
import { compileAhead, offersSubgroups, withDeviceHook } from "./compile.js";
import type { Edge } from "./edge.js";
import { EngineOwner } from "./engine-owner.js";

/** Work that waits for a gate to open, and then runs in order. */
export class Gate {
  /** Lets the work through. */
  readonly open: () => void;
  #tail: Promise<void>;

  constructor() {
    let open: () => void = () => undefined;
    this.#tail = new Promise((resolve) => (open = resolve));
    this.open = open;
  }

  /** @param work must not reject */
  add(work: () => Promise<void>): void {
    this.#tail = this.#tail.then(work);
  }

  /** Resolves when the gate is open and the work so far is done. */
  get done(): Promise<void> {
    return this.#tail;
  }
}

/** A model that is being loaded. It owns the GPU device, the loader and the engine, and frees them if the load fails. */
export class LoadingEngine implements ShardSink {
  /** `undefined` once it is freed. */
  #loader: Loader | undefined;
  readonly #device: GPUDevice | undefined;
  readonly #compiled: Promise<void>;
  /** Called when pictures can be encoded. */
  #onEncodes: (() => void) | undefined;
  #engine: EngineOwner | undefined;

  private constructor(loader: Loader, device: GPUDevice | undefined, compiled: Promise<void>, onEncodes: () => void) {
    this.#loader = loader;
    this.#device = device;
    this.#compiled = compiled;
    this.#onEncodes = onEncodes;
  }

  /**
   * Creates the GPU device and allocates the model.
   *
   * @param manifest text of the checkpoint's manifest
   * @param onEncodes called when pictures can be encoded, which is before all weights are loaded
   */
  static async create(
    edge: Edge,
    backend: Backend,
    manifest: string,
    options: EngineOptions,
    onEncodes: () => void,
  ): Promise<LoadingEngine> {
    const onGpu = backend === "webgpu";
    const subgroups = onGpu && (await offersSubgroups(options));
    let device: GPUDevice | undefined;
    let compiled = Promise.resolve();
    const createLoader = () =>
      edge.Loader.create(manifest, { ...options, subgroups }, (shaders: readonly string[]) => {
        if (device) compiled = compileAhead(device, shaders);
      });
    try {
      const loader = await (onGpu ? withDeviceHook(createLoader, subgroups, (taken) => (device = taken)) : createLoader());
      const loading = new LoadingEngine(loader, device, compiled, onEncodes);
      try {
        // Report allocation errors before any weights are fetched.
        await loader.drained();
        loader.checkGpu();
      } catch (error) {
        loader.free();
        throw error;
      }
      return loading;
    } catch (error) {
      device?.destroy();
      throw error;
    }
  }

  /** The engine; it can encode pictures before the load completes. */
  get engine(): EngineOwner {
    if (!this.#engine) throw new QwenVLError("DISPOSED", "no model is loaded");
    return this.#engine;
  }

  vocabulary(bytes: Uint8Array): void {
    this.#engine = new EngineOwner(this.#activeLoader.engine(bytes));
    this.#reportEncodes();
  }

  target(shard: number): Target {
    const loader = this.#activeLoader;
    return {
      write: (bytes, checked) => {
        loader.write(shard, bytes, checked);
        this.#reportEncodes();
      },
      restart: () => loader.restart(shard),
      drain: () => loader.drained(),
    };
  }

  /** Completes the upload: waits until the GPU has all weights. */
  async upload(): Promise<void> {
    await this.#activeLoader.drained();
    this.#activeLoader.complete();
  }

  /** Resolves when the kernels are compiled, as far as they can be compiled ahead. */
  get compiled(): Promise<void> {
    return this.#compiled;
  }

  /** Compiles what is left, and takes over the GPU's errors. After this the engine can do everything. */
  async prepare(keptImages: number | undefined): Promise<void> {
    await this.engine.borrow((engine) => {
      engine.prepare();
      engine.checkGpu();
      if (keptImages !== undefined) engine.keepImages(keptImages);
    });
    this.#freeLoader();
  }

  /** Frees everything after a failed load, once no call uses it. Never rejects. */
  async free(): Promise<void> {
    if (this.#engine) await this.#engine.free();
    this.#device?.destroy();
    this.#freeLoader();
  }

  get #activeLoader(): Loader {
    if (!this.#loader) throw new QwenVLError("DISPOSED", "no model is being loaded");
    return this.#loader;
  }

  #freeLoader(): void {
    this.#loader?.free();
    this.#loader = undefined;
  }

  #reportEncodes(): void {
    if (!this.#onEncodes || !this.#engine || !this.#loader?.encodes()) return;
    void this.#compiled.then(this.#onEncodes);
    this.#onEncodes = undefined;
  }
}
