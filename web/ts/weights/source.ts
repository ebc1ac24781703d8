/** Where a model's files come from. */

import { QwenVLError } from "../wire/errors.js";
import { download, downloadWhole, type Fetch } from "./download.js";
import type { FileEntry } from "./manifest.js";

/** What a source tells while it reads. */
export interface ReadHooks {
  signal: AbortSignal;
  /** A request failed and will be repeated. */
  onRetry?(): void;
  /** Bytes came that had come before. */
  onRefetched?(bytes: number): void;
}

export interface Source {
  /** What the cache knows the model by. */
  readonly url: string;
  /** Reads `manifest.json`; with `hasty`, a connection that does not work at once is given up. */
  manifest(hooks: ReadHooks, hasty: boolean): Promise<string>;
  /** The bytes of a file from byte `from` on. What is given is overwritten when the next bytes are asked for. */
  read(entry: FileEntry, from: number, hooks: ReadHooks): AsyncIterable<Uint8Array>;
}

export interface UrlSourceOptions {
  fetch: Fetch;
  requestInit: RequestInit;
  retries: number;
  /** Given by the page, so that it need not be fetched. */
  manifest?: string | undefined;
}

/** How long a model that is in the cache waits to hear whether there is a newer one. */
const HASTY_MS = 5000;

/** The folder of a `manifest.json` on a web server. */
export class UrlSource implements Source {
  readonly url: string;
  readonly #options: UrlSourceOptions;

  constructor(url: string, options: UrlSourceOptions) {
    this.url = url;
    this.#options = options;
  }

  async manifest(hooks: ReadHooks, hasty: boolean): Promise<string> {
    if (this.#options.manifest !== undefined) return this.#options.manifest;
    const requestInit: RequestInit = { cache: "no-cache", ...this.#options.requestInit };
    const haste = hasty ? { retries: 0, stallMs: HASTY_MS } : {};
    return new TextDecoder().decode(await downloadWhole(this.url, { ...this.#options, ...hooks, requestInit, ...haste }));
  }

  read(entry: FileEntry, from: number, hooks: ReadHooks): AsyncIterable<Uint8Array> {
    // The browser's own cache would keep a second copy of the weights.
    const requestInit: RequestInit = { cache: "no-store", ...this.#options.requestInit };
    const pieceBytes = entry.pieces?.bytes;
    return download(new URL(entry.file, this.url).href, entry.bytes, from, { ...this.#options, ...hooks, requestInit, pieceBytes });
  }
}

/** Bytes of a local file that are in memory at once. */
const LOCAL_PIECE_BYTES = 2 << 20;

/** A folder of this machine, as files that the user chose or dropped or as a directory handle. */
export class FolderSource implements Source {
  readonly url: string;
  readonly #find: (name: string) => Promise<File | undefined>;

  constructor(folder: readonly File[] | FileSystemDirectoryHandle, url: string) {
    this.url = url;
    this.#find =
      "getFileHandle" in folder
        ? (name) =>
            folder.getFileHandle(name).then(
              (handle) => handle.getFile(),
              () => undefined,
            )
        : (name) => Promise.resolve(folder.find((file) => file.name === name));
  }

  async manifest({ signal }: ReadHooks): Promise<string> {
    const file = await this.#find("manifest.json");
    signal.throwIfAborted();
    if (!file) throw new QwenVLError("MANIFEST_INVALID", "the folder has no manifest.json");
    return file.text();
  }

  async *read(entry: FileEntry, from: number, { signal }: ReadHooks): AsyncGenerator<Uint8Array, void, undefined> {
    const file = await this.#find(entry.file);
    const found = file?.size ?? 0;
    if (!file || found !== entry.bytes) {
      const details = { shard: entry.file, expected: entry.bytes, found };
      throw new QwenVLError(
        "INTEGRITY",
        `\`${entry.file}\`: ${file ? `${found} bytes` : "not in the folder"}, the manifest says ${entry.bytes} bytes`,
        {
          details,
        },
      );
    }
    for (let at = from; at < entry.bytes; at += LOCAL_PIECE_BYTES) {
      signal.throwIfAborted();
      yield new Uint8Array(await file.slice(at, at + LOCAL_PIECE_BYTES).arrayBuffer());
    }
  }
}
