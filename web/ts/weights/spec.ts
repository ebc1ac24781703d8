/** The source and the cache of a load, in a form that the page can post to the worker. */

import { QwenVLError } from "../wire/errors.js";
import { describe, excerpt } from "../wire/quote.js";
import { CacheApiStore } from "./cache-api.js";
import type { Fetch } from "./download.js";
import { hubAddress, HubRanges, HubSource, type HubAddress } from "./hub.js";
import { OpfsStore } from "./opfs.js";
import { PipedSource } from "./pipe.js";
import { LocalRanges, UrlRanges, type LocalFile, type RangeSource } from "./ranges.js";
import { storing } from "./store-errors.js";
import { exposeFetch, exposeStore, plainRequest, remoteFetch, RemoteStore } from "./remote.js";
import { FolderSource, UrlSource, type Source } from "./source.js";
import type { CacheStore } from "./store.js";

/** A model: its address, its local folder (chosen or dropped files, or a directory handle), or its manifest. */
export type ModelSource = string | URL | readonly File[] | FileSystemDirectoryHandle | ManifestSource;

/**
 * A checkpoint in the published layout: a repository of the Hub as `hf:OWNER/NAME[@REVISION]`, the address of its folder, or its folder on
 * this machine (chosen or dropped files, or a directory handle).
 */
export type ConvertSource = string | URL | readonly File[] | FileSystemDirectoryHandle;

/** A manifest that the page already has. */
export interface ManifestSource {
  /** Content of `manifest.json`, as an object or as text. */
  manifest: object | string;
  /** Address of the folder with the model's files. */
  baseUrl: string | URL;
}

/** Store for weights between visits. */
export type CacheChoice = "opfs" | "cache-api" | "none" | CacheStore;

export interface SourceOptions {
  /** Used instead of the browser's `fetch`. */
  fetch?: Fetch;
  /** Credentials, headers and other settings of every request. */
  requestInit?: RequestInit;
  /** Consecutive attempts without progress after which a download fails; 5 by default. */
  retries?: number;
}

export interface HubOptions {
  /** Token for private and gated repositories of the Hub. It is sent to the Hub alone, and never stored. */
  accessToken?: string;
  /** Address of the Hub, `https://huggingface.co` by default. */
  hubUrl?: string | URL;
}

export type SourceSpec =
  | { kind: "url"; url: string; requestInit: RequestInit; retries: number; fetch?: MessagePort; manifest?: string }
  | { kind: "folder"; folder: readonly File[] | FileSystemDirectoryHandle; url: string }
  | ({ kind: "hub"; url: string } & HubSpec)
  /** A model that is being converted: see `PipedSource`. */
  | { kind: "conversion"; url: string; manifest: string; ports: MessagePort[] };

/** A repository of the Hub, and the settings of requests. */
export interface HubSpec {
  address: HubAddress;
  endpoint: string;
  token: string | undefined;
  requestInit: RequestInit;
  retries: number;
  fetch?: MessagePort;
}

/** A checkpoint in the published layout. */
export type RangeSpec =
  | ({ kind: "hub" } & HubSpec)
  | { kind: "url"; url: string; requestInit: RequestInit; retries: number; fetch?: MessagePort }
  | { kind: "files"; name: string; files: LocalFile[] }
  | { kind: "directory"; folder: FileSystemDirectoryHandle }
  /** A folder on the disk, in Node: see `web/ts/node`. */
  | { kind: "path"; folder: string };

export type CacheSpec = { kind: "opfs" | "cache-api" | "none" } | { kind: "custom"; name: string; port: MessagePort };

/** A value to post with its ports. */
export interface Posted<T> {
  spec: T;
  transfer: MessagePort[];
}

const RETRIES = 5;
const HUB_URL = "https://huggingface.co";

/** @param url key of a folder in the cache */
export function sourceSpec(source: ModelSource, options: SourceOptions & HubOptions, url = "folder:"): Posted<SourceSpec> {
  if (isFolder(source)) return { spec: { kind: "folder", folder: source, url }, transfer: [] };
  const address = typeof source === "string" ? hubAddress(source) : undefined;
  if (address) return withFetch({ kind: "hub" as const, url: manifestUrl(source as string), ...hubSpec(address, options) }, options);
  const common = { kind: "url", ...requestSpec(options) } as const;
  let spec: Extract<SourceSpec, { kind: "url" }>;
  if (typeof source === "string" || source instanceof URL) {
    spec = { ...common, url: manifestUrl(source) };
  } else {
    const { manifest, baseUrl } = source;
    spec = { ...common, url: manifestUrl(baseUrl), manifest: typeof manifest === "string" ? manifest : JSON.stringify(manifest) };
  }
  return withFetch(spec, options);
}

export function rangeSpec(source: ConvertSource, options: SourceOptions & HubOptions): Posted<RangeSpec> {
  if (isFolder(source)) {
    if ("getFileHandle" in source) return { spec: { kind: "directory", folder: source }, transfer: [] };
    return { spec: { kind: "files", ...localFiles(source) }, transfer: [] };
  }
  const address = typeof source === "string" ? hubAddress(source) : undefined;
  if (address) return withFetch({ kind: "hub" as const, ...hubSpec(address, options) }, options);
  const url = absolute(source);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return withFetch({ kind: "url" as const, url: url.href, ...requestSpec(options) }, options);
}

function requestSpec({ requestInit = {}, retries = RETRIES }: SourceOptions): { requestInit: RequestInit; retries: number } {
  return { requestInit: plainRequest(requestInit), retries };
}

