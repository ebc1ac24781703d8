/** What is known about the files of a backend: which are complete, and to which models they belong. */

import type { CacheBackend, CacheFile, StoredFile } from "./backend.js";
import type { FileEntry, Manifest } from "./manifest.js";

/** Files are named by their content, so a model that changed never meets the bytes of the old one. */
const dataName = ({ sha256 }: FileEntry) => sha256;
/** Written after the data, its hash checked: without it, what is stored is only the beginning of a download. */
const recordName = ({ sha256 }: FileEntry) => `${sha256}.complete`;
const MODEL_SUFFIX = ".model";

/** What is kept of a model beside its files, by address. */
interface ModelRecord {
  url: string;
  manifest: string;
}

/** A model in the cache. */
export interface CachedModel {
  /** The address that it is loaded from. */
  url: string;
  /** Name of the checkpoint that was converted. */
  source: string;
  /** Bytes of the model's files. */
  bytes: number;
  /** Those that are stored. */
  storedBytes: number;
  /** Whether it can be loaded without a connection. */
  complete: boolean;
}

/** The files that loading a model needs. */
export function filesOf(manifest: Manifest): FileEntry[] {
  const tokenizer = manifest.files.filter(({ file }) => file === manifest.processor.tokenizer_file);
  return [...tokenizer, ...manifest.shards];
}

/** The cache of weights. A failure to write is told once and ends the writing, never a load. */
export class WeightCache {
  readonly backend: CacheBackend;
  readonly #onProblem: (problem: unknown) => void;
  #writable = true;

  constructor(backend: CacheBackend, onProblem: (problem: unknown) => void = () => undefined) {
    this.backend = backend;
    this.#onProblem = onProblem;
  }

  get writable(): boolean {
    return this.#writable;
  }

  /** Nothing more is written; what is stored stays usable. */
  stopWriting(problem: unknown): void {
    if (this.#writable) this.#onProblem(problem);
    this.#writable = false;
  }

  /** Opens a model's file; none if the backend fails. */
  async open(entry: FileEntry): Promise<CachedFile | undefined> {
    let file: CacheFile | undefined;
    try {
      const complete = (await this.#readRecord(recordName(entry))) === String(entry.bytes);
      file = await this.#make(dataName(entry));
      const cached = new CachedFile(this, entry, file, complete);
      // A record without its data was left by an eviction; more data than the file has, by a fault.
      if (complete ? file.bytes !== entry.bytes : file.bytes > entry.bytes) await cached.reset();
      return cached;
    } catch (problem) {
      await file?.close().catch(() => undefined);
      this.stopWriting(problem);
      return undefined;
    }
  }

  /** Bytes that a model still lacks here. */
  async missingBytes(manifest: Manifest): Promise<number> {
    const stored = new Map((await this.backend.list()).map(({ name, bytes }) => [name, bytes]));
    return filesOf(manifest).reduce((sum, entry) => sum + Math.max(entry.bytes - (stored.get(dataName(entry)) ?? 0), 0), 0);
  }

  /** Keeps a model's manifest, so that it can be loaded without a connection. Files of the model that was there before go. */
  async remember(url: string, manifest: string): Promise<void> {
    if (!this.#writable) return;
    try {
      const before = await this.#records();
      const name = await modelName(url);
      if (before.get(name)?.manifest === manifest) return;
      await this.backend.delete(name);
      await this.#writeRecord(name, JSON.stringify({ url, manifest } satisfies ModelRecord));
      if (before.has(name)) await this.#deleteUnused();
    } catch (problem) {
      this.stopWriting(problem);
    }
  }

  /** The manifest that was kept for an address. */
  async manifest(url: string): Promise<string | undefined> {
    return (await this.#records()).get(await modelName(url))?.manifest;
  }

  async models(): Promise<CachedModel[]> {
    const files = await this.backend.list();
    return [...(await this.#records()).values()].map(({ url, manifest: text }) => {
      const manifest = JSON.parse(text) as Manifest;
      const entries = filesOf(manifest);
      const stored = (entry: FileEntry) => files.find(({ name }) => name === dataName(entry))?.bytes ?? 0;
      return {
        url,
        source: manifest.provenance.source,
        bytes: entries.reduce((sum, { bytes }) => sum + bytes, 0),
        storedBytes: entries.reduce((sum, entry) => sum + Math.min(stored(entry), entry.bytes), 0),
        complete: entries.every((entry) => isComplete(files, entry)),
      };
    });
  }

  /** Deletes a model and the files that no other model has. Returns whether it was there. */
  async delete(url: string): Promise<boolean> {
    const name = await modelName(url);
    const known = (await this.#records()).has(name);
    await this.backend.delete(name);
    await this.#deleteUnused();
    return known;
  }

  /** Deletes everything. */
  async clear(): Promise<void> {
    for (const { name } of await this.backend.list()) await this.backend.delete(name);
  }

  /** @internal */
  async markComplete(entry: FileEntry): Promise<void> {
    await this.#writeRecord(recordName(entry), String(entry.bytes));
  }

  /** @internal */
  async unmark(entry: FileEntry): Promise<void> {
    await this.backend.delete(recordName(entry));
  }

  async #records(): Promise<Map<string, ModelRecord>> {
    const records = new Map<string, ModelRecord>();
    for (const { name } of await this.backend.list()) {
      if (!name.endsWith(MODEL_SUFFIX)) continue;
      const record = parseRecord(await this.#readRecord(name));
      if (record) records.set(name, record);
    }
    return records;
  }

  async #deleteUnused(): Promise<void> {
    const used = new Set<string>();
    for (const [name, { manifest }] of await this.#records()) {
      used.add(name);
      const { files, shards } = JSON.parse(manifest) as Manifest;
      for (const entry of [...files, ...shards]) used.add(dataName(entry)).add(recordName(entry));
    }
    // Records before their data.
    const unused = (await this.backend.list()).map(({ name }) => name).filter((name) => !used.has(name));
    for (const name of unused.sort((a, b) => b.length - a.length)) await this.backend.delete(name);
  }

  async #readRecord(name: string): Promise<string | undefined> {
    const file = await this.backend.open(name, false);
    if (!file) return undefined;
    try {
      return new TextDecoder().decode(await file.read(0, file.bytes));
    } finally {
      await file.close();
    }
  }

  async #make(name: string): Promise<CacheFile> {
    const file = await this.backend.open(name, true);
    if (!file) throw new Error(`the cache made no file \`${name}\``);
    return file;
  }

  async #writeRecord(name: string, text: string): Promise<void> {
    const file = await this.#make(name);
    try {
      await file.truncate();
      await file.append(new TextEncoder().encode(text));
    } finally {
      await file.close();
    }
  }
}

/** A model's file in the cache, perhaps only its beginning. Nothing here throws: what fails is told to the cache. */
export class CachedFile {
  readonly #cache: WeightCache;
  readonly #entry: FileEntry;
  readonly #file: CacheFile;
  /** Whether what is stored is the beginning of the file without a gap. */
  #sound = true;
  #complete: boolean;

