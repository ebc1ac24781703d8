import { EventHandler } from "./handler.js";

/** Steps of a reported fraction. */
const STEPS = 65_536;

/** Reports the progress of a load as `downloadprogress` events, each in its own task. */
export class Monitor extends EventTarget {
  readonly #handler = new EventHandler(this, "downloadprogress");
  readonly #signal: AbortSignal | undefined;
  #reported = -1;
  #tasks: Promise<void> = Promise.resolve();

  /** @param signal no events are sent after its abort */
  constructor(signal: AbortSignal | undefined) {
    super();
    this.#signal = signal;
  }

  get [Symbol.toStringTag](): string {
    return "CreateMonitor";
  }

  get ondownloadprogress(): ((event: ProgressEvent) => unknown) | null {
    return this.#handler.value as ((event: ProgressEvent) => unknown) | null;
  }

  set ondownloadprogress(value: ((event: ProgressEvent) => unknown) | null) {
    this.#handler.value = value;
  }

  /** @internal Reports the fraction of the files that is loaded, unless it was reported already. */
  report(fraction: number): void {
    const loaded = Math.floor(Math.min(fraction, 1) * STEPS) / STEPS;
    if (loaded <= this.#reported) return;
    this.#reported = loaded;
    this.#tasks = this.#tasks.then(async () => {
      await new Promise((resolve) => setTimeout(resolve));
      if (!this.#signal?.aborted) this.dispatchEvent(progressEvent(loaded));
    });
  }

  /** @internal Resolves after the events so far, in a separate task. */
  async done(): Promise<void> {
    await this.#tasks;
    await new Promise((resolve) => setTimeout(resolve));
  }
}

function progressEvent(loaded: number): ProgressEvent {
  const event = new ProgressEvent("downloadprogress", { lengthComputable: true, loaded, total: 1 });
  // In browsers where the number is an integer.
  if (event.loaded !== loaded) Object.defineProperty(event, "loaded", { value: loaded });
  return event;
}
