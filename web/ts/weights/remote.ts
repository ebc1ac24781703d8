/** Lets the worker use a page's own `fetch` and cache store: functions cannot be posted, so their calls go over a port. */

import { renameFile, type CacheFile, type CacheStore, type StoredFile } from "./store.js";
import type { Fetch } from "./download.js";

type Values = readonly unknown[];
type Handlers = Readonly<Record<string, (...values: never[]) => unknown>>;
interface CallMessage {
  id: number;
  name: string;
  values: Values;
}
type ReplyMessage = { id: number; result: unknown } | { id: number; error: { name: string; message: string } };

/** Answers calls from a port. Bytes are copied. */
function expose(port: MessagePort, handlers: Handlers): void {
  port.onmessage = async ({ data: { id, name, values } }: MessageEvent<CallMessage>) => {
    let reply: ReplyMessage;
    try {
      reply = { id, result: await handlers[name]?.(...(values as never[])) };
    } catch (error) {
      const { name, message } = error instanceof Error ? error : new Error(String(error));
      reply = { id, error: { name, message } };
    }
    port.postMessage(reply);
  };
}

/** Returns a function that calls the handlers which the other side of a port exposes. */
function connect(port: MessagePort): (name: string, ...values: Values) => Promise<unknown> {
  const pending = new Map<number, { resolve(result: unknown): void; reject(error: unknown): void }>();
  let nextId = 0;
  port.onmessage = ({ data }: MessageEvent<ReplyMessage>) => {
    const call = pending.get(data.id);
    pending.delete(data.id);
    // The names distinguish the errors of the platform.
    if ("error" in data) call?.reject(new DOMException(data.error.message, data.error.name));
    else call?.resolve(data.result);
  };
  return (name, ...values) =>
    new Promise((resolve, reject) => {
      const id = nextId++;
      pending.set(id, { resolve, reject });
      port.postMessage({ id, name, values } satisfies CallMessage);
    });
}

interface RemoteResponse {
  body: number;
  status: number;
  headers: [string, string][];
}

/** For the page: makes a `fetch` callable over a port. */
export function exposeFetch(port: MessagePort, fetch: Fetch): void {
  const requests = new Map<number, { controller: AbortController; reader?: ReadableStreamDefaultReader<Uint8Array> }>();
  expose(port, {
    async fetch(id: number, url: string, init: RequestInit): Promise<RemoteResponse> {
      const controller = new AbortController();
      requests.set(id, { controller });
      const response = await fetch(url, { ...init, signal: controller.signal });
      const reader = response.body?.getReader();
      if (!requests.has(id)) {
        // The worker ended the request, and this `fetch` ignored it. Rejects if the body has failed, which no longer matters.
        reader?.cancel().catch(() => undefined);
        throw new DOMException("the request was ended", "AbortError");
      }
      requests.set(id, { controller, ...(reader ? { reader } : {}) });
      return { body: id, status: response.status, headers: [...response.headers] };
    },
    read: async (id: number) => (await requests.get(id)?.reader?.read())?.value,
    end(id: number) {
      const request = requests.get(id);
      requests.delete(id);
      request?.controller.abort();
      // Rejects if the body has failed; the worker has seen that error.
      request?.reader?.cancel().catch(() => undefined);
    },
  });
}

/** For the worker: returns the `fetch` of the page. */
export function remoteFetch(port: MessagePort): Fetch {
  const call = connect(port);
  let nextId = 0;
  return async (url, { signal, ...init }) => {
    const id = nextId++;
    const end = () => void call("end", id);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", end, { once: true });
    const { status, headers } = (await call("fetch", id, url, plainRequest(init))) as RemoteResponse;
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      async pull(controller) {
        const piece = (await call("read", id)) as Uint8Array<ArrayBuffer> | undefined;
        if (piece) controller.enqueue(piece);
        else controller.close();
      },
      cancel: end,
    });
    return new Response([204, 205, 304].includes(status) ? null : body, { status, headers });
  };
}

/** Returns the parts of a request that can be posted. */
export function plainRequest({ headers, signal: _signal, ...init }: RequestInit): RequestInit {
  return { ...init, headers: [...new Headers(headers)] };
}

/** For the page: makes a cache store callable over a port. */
export function exposeStore(port: MessagePort, store: CacheStore): void {
  const files = new Map<number, CacheFile>();
  let nextId = 0;
  const file = (id: number) => {
    const open = files.get(id);
    if (!open) throw new DOMException("the file is closed", "InvalidStateError");
    return open;
  };
  expose(port, {
    async open(name: string, create: boolean) {
      const opened = await store.open(name, create);
      if (!opened) return undefined;
      files.set(nextId, opened);
      return { id: nextId++, bytes: opened.bytes };
    },
    read: (id: number, at: number, length: number) => file(id).read(at, length),
    async append(id: number, bytes: Uint8Array) {
      await file(id).append(bytes);
      return file(id).bytes;
    },
    truncate: (id: number) => file(id).truncate(),
    async close(id: number) {
      await file(id).close();
      files.delete(id);
    },
    list: () => store.list(),
    delete: (name: string) => store.delete(name),
    rename: (from: string, to: string) => renameFile(store, from, to),
  });
}

/** For the worker: the cache store of the page. */
export class RemoteStore implements CacheStore {
  readonly kind: string;
  readonly #call: ReturnType<typeof connect>;

  constructor(kind: string, port: MessagePort) {
    this.kind = kind;
    this.#call = connect(port);
  }

  async open(name: string, create: boolean): Promise<CacheFile | undefined> {
    const call = this.#call;
    const opened = (await call("open", name, create)) as { id: number; bytes: number } | undefined;
    if (!opened) return undefined;
    const { id } = opened;
    let bytes = opened.bytes;
    return {
      get bytes() {
        return bytes;
      },
      read: (at, length) => call("read", id, at, length) as Promise<Uint8Array>,
      async append(more) {
        bytes = (await call("append", id, more)) as number;
      },
      async truncate() {
        await call("truncate", id);
        bytes = 0;
      },
      async close() {
        await call("close", id);
      },
    };
  }

  async list(): Promise<StoredFile[]> {
    return (await this.#call("list")) as StoredFile[];
  }

  async delete(name: string): Promise<void> {
    await this.#call("delete", name);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#call("rename", from, to);
  }
}
