import { QwenVLError } from "./errors.js";
import type { Call, Calls, Reply, Request } from "./protocol.js";

interface Pending {
  note(note: unknown): void;
  resolve(result: unknown): void;
  reject(reason: unknown): void;
}

/** Where the package's files are, if they were moved. */
export interface FileLocations {
  /** Where the package's wasm file is. */
  wasmUrl?: string | URL;
  /** Where the package's worker script is. */
  workerUrl?: string | URL;
  /** Where the wasm file is that computes without WebGPU. */
  cpuWasmUrl?: string | URL;
  /** Where its worker script is. */
  cpuWorkerUrl?: string | URL;
}

/** What computes. */
export type Backend = "webgpu" | "cpu";

/** What requests are posted to: a worker, or the other end of a channel. */
export interface Remote extends Pick<Worker, "postMessage" | "terminate"> {
  onmessage: unknown;
  onmessageerror: unknown;
  onerror: unknown;
}

/** What a call may be given beside its parameters. */
export interface CallOptions<K extends Call> {
  transfer?: Transferable[];
  signal?: AbortSignal;
  onNote?: (note: Calls[K]["note"]) => void;
}

/** A call that runs in the worker. */
export interface RunningCall<K extends Call> {
  result: Promise<Calls[K]["result"]>;
  /** Asks the worker to end the call early. */
  cancel(): void;
}

/** The page's side of the worker: one pending entry per call; when the worker dies, all of them reject. */
export class WorkerClient {
  /** Hears that the worker can not go on: its GPU device is gone, or the worker itself. */
  onLost: ((error: QwenVLError) => void) | undefined;
  readonly #worker: Remote;
  readonly #pending = new Map<number, Pending>();
  #nextId = 0;
  /** Why no more calls are possible. */
  #ended: QwenVLError | undefined;

  constructor(worker: Remote) {
    this.#worker = worker;
    worker.onmessage = (event: MessageEvent<Reply>) => this.#receive(event.data);
    worker.onerror = (event: ErrorEvent) => {
      event.preventDefault();
      this.#fail(new QwenVLError("INTERNAL", `the worker failed: ${event.message || "its script could not be loaded"}`));
    };
    worker.onmessageerror = () => this.#fail(new QwenVLError("INTERNAL", "a message from the worker could not be read"));
  }

  call<K extends Call>(kind: K, params: Calls[K]["params"], options: CallOptions<K> = {}): RunningCall<K> {
    const { signal } = options;
    const id = this.#nextId++;
    const cancel = () => this.#post({ kind: "cancel", id });
    const result = new Promise<Calls[K]["result"]>((resolve, reject) => {
      if (this.#ended) throw this.#ended;
      signal?.throwIfAborted();
      const abort = () => {
        cancel();
        pending.reject(signal?.reason);
      };
      // A page that is left may be kept, frozen and with all of its locks: Chromium did so for a minute while other tabs waited to load.
      const leave = () => this.end(new QwenVLError("DISPOSED", "the page was left in the middle of loading"));
      if (kind === "load" || kind === "cache") globalThis.addEventListener?.("pagehide", leave);
      const settle = () => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", abort);
        globalThis.removeEventListener?.("pagehide", leave);
      };
      const pending: Pending = {
        note: (note) => options.onNote?.(note as Calls[K]["note"]),
        resolve: (result) => {
          settle();
          resolve(result as Calls[K]["result"]);
        },
        reject: (reason) => {
          settle();
          reject(reason);
        },
      };
      signal?.addEventListener("abort", abort);
      this.#pending.set(id, pending);
      try {
        this.#post({ kind, id, ...params } as Request, options.transfer);
      } catch (error) {
        // Something in it can not be copied.
        pending.reject(error);
      }
    });
    return { result, cancel };
  }

  /** Starts the package's worker. */
  static start({ workerUrl, cpuWorkerUrl }: FileLocations, backend: Backend = "webgpu"): WorkerClient {
    if (typeof Worker === "undefined") throw new QwenVLError("WEBGPU_UNAVAILABLE", "there are no workers here: models run in browsers");
    const moved = backend === "cpu" ? cpuWorkerUrl : workerUrl;
    if (moved) return new WorkerClient(new Worker(moved, { type: "module" }));
    // The literals let bundlers find the workers.
    return new WorkerClient(
      backend === "cpu"
        ? new Worker(new URL("../worker-cpu.js", import.meta.url), { type: "module" })
        : new Worker(new URL("../worker.js", import.meta.url), { type: "module" }),
    );
  }

  /** Serves this thread by itself. */
  static async here(backend: Backend): Promise<WorkerClient> {
    const { port1, port2 } = new MessageChannel();
    const end = await (await import("../worker/page-thread.js")).serveHere(port2, backend);
    const remote: Remote = Object.assign(port1, {
      onerror: null,
      terminate() {
        end();
        port1.close();
      },
    });
    return new WorkerClient(remote);
  }

  /** Ends the worker; whatever is pending rejects. */
  end(reason: QwenVLError): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#worker.terminate();
    for (const pending of [...this.#pending.values()]) pending.reject(reason);
  }

  #post(request: Request, transfer: Transferable[] = []): void {
    if (!this.#ended) this.#worker.postMessage(request, transfer);
  }

  #fail(reason: QwenVLError): void {
    if (this.#ended) return;
    this.end(reason);
    this.onLost?.(reason);
  }

  #receive(reply: Reply): void {
    if (reply.kind === "fatal" || reply.kind === "lost") return this.#fail(QwenVLError.fromData(reply.error));
    // Replies to a call that was aborted in the meantime have no entry any more.
    const pending = this.#pending.get(reply.id);
    if (reply.kind === "note") pending?.note(reply.note);
    else if (reply.kind === "done") pending?.resolve(reply.result);
    else {
      const error = QwenVLError.fromData(reply.error);
      pending?.reject(error);
      if (error.code === "DEVICE_LOST") this.#fail(error);
    }
  }
}
