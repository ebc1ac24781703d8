/** A page's own `fetch` and cache, used by the worker: functions do not cross the border, so their calls do, over a port. */

import type { CacheBackend, CacheFile, StoredFile } from "./backend.js";
import type { Fetch } from "./download.js";

type Values = readonly unknown[];
type Handlers = Readonly<Record<string, (...values: never[]) => unknown>>;
interface CallMessage {
  id: number;
  name: string;
  values: Values;
}
type ReplyMessage = { id: number; result: unknown } | { id: number; error: { name: string; message: string } };

/** Answers the calls that come over a port. Bytes are copied: who gave them keeps them. */
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

/** Calls what the other side of a port exposes. */
function connect(port: MessagePort): (name: string, ...values: Values) => Promise<unknown> {
  const pending = new Map<number, { resolve(result: unknown): void; reject(error: unknown): void }>();
  let nextId = 0;
  port.onmessage = ({ data }: MessageEvent<ReplyMessage>) => {
    const call = pending.get(data.id);
    pending.delete(data.id);
    // Errors of the platform keep their names, by which they are told apart.
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

/** Page: makes `fetch` callable over a port. */
export function exposeFetch(port: MessagePort, fetch: Fetch): void {
  const requests = new Map<number, { controller: AbortController; reader?: ReadableStreamDefaultReader<Uint8Array> }>();
  expose(port, {
    async fetch(id: number, url: string, init: RequestInit): Promise<RemoteResponse> {
      const controller = new AbortController();
      requests.set(id, { controller });
      const response = await fetch(url, { ...init, signal: controller.signal });
      const reader = response.body?.getReader();
      requests.set(id, { controller, ...(reader ? { reader } : {}) });
      return { body: id, status: response.status, headers: [...response.headers] };
    },
    read: async (id: number) => (await requests.get(id)?.reader?.read())?.value,
    end(id: number) {
      const request = requests.get(id);
      requests.delete(id);
      request?.controller.abort();
      request?.reader?.cancel().catch(() => undefined);
    },
  });
}

/** Worker: the `fetch` of the page. */
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

/** What of a request can be posted. */
export function plainRequest({ headers, signal: _signal, ...init }: RequestInit): RequestInit {
  return { ...init, headers: [...new Headers(headers)] };
}

/** Page: makes a cache callable over a port. */
export function exposeBackend(port: MessagePort, backend: CacheBackend): void {
  const files = new Map<number, CacheFile>();
  let nextId = 0;
  const file = (id: number) => {
    const found = files.get(id);
    if (!found) throw new DOMException("the file is closed", "InvalidStateError");
    return found;
  };
  expose(port, {
    async open(name: string, create: boolean) {
      const opened = await backend.open(name, create);
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
    list: () => backend.list(),
    delete: (name: string) => backend.delete(name),
  });
}

/** Worker: the cache of the page. */
export class RemoteBackend implements CacheBackend {
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
}