  constructor(cache: WeightCache, entry: FileEntry, file: CacheFile, complete: boolean) {
    this.#cache = cache;
    this.#entry = entry;
    this.#file = file;
    this.#complete = complete;
  }

  /** Whether all of it is here and was checked. */
  get complete(): boolean {
    return this.#complete;
  }

  /** The stored bytes from the beginning on. */
  async *read(pieceBytes: number): AsyncGenerator<Uint8Array, void, undefined> {
    const end = this.#file.bytes;
    for (let at = 0; at < end;) {
      const piece = await this.#file.read(at, Math.min(pieceBytes, end - at)).catch(() => new Uint8Array(0));
      if (piece.byteLength === 0) {
        // It can not be continued where it stopped, for the bytes behind are unreadable.
        this.#sound = false;
        return;
      }
      at += piece.byteLength;
      yield piece;
    }
  }

  async append(bytes: Uint8Array): Promise<void> {
    if (!this.#sound || !this.#cache.writable) {
      this.#sound = false;
      return;
    }
    try {
      await this.#file.append(bytes);
    } catch (problem) {
      this.#sound = false;
      this.#cache.stopWriting(problem);
    }
  }

  /** Forgets what is stored. */
  async reset(): Promise<void> {
    try {
      this.#complete = false;
      await this.#cache.unmark(this.#entry);
      await this.#file.truncate();
      this.#sound = true;
    } catch (problem) {
      this.#sound = false;
      this.#cache.stopWriting(problem);
    }
  }

  /** Closes the file. If `right`, all of it was given and its hash is the one expected, which is recorded. */
  async close(right: boolean): Promise<void> {
    try {
      if (right && !this.#sound) {
        await this.#cache.unmark(this.#entry);
        await this.#file.truncate();
      }
      const whole = this.#file.bytes === this.#entry.bytes;
      await this.#file.close();
      if (right && whole && !this.#complete) await this.#cache.markComplete(this.#entry);
    } catch (problem) {
      this.#cache.stopWriting(problem);
    }
  }
}

function isComplete(files: readonly StoredFile[], entry: FileEntry): boolean {
  const has = (name: string, bytes?: number) => files.some((file) => file.name === name && (bytes === undefined || file.bytes === bytes));
  return has(recordName(entry)) && has(dataName(entry), entry.bytes);
}

async function modelName(url: string): Promise<string> {
  return (await sha256(new TextEncoder().encode(url))) + MODEL_SUFFIX;
}

/** A crash while it was written may have left anything. */
function parseRecord(text: string | undefined): ModelRecord | undefined {
  try {
    const record = JSON.parse(text ?? "") as ModelRecord;
    JSON.parse(record.manifest);
    return record;
  } catch {
    return undefined;
  }
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** SHA-256 in lower-case hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  let text = "";
  for (const byte of new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))) text += HEX[byte];
  return text;
}
