/** The page's side of the connection to a worker. */

import { QwenVLError } from "./errors.js";
import type { CallKind, Calls, Reply, Request } from "./protocol.js";

interface PendingCall {
  emit(event: unknown): void;
  resolve(result: unknown): void;
  reject(reason: unknown): void;
}

/** The worker, or the page's end of a channel to a server on the page's own thread. */
export interface Remote extends Pick<Worker, "postMessage" | "terminate"> {
  onmessage: unknown;
  onmessageerror: unknown;
  onerror: unknown;
}

/** Options of a call. */
export interface CallOptions<K extends CallKind> {
  transfer?: Transferable[];
  signal?: AbortSignal;
  onEvent?: (event: Calls[K]["event"]) => void;
}

/** A call that is pending in the worker. */
export interface RunningCall<K extends CallKind> {
  result: Promise<Calls[K]["result"]>;
  /** Asks the worker to end the call early. */
  cancel(): void;
}

/** Time that a worker has to end when its model is disposed of, in milliseconds. */
export const DISPOSAL_MS = 1000;
/** Time that a worker has to end when nobody waits for it, in milliseconds. */
export const BACKGROUND_MS = 10_000;

/** Sends calls to a worker and matches its replies to them. When the worker ends, all pending calls reject. */
export class WorkerClient {
  /** Called when the GPU device is lost or the worker fails. */
  onLost: ((error: QwenVLError) => void) | undefined;
  readonly #worker: Remote;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 0;
  /** Reason why the worker takes no more calls. */
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

  call<K extends CallKind>(kind: K, params: Calls[K]["params"], options: CallOptions<K> = {}): RunningCall<K> {
    const { signal } = options;
    const id = this.#nextId++;
    const cancel = () => this.#post({ kind: "cancel", id });
    const result = new Promise<Calls[K]["result"]>((resolve, reject) => {
      if (this.#ended) throw this.#ended;
      signal?.throwIfAborted();
      const abort = () => {
        cancel();
        call.reject(signal?.reason);
      };
      // The browser may keep a page that the user has left, frozen and with its locks. Chromium did so for a minute while other tabs
      // waited for the lock of the model.
      const leave = () => this.end(new QwenVLError("DISPOSED", "the page was left during the load"));
      if (kind === "load" || kind === "cache" || kind === "convertShard") globalThis.addEventListener?.("pagehide", leave);
      const settle = () => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", abort);
        globalThis.removeEventListener?.("pagehide", leave);
      };
      const call: PendingCall = {
        emit: (event) => options.onEvent?.(event as Calls[K]["event"]),
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
      this.#pending.set(id, call);
      try {
        this.#post({ kind, id, ...params } as Request, options.transfer);
      } catch (error) {
        // Something in the parameters cannot be cloned.
        call.reject(error);
      }
    });
    return { result, cancel };
  }

  /**
   * Aborts the pending calls, frees the model and ends the worker. Firefox reports errors of a worker that is terminated during a request or
   * a read-back, so the worker is terminated when it is idle, or when `patienceMs` have passed.
   *
   * @returns bytes of GPU buffers that are left, by our own accounting; `undefined` if the worker was terminated before it answered
   */
  async shutDown(reason: QwenVLError, patienceMs: number): Promise<number | undefined> {
    this.onLost = undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, patienceMs, undefined)));
    const left = await Promise.race([this.call("dispose", {}).result.catch(() => undefined), timeout]);
    clearTimeout(timer);
    this.end(reason);
    return left;
  }

  /** Terminates the worker. Pending calls reject with `reason`. */
  end(reason: QwenVLError): void {
    if (this.#ended) return;
    this.#ended = reason;
    // Callers come first: whatever happens in `terminate`, no call stays pending.
    for (const call of Array.from(this.#pending.values())) call.reject(reason);
    this.#worker.terminate();
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
    // A call that was aborted has no entry any more.
    const call = this.#pending.get(reply.id);
    if (reply.kind === "event") call?.emit(reply.event);
    else if (reply.kind === "done") call?.resolve(reply.result);
    else {
      const error = QwenVLError.fromData(reply.error);
      call?.reject(error);
      if (error.code === "DEVICE_LOST") this.#fail(error);
    }
  }
}
