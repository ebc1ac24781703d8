/** Sources of a model's files: a web server or a local folder. */

import { QwenVLError } from "../wire/errors.js";
import { download, downloadWhole, type Fetch } from "./download.js";
import { unreadable, wrongFile } from "./errors.js";
import type { FileEntry } from "./manifest.js";

/** Callbacks of a read. */
export interface ReadHooks {
  signal: AbortSignal;
  /** Called when a request failed and will be repeated. */
  onRetry?(): void;
  /** Called with the number of bytes that were received a second time. */
  onRefetched?(bytes: number): void;
}

export interface Source {
  /** Key of the model in the cache. */
  readonly url: string;
  /** True if the bytes need no hash, because this page makes them. */
  readonly trusted?: boolean;
  /** Reads `manifest.json`. If `quick` is true, gives up on a connection that does not work at once. */
  manifest(hooks: ReadHooks, quick: boolean): Promise<string>;
  /** Yields the bytes of a file from offset `from`. The next step of the iterator overwrites the bytes that the last one yielded. */
  read(entry: FileEntry, from: number, hooks: ReadHooks): AsyncIterable<Uint8Array>;
}

export interface UrlSourceOptions {
  fetch: Fetch;
  requestInit: RequestInit;
  retries: number;
  /** Manifest that the page already has. */
  manifest?: string | undefined;
}

/** Longest wait for a newer manifest if the model is in the cache. */
const QUICK_TIMEOUT_MS = 5000;

/** The folder of a `manifest.json` on a web server. */
export class UrlSource implements Source {
  readonly url: string;
  readonly #options: UrlSourceOptions;

  constructor(url: string, options: UrlSourceOptions) {
    this.url = url;
    this.#options = options;
  }

  async manifest(hooks: ReadHooks, quick: boolean): Promise<string> {
    if (this.#options.manifest !== undefined) return this.#options.manifest;
    const requestInit: RequestInit = { cache: "no-cache", ...this.#options.requestInit };
    const limits = quick ? { retries: 0, stallMs: QUICK_TIMEOUT_MS } : {};
    const options = { ...this.#options, ...hooks, requestInit, ...limits };
    try {
      return new TextDecoder().decode(await downloadWhole(this.url, options));
    } catch (error) {
      const isMissing = error instanceof QwenVLError && error.details?.["status"] === 404;
      const config =
        isMissing && (await downloadWhole(new URL("config.json", this.url).href, { ...options, retries: 0 }).catch(() => undefined));
      hooks.signal.throwIfAborted();
      if (!config) throw error;
      const problem = "there is a config.json and no manifest.json: the folder holds a checkpoint that is not converted";
      throw new QwenVLError("NOT_CONVERTED", problem, { details: { url: this.url }, cause: error });
    }
  }

  read(entry: FileEntry, from: number, hooks: ReadHooks): AsyncIterable<Uint8Array> {
    // The browser's HTTP cache would keep a second copy of the weights.
    const requestInit: RequestInit = { cache: "no-store", ...this.#options.requestInit };
    const pieceBytes = entry.pieces?.bytes;
    return download(new URL(entry.file, this.url).href, entry.bytes, from, { ...this.#options, ...hooks, requestInit, pieceBytes });
  }
}

/** Bytes of a local file to read at a time. */
const LOCAL_PIECE_BYTES = 2 << 20;

/** A local folder: files that the user chose or dropped, or a directory handle. */
export class FolderSource implements Source {
  readonly url: string;
  readonly #find: (name: string) => Promise<File | undefined>;

  constructor(folder: readonly File[] | FileSystemDirectoryHandle, url: string) {
    this.url = url;
    this.#find =
      "getFileHandle" in folder ? (name) => fileIn(folder, name) : (name) => Promise.resolve(folder.find((file) => file.name === name));
  }

  async manifest({ signal }: ReadHooks): Promise<string> {
    const file = await this.#find("manifest.json");
    signal.throwIfAborted();
    if (!file && (await this.#find("config.json"))) {
      throw new QwenVLError("NOT_CONVERTED", "the folder has no manifest.json: it holds a checkpoint that is not converted");
    }
    if (!file) throw new QwenVLError("MANIFEST_INVALID", "the folder has no manifest.json: choose a folder that `quantize` wrote");
    return readable(file.name, file.text());
  }

  async *read(entry: FileEntry, from: number, { signal }: ReadHooks): AsyncGenerator<Uint8Array, void, undefined> {
    const file = await this.#find(entry.file);
    if (!file) {
      const details = { shard: entry.file, expected: entry.bytes, found: 0 };
      throw new QwenVLError("INTEGRITY", `\`${entry.file}\` is not in the folder`, { details });
    }
    if (file.size !== entry.bytes) throw wrongFile(entry, entry.bytes, file.size);
    for (let at = from; at < entry.bytes; at += LOCAL_PIECE_BYTES) {
      signal.throwIfAborted();
      yield new Uint8Array(await readable(entry.file, file.slice(at, at + LOCAL_PIECE_BYTES).arrayBuffer()));
    }
  }
}

async function fileIn(folder: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  try {
    return await (await folder.getFileHandle(name)).getFile();
  } catch (cause) {
    if ((cause as DOMException).name === "NotFoundError") return undefined;
    throw unreadable(name, cause);
  }
}

async function readable<T>(name: string, content: Promise<T>): Promise<T> {
  try {
    return await content;
  } catch (cause) {
    throw unreadable(name, cause);
  }
}