function hubSpec(address: HubAddress, options: SourceOptions & HubOptions): HubSpec {
  const endpoint = absolute(options.hubUrl ?? HUB_URL).href.replace(/\/$/, "");
  return { address, endpoint, token: options.accessToken, ...requestSpec(options) };
}

/** Adds the page's own `fetch`. */
function withFetch<T extends object>(spec: T, { fetch }: SourceOptions): Posted<T & { fetch?: MessagePort }> {
  if (!fetch) return { spec, transfer: [] };
  const { port1, port2 } = new MessageChannel();
  exposeFetch(port1, fetch);
  return { spec: { ...spec, fetch: port2 }, transfer: [port2] };
}

/** The files of a folder that a user chose, with their paths in it. */
function localFiles(files: readonly File[]): { name: string; files: LocalFile[] } {
  const [top = "", ...below] = files[0]?.webkitRelativePath.split("/") ?? [];
  const local = files.map((file) => ({
    path: file.webkitRelativePath.split("/").slice(1).join("/") || file.name,
    file,
    version: String(file.lastModified),
  }));
  return { name: (below.length > 0 && top) || "checkpoint", files: local };
}

/** The files of a folder and of the folders in it. */
async function directoryFiles(folder: FileSystemDirectoryHandle, path = ""): Promise<LocalFile[]> {
  const files: LocalFile[] = [];
  for await (const [name, handle] of folder.entries()) {
    if (handle.kind === "file") {
      const file = await (handle as FileSystemFileHandle).getFile();
      files.push({ path: path + name, file, version: String(file.lastModified) });
    } else if (path === "") files.push(...(await directoryFiles(handle as FileSystemDirectoryHandle, `${name}/`)));
  }
  return files;
}

export function makeRanges(spec: RangeSpec): RangeSource {
  switch (spec.kind) {
    case "hub":
      return new HubRanges(spec.address, { ...spec, fetch: fetchOf(spec) });
    case "url":
      return new UrlRanges(spec.url, { ...spec, fetch: fetchOf(spec) });
    case "files":
      return new LocalRanges(spec.name, Promise.resolve(spec.files));
    case "directory":
      return new LocalRanges(spec.folder.name, directoryFiles(spec.folder));
    case "path":
      throw new QwenVLError("INTERNAL", "a browser has no paths");
  }
}

function fetchOf({ fetch: port }: { fetch?: MessagePort }): Fetch {
  return port ? remoteFetch(port) : (url, init) => fetch(url, init);
}

function isFolder(source: ModelSource | ConvertSource): source is readonly File[] | FileSystemDirectoryHandle {
  if (typeof source === "string" || source instanceof URL) return false;
  if (typeof source === "object" && source !== null) {
    if ("getFileHandle" in source || (Array.isArray(source) && source.every((file) => file instanceof Blob))) return true;
    if ("manifest" in source && "baseUrl" in source) return false;
  }
  throw invalid(`the model is ${describe(source)}, expected an address, files, a directory handle or { manifest, baseUrl }`);
}

export function cacheSpec(choice: CacheChoice): Posted<CacheSpec> {
  if (choice === "opfs" || choice === "cache-api" || choice === "none") return { spec: { kind: choice }, transfer: [] };
  const isStore =
    typeof choice === "object" && choice !== null && [choice.open, choice.list, choice.delete].every((it) => it instanceof Function);
  if (!isStore)
    throw invalid(`\`cache\` is ${describe(choice)}, expected "opfs", "cache-api", "none" or a store with open, list and delete`);
  const { port1, port2 } = new MessageChannel();
  exposeStore(port1, choice);
  return { spec: { kind: "custom", name: choice.kind, port: port2 }, transfer: [port2] };
}

/** Resolves an address relative to the page, not to the worker's script. */
export function absolute(address: string | URL): URL {
  let url: URL;
  try {
    url = new URL(address, globalThis.document?.baseURI);
  } catch (cause) {
    throw new QwenVLError("INVALID_ARGUMENT", `not an address: ${excerpt(address)}`, { cause });
  }
  // Nothing can be fetched from it.
  if (url.protocol === "javascript:") throw invalid(`a script is not an address: ${excerpt(address)}`);
  return url;
}

/** Returns the address of a manifest, given it or its folder's. */
export function manifestUrl(source: string | URL): string {
  const url = absolute(source);
  if (!url.pathname.endsWith(".json")) {
    if (!url.pathname.endsWith("/")) url.pathname += "/";
    url.pathname += "manifest.json";
  }
  return url.href;
}

export function makeSource(spec: SourceSpec): Source {
  if (spec.kind === "folder") return new FolderSource(spec.folder, spec.url);
  if (spec.kind === "conversion") return new PipedSource(spec.url, spec.manifest, spec.ports);
  if (spec.kind === "hub") return new HubSource(spec.url, spec.address, { ...spec, fetch: fetchOf(spec) });
  const { url, requestInit, retries, manifest } = spec;
  return new UrlSource(url, { manifest, fetch: fetchOf(spec), requestInit, retries });
}

/** Opens a cache store. Fails if the browser does not give the page any storage, as in some private windows. */
export async function openStore(spec: CacheSpec): Promise<CacheStore | undefined> {
  const opening = `open the storage \`${spec.kind}\``;
  switch (spec.kind) {
    case "opfs":
      return storing(opening, () => OpfsStore.create());
    case "cache-api":
      return storing(opening, () => CacheApiStore.create());
    case "custom":
      return new RemoteStore(spec.name, spec.port);
    case "none":
      return undefined;
  }
}

function invalid(message: string): QwenVLError {
  return new QwenVLError("INVALID_ARGUMENT", message);
}
