/** Where weights come from and where they are kept, as the page says it to the worker. */

import type { CacheBackend } from "./backend.js";
import { CacheApiBackend } from "./cache-api.js";
import { OpfsBackend } from "./opfs.js";
import { exposeBackend, exposeFetch, plainRequest, RemoteBackend, remoteFetch } from "./remote.js";
import { FolderSource, UrlSource, type Source } from "./source.js";
import { QwenVLError } from "../wire/errors.js";
import type { Fetch } from "./download.js";

/**
 * A model's address, or its folder on this machine: chosen or dropped files, or a directory handle; or a manifest that the page has
 * already, with the address of the folder that its files are in.
 */
export type ModelSource = string | URL | readonly File[] | FileSystemDirectoryHandle | ManifestSource;

/** A manifest without a request for it. */
export interface ManifestSource {
  /** What `manifest.json` holds, as an object or as text. */
  manifest: object | string;
  /** Where its files are. */
  baseUrl: string | URL;
}

/** Where weights are kept between visits. */
export type CacheChoice = "opfs" | "cache-api" | "none" | CacheBackend;

export interface SourceOptions {
  /** Used instead of the browser's `fetch`. */
  fetch?: Fetch;
  /** Credentials, headers and the like for every request. */
  requestInit?: RequestInit;
  /** Attempts in a row that may fail; 5 by default. */
  retries?: number;
}

export type SourceSpec =
  | { kind: "url"; url: string; requestInit: RequestInit; retries: number; fetch?: MessagePort; manifest?: string }
  | { kind: "folder"; folder: readonly File[] | FileSystemDirectoryHandle; url: string };

export type CacheSpec = { kind: "opfs" | "cache-api" | "none" } | { kind: "custom"; name: string; port: MessagePort };

/** What can be posted, and the ports that go with it. */
export interface Posted<T> {
  spec: T;
  transfer: MessagePort[];
}

const RETRIES = 5;

/** @param url what a folder is known by in the cache */
export function sourceSpec(source: ModelSource, options: SourceOptions, url = "folder:"): Posted<SourceSpec> {
  if (isFolder(source)) return { spec: { kind: "folder", folder: source, url }, transfer: [] };
  const { requestInit = {}, retries = RETRIES } = options;
  const common = { kind: "url", requestInit: plainRequest(requestInit), retries } as const;
  let spec: Extract<SourceSpec, { kind: "url" }>;
  if (typeof source === "object" && "manifest" in source) {
    const { manifest, baseUrl } = source;
    spec = { ...common, url: manifestUrl(baseUrl), manifest: typeof manifest === "string" ? manifest : JSON.stringify(manifest) };
  } else {
    spec = { ...common, url: manifestUrl(source) };
  }
  if (!options.fetch) return { spec, transfer: [] };
  const { port1, port2 } = new MessageChannel();
  exposeFetch(port1, options.fetch);
  return { spec: { ...spec, fetch: port2 }, transfer: [port2] };
}

function isFolder(source: ModelSource): source is readonly File[] | FileSystemDirectoryHandle {
  return typeof source === "object" && !(source instanceof URL) && !("manifest" in source);
}

export function cacheSpec(choice: CacheChoice): Posted<CacheSpec> {
  if (typeof choice === "string") return { spec: { kind: choice }, transfer: [] };
  const { port1, port2 } = new MessageChannel();
  exposeBackend(port1, choice);
  return { spec: { kind: "custom", name: choice.kind, port: port2 }, transfer: [port2] };
}

/** Relative to the page, not to the worker's script. */
export function absolute(address: string | URL): URL {
  try {
    return new URL(address, globalThis.document?.baseURI);
  } catch (cause) {
    throw new QwenVLError("INVALID_ARGUMENT", `not an address: ${String(address)}`, { cause });
  }
}

/** The address of a manifest, of its own or of its folder's. */
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
  return new UrlSource(url, {
    manifest,
    fetch: spec.fetch ? remoteFetch(spec.fetch) : (url, init) => fetch(url, init),
    requestInit,
    retries,
  });
}

/** Fails where the browser does not give this page any storage, as in some private windows. */
export async function makeBackend(spec: CacheSpec): Promise<CacheBackend | undefined> {
  switch (spec.kind) {
    case "opfs":
      return OpfsBackend.make();
    case "cache-api":
      return CacheApiBackend.make();
    case "custom":
      return new RemoteBackend(spec.name, spec.port);
    case "none":
      return undefined;
  }
}
