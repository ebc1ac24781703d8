/** Sources of a conversion: files in the published layout, read by ranges. */

import { QwenVLError } from "../wire/errors.js";
import { unreadable } from "./errors.js";
import type { RemoteFile } from "../wire/generated.js";
import { excerpt, excerptUrl } from "../wire/quote.js";
import { readBody } from "./body.js";
import { collect, download, downloadWhole, type DownloadOptions, type Fetch, type ServedFile } from "./download.js";
import type { ReadHooks } from "./source.js";

/** A checkpoint in the published layout. */
export interface Listing {
  /** Its name. */
  name: string;
  /** Its address, for messages. */
  place: string;
  /** Its files and those of the folders in it. */
  files: RemoteFile[];
  /** Name of its licence, if the source has it. */
  licence?: string;
  /** Commit of a repository that was listed. */
  commit?: string;
  /** Facts that the server has shown of each file, by address. */
  served?: Map<string, ServedFile>;
}

/** Files that are read by ranges. */
export interface RangeSource {
  /** Lists the files. */
  list(hooks: ReadHooks): Promise<Listing>;
  /** Reads the files that another worker has listed: the same commit, and no file that changed since. */
  adopt?(listing: Listing): void;
  /** Yields the bytes `start..end` of a listed file. The next step of the iterator overwrites the bytes that the last one yielded. */
  read(file: RemoteFile, start: number, end: number, hooks: ReadHooks): AsyncIterable<Uint8Array<ArrayBuffer>>;
}

/** A file on this machine. */
export interface LocalFile {
  /** Path in the folder, with slashes. */
  path: string;
  file: Blob;
  /** Text that changes when the file changes. */
  version: string;
}

/** A folder on this machine. */
export class LocalRanges implements RangeSource {
  readonly #name: string;
  readonly #files: Promise<LocalFile[]>;

