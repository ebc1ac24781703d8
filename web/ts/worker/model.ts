/** The model of a worker, from the allocation of its memory to the release. */

import { isSoftware } from "../wire/adapter.js";
import { present } from "../wire/engine.js";
import { QwenVLError } from "../wire/errors.js";
import type { Backend, EngineOptions } from "../wire/protocol.js";
import type { Engine, Loader } from "../wasm/qwen_vl_web.js";
import { kernelKey, type KernelRecords } from "../weights/kernels.js";
import type { ShardSink } from "../weights/load.js";
import type { Target } from "../weights/transfer.js";
import { type Shader, compileAhead, similarAdapter, withDeviceHook } from "./compile.js";
import type { Edge } from "./edge.js";

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

/** Owns the GPU device, the loader and the engine of a model, while it is loaded and afterwards. */
export class Model implements ShardSink {
  readonly #loader: Loader;
  readonly #device: GPUDevice | undefined;
  readonly #compiled: Promise<void>;
  /** Keeps the kernels that were measured. */
  readonly #keepKernels: () => Promise<void>;
  /** Called when pictures can be encoded. */
  #onEncodes: (() => void) | undefined;
  #engine: Engine | undefined;
  #freed: Promise<number> | undefined;

  private constructor(
    loader: Loader,
    device: GPUDevice | undefined,
    compiled: Promise<void>,
    keepKernels: () => Promise<void>,
    onEncodes: () => void,
  ) {
    this.#loader = loader;
    this.#device = device;
    this.#compiled = compiled;
    this.#keepKernels = keepKernels;
    this.#onEncodes = onEncodes;
  }

  /**
   * Creates the GPU device and allocates the model.
   *
   * @param manifest text of the checkpoint's manifest
   * @param records kernels that earlier loads have measured; absent if none are to be used or kept
   * @param onEncodes called when pictures can be encoded, which is before all weights are loaded
   */
  static async create(
    edge: Edge,
    backend: Backend,
    manifest: string,
    options: EngineOptions,
    records: KernelRecords | undefined,
    onEncodes: () => void,
  ): Promise<Model> {
    const onGpu = backend === "webgpu";
    const adapter = onGpu ? await similarAdapter(options) : null;
    const subgroups = adapter?.features.has("subgroups") ?? false;
    const software = adapter ? isSoftware(adapter) : undefined;
    const key = adapter && records ? kernelKey(adapter, options.precision ?? "f32", navigator.userAgent ?? "") : undefined;
    const kernelRecord = key && (await records?.read(key));
    const found = { subgroups, ...present({ software, kernelRecord }) };
    let device: GPUDevice | undefined;
    let loader: Loader | undefined;
    let compiled = Promise.resolve();
    const createLoader = () =>
      edge.Loader.create(manifest, { ...options, ...found }, (shaders: readonly Shader[]) => {
        if (device) compiled = compileAhead(device, shaders);
      });
    try {
      loader = await (onGpu ? withDeviceHook(createLoader, subgroups, (taken) => (device = taken)) : createLoader());
      // Report allocation errors before any weights are fetched.
      await loader.drained();
      loader.checkGpu();
      const measured = loader.kernelRecord;
      const keepKernels = async () => {
        if (key && measured !== undefined) await records?.write(key, measured);
      };
      return new Model(loader, device, compiled, keepKernels, onEncodes);
    } catch (error) {
      loader?.destroy();
      // Without a loader, what was allocated so far.
      device?.destroy();
      throw error;
    }
  }

  /** True once there is an engine. */
  get hasEngine(): boolean {
    return this.#engine !== undefined;
  }

  /** The engine; it can encode pictures before the load completes. */
  get engine(): Engine {
    if (!this.#engine) throw new QwenVLError("DISPOSED", "no model is loaded");
    return this.#engine;
  }

  vocabulary(bytes: Uint8Array): void {
    this.#engine = this.#loader.engine(bytes);
    this.#reportEncodes();
  }

  target(shard: number): Target {
    const loader = this.#loader;
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
    await this.#loader.drained();
    this.#loader.complete();
  }

  /** Resolves when the kernels are compiled, as far as they can be compiled ahead. */
  get compiled(): Promise<void> {
    return this.#compiled;
  }

  /** Compiles what is left, and takes over the GPU's errors. After this the engine can do everything. */
  prepare(keptImages: number | undefined): void {
    this.engine.prepare();
    this.engine.checkGpu();
    if (keptImages !== undefined) this.engine.keepImages(keptImages);
  }

  /** Keeps the kernels that this load has measured, after they have been checked. Never rejects. */
  keepKernels(): Promise<void> {
    return this.#keepKernels();
  }

  /** True once {@link free} was called. */
  get isFreed(): boolean {
    return this.#freed !== undefined;
  }

  /**
   * Frees the model, at any time. A call in progress rejects with `DISPOSED`. Never rejects.
   *
   * @returns bytes of GPU buffers that are left, by our own accounting
   */
  free(): Promise<number> {
    this.#freed ??= (async () => {
      this.#loader.destroy();
      if (this.#engine) {
        await this.#engine.destroy();
        return this.#engine.gpuBytes;
      }
      // A model whose vocabulary was refused belongs neither to the loader nor to an engine.
      this.#device?.destroy();
      return 0;
    })();
    return this.#freed;
  }

  #reportEncodes(): void {
    if (!this.#onEncodes || !this.#engine || !this.#loader.encodes()) return;
    void this.#compiled.then(this.#onEncodes);
    this.#onEncodes = undefined;
  }
}
