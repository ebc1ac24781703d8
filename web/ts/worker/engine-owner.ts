/** Lifetime of the wasm engine. */

import { QwenVLError } from "../wire/errors.js";
import type { Engine } from "../wasm/qwen_vl_web.js";

/**
 * Owns an engine. An asynchronous call borrows the engine until its promise settles, and wasm-bindgen throws if anything else touches the
 * engine meanwhile. So {@link free} waits for the calls in progress.
 */
export class EngineOwner {
  readonly #engine: Engine;
  /** Number of calls in progress. */
  #borrows = 0;
  #onIdle: (() => void) | undefined;
  #freed: Promise<number> | undefined;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** True once {@link free} was called. */
  get isFreed(): boolean {
    return this.#freed !== undefined;
  }

  /** Runs a call of the engine. Rejects with `DISPOSED` once {@link free} was called. */
  async borrow<T>(call: (engine: Engine) => T | Promise<T>): Promise<T> {
    if (this.#freed) throw new QwenVLError("DISPOSED", "no model is loaded");
    this.#borrows += 1;
    try {
      return await call(this.#engine);
    } finally {
      this.#borrows -= 1;
      if (this.#borrows === 0) this.#onIdle?.();
    }
  }

  /**
   * Frees the engine and its GPU memory when the calls in progress have ended. Never rejects.
   *
   * @returns bytes of GPU buffers that are left, by our own accounting
   */
  free(): Promise<number> {
    this.#freed ??= (async () => {
      if (this.#borrows > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
      return freeEngine(this.#engine);
    })();
    return this.#freed;
  }
}

async function freeEngine(engine: Engine): Promise<number> {
  try {
    await engine.destroy();
    const left = engine.gpuBytes;
    engine.free();
    return left;
  } catch (error) {
    // After a panic the module is in an unknown state. The page has got a message about the panic, and there is nothing else to free.
    console.warn("qwen-vl-web: the engine could not be freed", error);
    return 0;
  }
}
