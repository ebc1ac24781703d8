/** The source and the cache of a load, in a form that the page can post to the worker. */

import { QwenVLError } from "../wire/errors.js";
import { describe, excerpt } from "../wire/quote.js";
import { CacheApiStore } from "./cache-api.js";
import type { Fetch } from "./download.js";
import { OpfsStore } from "./opfs.js";
import { exposeFetch, exposeStore, plainRequest, remoteFetch, RemoteStore } from "./remote.js";
import { FolderSource, UrlSource, type Source } from "./source.js";
import type { CacheStore } from "./store.js";

/** A model: its address, its local folder (chosen or dropped files, or a directory handle), or its manifest. */
export type ModelSource = string | URL | readonly File[] | FileSystemDirectoryHandle | ManifestSource;

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

export type SourceSpec =
  | { kind: "url"; url: string; requestInit: RequestInit; retries: number; fetch?: MessagePort; manifest?: string }
  | { kind: "folder"; folder: readonly File[] | FileSystemDirectoryHandle; url: string };

export type CacheSpec = { kind: "opfs" | "cache-api" | "none" } | { kind: "custom"; name: string; port: MessagePort };

/** A value to post with its ports. */
export interface Posted<T> {
  spec: T;
  transfer: MessagePort[];
}

const RETRIES = 5;

/** @param url key of a folder in the cache */
export function sourceSpec(source: ModelSource, options: SourceOptions, url = "folder:"): Posted<SourceSpec> {
  if (isFolder(source)) return { spec: { kind: "folder", folder: source, url }, transfer: [] };
  const { requestInit = {}, retries = RETRIES } = options;
  const common = { kind: "url", requestInit: plainRequest(requestInit), retries } as const;
  let spec: Extract<SourceSpec, { kind: "url" }>;
  if (typeof source === "string" || source instanceof URL) {
    spec = { ...common, url: manifestUrl(source) };
  } else {
    const { manifest, baseUrl } = source;
    spec = { ...common, url: manifestUrl(baseUrl), manifest: typeof manifest === "string" ? manifest : JSON.stringify(manifest) };
  }
  if (!options.fetch) return { spec, transfer: [] };
  const { port1, port2 } = new MessageChannel();
  exposeFetch(port1, options.fetch);
  return { spec: { ...spec, fetch: port2 }, transfer: [port2] };
}

function isFolder(source: ModelSource): source is readonly File[] | FileSystemDirectoryHandle {
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
  try {
    return new URL(address, globalThis.document?.baseURI);
  } catch (cause) {
    throw new QwenVLError("INVALID_ARGUMENT", `not an address: ${excerpt(address)}`, { cause });
  }
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
  const { url, requestInit, retries, manifest } = spec;
  const ownFetch: Fetch = (url, init) => fetch(url, init);
  return new UrlSource(url, { manifest, fetch: spec.fetch ? remoteFetch(spec.fetch) : ownFetch, requestInit, retries });
}

/** Opens a cache store. Fails if the browser does not give the page any storage, as in some private windows. */
export async function openStore(spec: CacheSpec): Promise<CacheStore | undefined> {
  switch (spec.kind) {
    case "opfs":
      return OpfsStore.create();
    case "cache-api":
      return CacheApiStore.create();
    case "custom":
      return new RemoteStore(spec.name, spec.port);
    case "none":
      return undefined;
  }
}

function invalid(message: string): QwenVLError {
  return new QwenVLError("INVALID_ARGUMENT", message);
}
