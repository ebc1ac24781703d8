/**
 * Repositories of the Hugging Face Hub.
 *
 * Three kinds of requests are enough: facts about a revision, its list of files, and ranges of the `resolve` addresses. The client library
 * `@huggingface/hub` is 730 kB and wraps the same requests.
 */

import { QwenVLError } from "../wire/errors.js";
import type { RemoteFile } from "../wire/generated.js";
import { excerpt, excerptUrl } from "../wire/quote.js";
import { sha256 } from "./cache.js";
import { collect, download, downloadWhole, MAX_WHOLE_BYTES, type DownloadOptions, type Fetch } from "./download.js";
import type { FileEntry } from "./manifest.js";
import type { ReadHooks, Source } from "./source.js";
import { isFileName, RangeReader, type Listing, type RangeSource, type Requests } from "./ranges.js";

/** A repository at a revision. */
export interface HubAddress {
  /** `OWNER/NAME`. */
  repository: string;
  /** Branch, tag or commit. */
  revision: string;
}

const SCHEME = "hf:";
/** Most pages of a list of files, each of which has up to 1000. */
const MAX_PAGES = 1000;
/** `OWNER/NAME`. No part begins with a dot or has two in a row: it would be another folder in an address. */
const NAME = /^(?!\.|.*\.\.|.*\/\.)[\w.-]+\/[\w.-]+$/;
/** A commit of Git. */
const COMMIT = /^[\da-f]{40}$/;

/** Parses `hf:OWNER/NAME[@REVISION]`; `undefined` for other addresses. */
export function hubAddress(address: string): HubAddress | undefined {
  if (!address.startsWith(SCHEME)) return undefined;
  const [repository = "", revision = "main", ...rest] = address.slice(SCHEME.length).split("@");
  if (!NAME.test(repository) || !isFileName(revision) || rest.length > 0) {
    throw new QwenVLError("INVALID_ARGUMENT", `the address is \`${excerpt(address)}\`, expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION`);
  }
  return { repository, revision };
}

/** Limits of a request in place of the usual ones. */
type Limits = Partial<Pick<DownloadOptions, "retries" | "stallMs">>;

/** Limits for a newer manifest if the model is in the cache. */
const QUICK: Limits = { retries: 0, stallMs: 5000 };

/** Facts about a revision, as far as they are used. */
interface RevisionFacts {
  /** Commit. */
  sha: string;
  cardData?: { license?: string; license_name?: string };
}

/** An entry of a list of files. */
interface TreeEntry {
  type: "file" | "directory";
  path: string;
  oid: string;
  size: number;
  /** Present for large files: SHA-256 and size of the content. */
  lfs?: { oid: string; size: number };
}

export interface HubOptions extends Requests {
  /** Address of the Hub. */
  endpoint: string;
  token: string | undefined;
}

/**
 * Returns a `fetch` for the Hub's files. The Hub answers with a redirect to a signed address of another host, which is used again until it
 * expires. The token is sent to the Hub alone: browsers and Node take the header off before they follow a redirect to another origin.
 */
export function hubFetch({ fetch, endpoint, token }: Pick<HubOptions, "fetch" | "endpoint" | "token">): Fetch {
  const origin = new URL(endpoint).origin;
  const signed = new Map<string, string>();
  return async (url, init) => {
    const known = signed.get(url);
    if (known !== undefined) {
      const headers = new Headers(init.headers);
      // As a redirect does, if the page's own `requestInit` has it.
      headers.delete("authorization");
      const response = await fetch(known, { ...init, headers }).catch((error: unknown) => {
        // A refusal without CORS headers is a failure of the network to a page.
        signed.delete(url);
        throw error;
      });
      // Expired. Storage hosts answer with 400, 401 or 403.
      if (![400, 401, 403, 404, 410].includes(response.status)) return response;
      await response.body?.cancel();
      signed.delete(url);
    }
    const headers = new Headers(init.headers);
    if (token && new URL(url).origin === origin) headers.set("authorization", `Bearer ${token}`);
    const response = await fetch(url, { ...init, headers });
    if (response.ok && response.redirected && new URL(response.url).origin !== origin) signed.set(url, response.url);
    return response;
  };
}