  constructor(name: string, files: Promise<LocalFile[]>) {
    this.#name = name;
    this.#files = files.catch((cause: unknown) => {
      throw unreadable(name, cause);
    });
    // `list` reports it.
    this.#files.catch(() => undefined);
  }

  async list(): Promise<Listing> {
    const files = (await this.#files).map(({ path, file, version }) => ({ path, bytes: file.size, version }));
    return { name: this.#name, place: this.#name, files };
  }

  async *read(
    { path }: RemoteFile,
    start: number,
    end: number,
    { signal }: ReadHooks,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    const body = (await this.#files)
      .find((file) => file.path === path)
      ?.file.slice(start, end)
      .stream();
    let at = start;
    try {
      for await (const piece of body ? readBody(body, { at, bytes: end, wait: (work) => work }) : []) {
        signal.throwIfAborted();
        at += piece.byteLength;
        yield piece;
      }
    } catch (cause) {
      signal.throwIfAborted();
      throw unreadable(path, cause);
    }
    if (at < end) throw new QwenVLError("INTEGRITY", `\`${path}\` became shorter: choose the folder again`);
  }
}

/** Files that a checkpoint without a listing can have. The names of its weight files are in an index, or are the first two. */
const KNOWN_FILES = [
  "model.safetensors",
  "pytorch_model.bin",
  "model.safetensors.index.json",
  "pytorch_model.bin.index.json",
  "config.json",
  "generation_config.json",
  "preprocessor_config.json",
  "processor_config.json",
  "quantize_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "vocab.json",
  "merges.txt",
  "added_tokens.json",
  "special_tokens_map.json",
  "chat_template.json",
  "chat_template.jinja",
  "qwen.tiktoken",
  "adapter_config.json",
  "README.md",
  "LICENSE",
  "LICENSE.txt",
  "LICENSE.md",
  "License",
  "LICENCE",
  "NOTICE",
  "NOTICE.txt",
  "NOTICE.md",
  "Notice",
] as const;

/** Most weight files of an index: a request is sent for each. */
const MAX_SHARDS = 1000;

/** Settings of requests. */
export type Requests = Pick<DownloadOptions, "fetch" | "requestInit" | "retries">;

/** Reads files of a web server by ranges. Notices a file that changes meanwhile. */
export class RangeReader {
  readonly #requests: Requests;
  /** Facts that the server has shown of each file, by address. Other workers begin with a copy. */
  served = new Map<string, ServedFile>();

  constructor(requests: Requests) {
    this.#requests = requests;
  }

  /**
   * Yields the bytes `start..end` of a file, as {@link RangeSource.read} does.
   *
   * @param fetch used instead of that of the requests
   */
  read(url: string, start: number, end: number, hooks: ReadHooks, fetch = this.#requests.fetch): AsyncIterable<Uint8Array<ArrayBuffer>> {
    const served = this.served.get(url) ?? { etag: null, ranges: true };
    this.served.set(url, served);
    // The browser's HTTP cache would keep a second copy of the weights.
    const requestInit: RequestInit = { cache: "no-store", ...this.#requests.requestInit };
    return download(url, end, start, { ...this.#requests, ...hooks, fetch, requestInit, exactRange: true }, served);
  }

  /** Downloads a small file. */
  whole(url: string, hooks: ReadHooks): Promise<Uint8Array<ArrayBuffer>> {
    return downloadWhole(url, { ...this.#requests, ...hooks });
  }
}

/** A folder on a web server that has no listing. */
export class UrlRanges implements RangeSource {
  readonly #url: string;
  readonly #requests: Requests;
  readonly #reader: RangeReader;

  /** @param url address of the folder, with a slash at the end of its path */
  constructor(url: string, requests: Requests) {
    this.#url = new URL(".", url).href;
    this.#requests = requests;
    this.#reader = new RangeReader(requests);
  }

  async list(hooks: ReadHooks): Promise<Listing> {
    const known = await Promise.all(KNOWN_FILES.map((path) => this.#stat(path, hooks)));
    const files = known.filter((file) => file !== undefined);
    if (!files.some(({ path }) => path === "config.json")) {
      throw new QwenVLError("CHECKPOINT_INVALID", `could not find a checkpoint at ${this.#url}: config.json is missing`);
    }
    const shards = await Promise.all((await this.#shards(files, hooks)).map((path) => this.#stat(path, hooks)));
    files.push(...shards.filter((file) => file !== undefined));
    const name = decoded(new URL(this.#url).pathname.split("/").at(-2) ?? "") || "checkpoint";
    return { name, place: this.#url.replace(/\/$/, ""), files, served: this.#reader.served };
  }

  adopt({ served }: Listing): void {
    if (served) this.#reader.served = served;
  }

  read({ path }: RemoteFile, start: number, end: number, hooks: ReadHooks): AsyncIterable<Uint8Array<ArrayBuffer>> {
    return this.#reader.read(this.#address(path), start, end, hooks);
  }

  #address(path: string): string {
    return this.#url + path.split("/").map(encodeURIComponent).join("/");
  }

  /** Returns the names of weight files that the indices list, without those that are known. */
  async #shards(files: readonly RemoteFile[], hooks: ReadHooks): Promise<string[]> {
    const names = new Set<string>();
    for (const { path } of files.filter(({ path }) => path.endsWith(".index.json"))) {
      const text = new TextDecoder().decode(await this.#reader.whole(this.#address(path), hooks));
      try {
        const { weight_map } = JSON.parse(text) as { weight_map: Record<string, string> };
        // The values of a text are its characters.
        if (typeof weight_map === "object") for (const name of Object.values(weight_map)) names.add(name);
      } catch {
        // The converter reads the index too, and reports what is wrong with it.
      }
    }
    if (names.size > MAX_SHARDS) {
      throw new QwenVLError(
        "CHECKPOINT_INVALID",
        `an index at ${this.#url} has ${names.size} weight files, expected at most ${MAX_SHARDS}`,
      );
    }
    const isName = (name: unknown) => typeof name === "string" && isFileName(name) && !name.includes("/");
    return [...names].filter((name) => isName(name) && !files.some(({ path }) => path === name));
  }

  /** Returns the size of a file, or `undefined` if it does not exist. */
  async #stat(path: string, hooks: ReadHooks): Promise<RemoteFile | undefined> {
    const url = this.#address(path);
    let response: Response | undefined;
    const fetch: Fetch = async (address, init) => (response = await this.#requests.fetch(address, init));
    try {
      // Not a HEAD request: its answer has no length where the server compresses.
      await collect(this.#reader.read(url, 0, 1, hooks, fetch));
    } catch (error) {
      const { code, details } = error instanceof QwenVLError ? error : new QwenVLError("INTERNAL", "");
      // `INTEGRITY`: the file is empty.
      const missing = code === "INTEGRITY" || details["status"] === 404 || details["status"] === 410 || details["contentType"];
      if (!missing) throw error;
      this.#reader.served.delete(url);
      return undefined;
    }
    const { status, headers } = response as Response;
    const shown = shownSize(response as Response);
    if (shown === undefined) {
      const advice =
        "it must answer requests for byte ranges, and list Content-Range in Access-Control-Expose-Headers if it is of another origin";
      throw new QwenVLError("DOWNLOAD", `the server does not show the size of ${excerptUrl(url)}: ${advice}`, { details: { url, status } });
    }
    const bytes = Number(shown);
    if (!Number.isSafeInteger(bytes)) {
      const problem = `has ${excerpt(shown)} bytes, expected at most ${Number.MAX_SAFE_INTEGER}`;
      throw new QwenVLError("DOWNLOAD", `the server says that ${excerptUrl(url)} ${problem}`, { details: { url, status } });
    }
    const version = headers.get("etag") ?? headers.get("last-modified") ?? "";
    return { path, bytes, version };
  }
}

/** Returns the digits of the size of a file that an answer shows; `undefined` if it shows none. */
function shownSize({ status, headers }: Response): string | undefined {
  const total = /\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1];
  // `Content-Length` of an encoded file is that of the compressed bytes.
  const isWhole = status === 200 && (headers.get("content-encoding") ?? "identity") === "identity";
  return total ?? (isWhole ? /^\d+$/.exec(headers.get("content-length") ?? "")?.[0] : undefined);
}

/**
 * True for a name that an address can have as one of its parts: not empty, neither `.` nor `..`, which would be other folders, and without half
 * of a surrogate pair, which has no encoding.
 */
export function isFileName(name: string): boolean {
  return !/^\.{0,2}$|\p{Surrogate}/u.test(name);
}

/** Returns a part of an address as text, or as it is if its escapes are malformed. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