/** A repository that holds a web checkpoint. */
export class HubSource implements Source {
  readonly url: string;
  readonly #ranges: HubRanges;
  readonly #options: HubOptions;

  /** @param url key of the model in the cache */
  constructor(url: string, address: HubAddress, options: HubOptions) {
    this.url = url;
    this.#options = { ...options, fetch: hubFetch(options) };
    this.#ranges = new HubRanges(address, options);
  }

  async manifest(hooks: ReadHooks, quick: boolean): Promise<string> {
    const { files, name } = await this.#ranges.list(hooks, quick ? QUICK : {});
    const manifest = files.find(({ path }) => path === "manifest.json");
    if (!manifest) {
      const problem = `the repository ${name} holds no web checkpoint`;
      throw new QwenVLError("NOT_CONVERTED", `${problem}: it has no manifest.json`, { details: { repository: name } });
    }
    if (manifest.bytes > MAX_WHOLE_BYTES) {
      throw new QwenVLError(
        "MANIFEST_INVALID",
        `manifest.json of ${name} has ${manifest.bytes} bytes, expected at most ${MAX_WHOLE_BYTES}`,
      );
    }
    return new TextDecoder().decode(await collect(this.#ranges.read(manifest, 0, manifest.bytes, hooks)));
  }

  async *read(entry: FileEntry, from: number, hooks: ReadHooks): AsyncGenerator<Uint8Array, void, undefined> {
    const requestInit: RequestInit = { cache: "no-store", ...this.#options.requestInit };
    const pieceBytes = entry.pieces?.bytes;
    const url = await this.#ranges.address(entry.file, hooks);
    try {
      yield* download(url, entry.bytes, from, { ...this.#options, ...hooks, requestInit, pieceBytes });
    } catch (error) {
      throw this.#ranges.refusal(error) ?? error;
    }
  }
}

/** A repository in the published layout. */
export class HubRanges implements RangeSource {
  readonly #address: HubAddress;
  readonly #options: HubOptions;
  readonly #reader: RangeReader;
  readonly #fetch: Fetch;
  /** Commit that was listed. Everything is read from it. */
  #commit: string | undefined;

  constructor(address: HubAddress, options: HubOptions) {
    this.#address = address;
    this.#options = options;
    this.#fetch = hubFetch(options);
    this.#reader = new RangeReader({ ...options, fetch: this.#fetch });
  }

  async list(hooks: ReadHooks, limits: Limits = {}): Promise<Listing> {
    const { repository, revision } = this.#address;
    const api = `${this.#options.endpoint}/api/models/${repository}`;
    const about = `${api}/revision/${encodeURIComponent(revision)}`;
    const facts = (await this.#json(about, hooks, limits)).value as Partial<RevisionFacts> | null;
    if (typeof facts?.sha !== "string" || !COMMIT.test(facts.sha))
      throw unexpected(about, "a revision with its commit of 40 hexadecimal digits");
    this.#commit = facts.sha;
    const files: RemoteFile[] = [];
    const pages = new Set<string>();
    for (let page: string | undefined = `${api}/tree/${facts.sha}?recursive=true`; page;) {
      if (pages.has(page) || pages.size === MAX_PAGES) throw unexpected(page, `a list of files of at most ${MAX_PAGES} pages`);
      pages.add(page);
      const { value, next } = await this.#json(page, hooks, limits);
      if (!Array.isArray(value)) throw unexpected(page, "a list of files");
      for (const entry of value as (TreeEntry | null)[]) {
        if (entry?.type !== "file") continue;
        const { path, oid, size, lfs } = entry;
        const file = { path, bytes: lfs?.size ?? size, version: lfs?.oid ?? oid };
        if (typeof path !== "string" || typeof file.version !== "string" || !Number.isSafeInteger(file.bytes) || file.bytes < 0) {
          throw unexpected(page, "files with path, size and hash");
        }
        // An address with `..` is that of another repository.
        if (!path.split("/").every(isFileName)) throw unexpected(page, "files inside of the repository");
        files.push(file);
      }
      page = next;
    }
    const { license, license_name: name } = facts.cardData ?? {};
    const licence = [name, license].find((text) => typeof text === "string");
    const found = { commit: facts.sha, served: this.#reader.served, ...(licence ? { licence } : {}) };
    return { name: repository, place: `hf:${repository}@${facts.sha}`, files, ...found };
  }

  adopt({ commit, served }: Listing): void {
    this.#commit = commit;
    if (served) this.#reader.served = served;
  }

  async *read(file: RemoteFile, start: number, end: number, hooks: ReadHooks): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    const url = await this.address(file.path, hooks);
    try {
      const pieces = this.#reader.read(url, start, end, hooks);
      // The version of a large file is its SHA-256.
      if (start === 0 && end === file.bytes && /^[\da-f]{64}$/.test(file.version)) yield await verified(file, await collect(pieces));
      else yield* pieces;
    } catch (error) {
      throw this.refusal(error) ?? error;
    }
  }

  /** Returns the address of a file at the commit that was listed. */
  async address(path: string, hooks: ReadHooks): Promise<string> {
    if (this.#commit === undefined) await this.list(hooks);
    const encoded = path.split("/").map(encodeURIComponent).join("/");
    return `${this.#options.endpoint}/${this.#address.repository}/resolve/${this.#commit}/${encoded}`;
  }

  /** Reads JSON of the Hub's API, and the address of the next page. */
  async #json(url: string, hooks: ReadHooks, limits: Limits): Promise<{ value: unknown; next: string | undefined }> {
    let next: string | undefined;
    const fetch: Fetch = async (address, init) => {
      const response = await this.#fetch(address, init);
      const link = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("link") ?? "")?.[1];
      next = link && URL.canParse(link, url) ? new URL(link, url).href : undefined;
      // The list of a repository is at the Hub that was named, under one path.
      if (next && withoutQuery(next) !== withoutQuery(url)) throw unexpected(url, "a list of files whose pages have one address");
      return response;
    };
    const bytes = await downloadWhole(url, { ...this.#options, ...hooks, ...limits, fetch }).catch((error: unknown) => {
      throw this.#explained(error);
    });
    try {
      return { value: JSON.parse(new TextDecoder().decode(bytes)), next };
    } catch (cause) {
      throw new QwenVLError("DOWNLOAD", `the Hub's answer is not JSON: ${url}`, { cause });
    }
  }

  /** Returns the error of a request that the Hub refused; `undefined` for other errors. Files of a gated repository are refused, its list is not. */
  refusal(error: unknown): QwenVLError | undefined {
    const status = statusOf(error);
    if (status !== 401 && status !== 403) return undefined;
    const { repository, revision } = this.#address;
    const token = this.#options.token
      ? "the access token does not give access to it"
      : "pass an access token of an account that has access to it";
    const message = `the repository ${repository} does not exist, is private or is gated: ${token}`;
    return new QwenVLError("ACCESS_DENIED", message, { details: { repository, revision, status } });
  }

  /** Says what the status of a request for facts means. */
  #explained(error: unknown): unknown {
    const status = statusOf(error);
    if (status !== 404) return this.refusal(error) ?? error;
    const { repository, revision } = this.#address;
    const details = { repository, revision, status };
    return new QwenVLError("DOWNLOAD", `the repository ${repository} with the revision ${revision} does not exist`, { details });
  }
}

/** The error of an answer that is JSON and not what was asked for. */
function unexpected(url: string, expected: string): QwenVLError {
  return new QwenVLError("DOWNLOAD", `the Hub's answer is not ${expected}: ${excerptUrl(url)}`, { details: { url } });
}

function withoutQuery(url: string): string {
  const { origin, pathname } = new URL(url);
  return origin + pathname;
}

function statusOf(error: unknown): unknown {
  return error instanceof QwenVLError ? error.details["status"] : undefined;
}

/** Checks a file that was read whole. */
async function verified({ path, version }: RemoteFile, bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const found = await sha256(bytes);
  if (found === version) return bytes;
  const details = { shard: path, expected: version, found };
  throw new QwenVLError("INTEGRITY", `\`${path}\`: expected SHA-256 ${version} as the Hub lists it, found ${found}`, { details });
}
