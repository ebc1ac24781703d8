/** Knows which files of a cache store are complete, and which models they belong to. */

import type { ConvertSettings } from "../wire/types.js";
import type { FileEntry, Manifest } from "./manifest.js";
import { createFile, readText, renameFile, writeFile, type CacheFile, type CacheStore, type StoredFile } from "./store.js";
import { withErrors } from "./store-errors.js";

/** Files are named by their content, so that a new version of a model never uses bytes of the old one. */
const dataName = ({ sha256 }: FileEntry) => sha256;
/** The record is written after the data, once the hash is verified. A file without a record is an unfinished download. */
const recordName = ({ sha256 }: FileEntry) => `${sha256}.complete`;
const MODEL_SUFFIX = ".model";
/** Ends the name of a model's record while it replaces the one without this ending. It counts if it is whole. */
const NEXT_SUFFIX = ".next";
/** Begins the names of files of conversions that are not complete. */
const CONVERSION_PREFIX = "convert-";
/** Ends the name of a conversion's record. */
const CONVERSION_RECORD = ".conversion";
/** Ends the name of the record of a shard that a conversion has made. */
export const SHARD_RECORD = ".done";

/** Begins the names of the records of kernels, which belong to no model. */
export const KERNELS_PREFIX = "kernels-";

/** Begins the names of the files of one conversion. Each shard has this name with its number behind it. */
export const conversionPrefix = (id: string): string => `${CONVERSION_PREFIX}${id}-`;

/** Record of a model: its address and manifest. */
interface ModelRecord {
  url: string;
  manifest: string;
}

/** A model in the cache. */
export interface CachedModel {
  /** Address of the model's manifest. */
  url: string;
  /** Name of the checkpoint that was converted. */
  source: string;
  /** Size of the model's files. */
  bytes: number;
  /** Bytes of these files that are stored. */
  storedBytes: number;
  /** True if the model can be loaded without a connection. */
  complete: boolean;
}

/** A conversion into the cache, as its record describes it. It is recorded when the conversion begins, and has no secrets. */
export interface ConversionRecord {
  /** Name of the checkpoint: of its repository or its folder. */
  name: string;
  /** Address of the checkpoint, with the commit if it is a repository of the Hub. Absent for files of this machine. */
  source?: string;
  /** Address for `load`, once the model is complete. */
  url: string;
  /** Bytes that the result takes at most. */
  bytes: number;
  /** Settings of the conversion. A conversion with other settings starts anew. */
  settings: ConvertSettings;
}

/** A conversion into the cache that is not complete. `convert` with its source, `url` and settings resumes it. */
export interface UnfinishedConversion extends ConversionRecord {
  /** Identifies the conversion for `deleteConversion`. */
  id: string;
  /** Bytes of the result that are stored. */
  storedBytes: number;
}

/** Returns the files that loading a model needs. */
export function filesOf(manifest: Manifest): FileEntry[] {
  const tokenizer = manifest.files.filter(({ file }) => file === manifest.processor.tokenizer_file);
  return [...tokenizer, ...manifest.shards];
}

/** The weight cache. The first failure to write is reported and ends writing; it never ends a load. */
export class WeightCache {
  readonly store: CacheStore;
  readonly #onProblem: (problem: unknown) => void;
  #writable = true;

  constructor(store: CacheStore, onProblem: (problem: unknown) => void = () => undefined) {
    this.store = withErrors(store);
    this.#onProblem = onProblem;
  }

  get writable(): boolean {
    return this.#writable;
  }

  /** Reports a problem of the store and writes nothing more. Stored files stay usable. */
  stopWriting(problem: unknown): void {
    if (this.#writable) this.#onProblem(problem);
    this.#writable = false;
  }

  /** Opens a file of a model. Returns `undefined` if the store fails. */
  async open(entry: FileEntry): Promise<CachedFile | undefined> {
    let file: CacheFile | undefined;
    try {
      const complete = (await this.#readRecord(recordName(entry))) === String(entry.bytes);
      file = await createFile(this.store, dataName(entry));
      const cached = new CachedFile(this, entry, file, complete);
      // An eviction can leave a record without its data; a fault can leave more data than the file has.
      if (complete ? file.bytes !== entry.bytes : file.bytes > entry.bytes) await cached.reset();
      return cached;
    } catch (problem) {
      // The first problem is reported; closing after it can fail for the same reason.
      await file?.close().catch(() => undefined);
      this.stopWriting(problem);
      return undefined;
    }
  }

  /** Returns the number of bytes of a model that are not stored. */
  async missingBytes(manifest: Manifest): Promise<number> {
    const stored = new Map((await this.store.list()).map(({ name, bytes }) => [name, bytes]));
    return filesOf(manifest).reduce((sum, entry) => sum + Math.max(entry.bytes - (stored.get(dataName(entry)) ?? 0), 0), 0);
  }

  /** Stores a model's manifest for loads without a connection. Deletes the files that only the previous model at this address used. */
  async remember(url: string, manifest: string): Promise<void> {
    if (!this.#writable) return;
    try {
      const name = await modelName(url);
      const before = (await this.#records()).get(name);
      const names = (await this.store.list()).map(({ name }) => name);
      if (before?.manifest === manifest && !names.includes(name + NEXT_SUFFIX)) return;
      const record = JSON.stringify({ url, manifest } satisfies ModelRecord);
      // A crash leaves one of the two records whole.
      await this.#writeRecord(name + NEXT_SUFFIX, record);
      await this.#writeRecord(name, record);
      await this.store.delete(name + NEXT_SUFFIX);
      if (before) await this.#deleteFiles(JSON.parse(before.manifest) as Manifest);
    } catch (problem) {
      this.stopWriting(problem);
    }
  }

  /** Returns the stored manifest of a model. */
  async manifest(url: string): Promise<string | undefined> {
    return (await this.#records()).get(await modelName(url))?.manifest;
  }

  async models(): Promise<CachedModel[]> {
    const files = await this.store.list();
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

  /** Deletes a model and the files that no other model uses. Returns true if it was stored. */
  async delete(url: string): Promise<boolean> {
    const name = await modelName(url);
    const record = (await this.#records()).get(name);
    await this.store.delete(name + NEXT_SUFFIX);
    await this.store.delete(name);
    if (record) await this.#deleteFiles(JSON.parse(record.manifest) as Manifest);
    return record !== undefined;
  }

  /** Records that a conversion begins. */
  async rememberConversion(id: string, record: ConversionRecord): Promise<void> {
    const name = conversionPrefix(id) + CONVERSION_RECORD;
    const text = JSON.stringify(record);
    // A crash while an equal record is written again would lose it.
    if ((await this.#readRecord(name)) !== text) await this.#writeRecord(name, text);
  }

  /** Returns the conversions that are not complete, without those whose record is damaged. */
  async conversions(): Promise<UnfinishedConversion[]> {
    const files = await this.store.list();
    const found: UnfinishedConversion[] = [];
    for (const { name } of files) {
      if (!name.startsWith(CONVERSION_PREFIX) || !name.endsWith(CONVERSION_RECORD)) continue;
      const prefix = name.slice(0, -CONVERSION_RECORD.length);
      const id = prefix.slice(CONVERSION_PREFIX.length, -1);
      const record = parseConversion(await this.#readRecord(name));
      if (!record) continue;
      const shards = files.filter((file) => file.name.startsWith(prefix) && /^\d+$/.test(file.name.slice(prefix.length)));
      found.push({ id, ...record, storedBytes: shards.reduce((sum, { bytes }) => sum + bytes, 0) });
    }
    return found;
  }

  /** Deletes what a conversion has written, also if its record is damaged. */
  async deleteConversion(id: string): Promise<void> {
    const prefix = conversionPrefix(id);
    const names = (await this.store.list()).map(({ name }) => name).filter((name) => name.startsWith(prefix));
    // The record comes last: a crash before must leave the conversion in the list.
    const isRecord = (name: string) => Number(name === prefix + CONVERSION_RECORD);
    for (const name of names.sort((a, b) => isRecord(a) - isRecord(b))) await this.store.delete(name);
  }

  /** Deletes the records of a conversion whose model is stored. */
  async endConversion(id: string): Promise<void> {
    // Without this record, the others belong to nothing: a crash before they are deleted does not leave an unfinished conversion.
    await this.store.delete(conversionPrefix(id) + CONVERSION_RECORD);
    await this.deleteConversion(id);
  }

  /** Deletes all files. */
  async clear(): Promise<void> {
    for (const { name } of await this.store.list()) await this.store.delete(name);
  }

  /** Makes a closed file of the store the stored file of a model. An interrupted run may have renamed it already. */
  async adopt(name: string, entry: FileEntry): Promise<void> {
    const files = await this.store.list();
    const isThere = files.some((file) => file.name === name);
    // Another model can have the same file, and must not lose it for a moment.
    if (isComplete(files, entry)) {
      if (isThere) await this.store.delete(name);
      return;
    }
    if (isThere) await renameFile(this.store, name, dataName(entry));
    await this.markComplete(entry);
  }

  /** Records that a file is stored completely and verified. */
  async markComplete(entry: FileEntry): Promise<void> {
    await this.#writeRecord(recordName(entry), String(entry.bytes));
  }

  /** Deletes the record of {@link markComplete}. */
  async unmark(entry: FileEntry): Promise<void> {
    await this.store.delete(recordName(entry));
  }

  async #records(): Promise<Map<string, ModelRecord>> {
    const records = new Map<string, ModelRecord>();
    const names = (await this.store.list()).map(({ name }) => name);
    for (const suffix of [MODEL_SUFFIX, MODEL_SUFFIX + NEXT_SUFFIX]) {
      for (const name of names.filter((name) => name.endsWith(suffix))) {
        const record = parseRecord(await this.#readRecord(name));
        if (record) records.set(await modelName(record.url), record);
      }
    }
    return records;
  }

  /** Deletes the files of a model that no stored model has. */
  async #deleteFiles({ files, shards }: Manifest): Promise<void> {
    const used = usedBy(await this.#records());
    // A record is deleted before its data.
    const names = [...files, ...shards].flatMap((entry) => [recordName(entry), dataName(entry)]);
    for (const name of names) if (!used.has(name)) await this.store.delete(name);
  }

  /**
   * Returns the names of files that belong to nothing: those that an interrupted deletion, or the end of a conversion, has left. While that is
   * uncertain it returns those of ended conversions alone: if a model's record cannot be read, or a conversion is not complete, whose last step
   * renames its shards.
   */
  async unused(): Promise<string[]> {
    const names = (await this.store.list()).map(({ name }) => name);
    const ended = await this.#ofEndedConversions(names);
    if (names.some((name) => name.startsWith(CONVERSION_PREFIX) && !ended.includes(name))) return ended;
    const records = await this.#records();
    if (names.some((name) => name.endsWith(MODEL_SUFFIX) && !records.has(name))) return ended;
    const used = usedBy(records);
    const isUnused = (name: string) => !used.has(name) && !name.startsWith(KERNELS_PREFIX) && !name.startsWith(CONVERSION_PREFIX);
    // Longer names first: a record is deleted before its data.
    return [...ended, ...names.filter(isUnused).sort((a, b) => b.length - a.length)];
  }

  /** Returns the names of the files of conversions whose model is stored, in the order of {@link endConversion}. */
  async #ofEndedConversions(names: readonly string[]): Promise<string[]> {
    const files = new Map<string, string[]>();
    for (const name of names) {
      const [prefix] = /^convert-[^-]*-/.exec(name) ?? [];
      if (prefix !== undefined) files.set(prefix, [...(files.get(prefix) ?? []), name]);
    }
    const ended: string[] = [];
    for (const [prefix, own] of files) {
      const record = prefix + CONVERSION_RECORD;
      // Without this record only those of shards are left over: their data may belong to a conversion whose record a crash has lost.
      if (!own.includes(record)) ended.push(...(own.every((name) => name.endsWith(SHARD_RECORD)) ? own : []));
      else if (await this.#hasEnded(prefix, own)) ended.push(record, ...own.filter((name) => name !== record));
    }
    return ended;
  }

  /** True if all that is left of a conversion are its records, and they are of the shards of the model at its address. */
  async #hasEnded(prefix: string, files: readonly string[]): Promise<boolean> {
    const record = parseConversion(await this.#readRecord(prefix + CONVERSION_RECORD));
    const manifest = record && (await this.manifest(record.url));
    if (manifest === undefined) return false;
    const { shards } = JSON.parse(manifest) as Manifest;
    if (files.length !== shards.length + 1) return false;
    for (const [index, { sha256 }] of shards.entries()) {
      const done = await this.#readRecord(`${prefix}${index}${SHARD_RECORD}`);
      if (!done?.includes(sha256)) return false;
    }
    return true;
  }

  #readRecord(name: string): Promise<string | undefined> {
    return readText(this.store, name);
  }

  #writeRecord(name: string, text: string): Promise<void> {
    return writeFile(this.store, name, new TextEncoder().encode(text));
  }
}

/** A model's file in the cache, possibly incomplete. No method throws; problems are reported to the cache. */
export class CachedFile {
  readonly #cache: WeightCache;
  readonly #entry: FileEntry;
  readonly #file: CacheFile;
  #intact = true;
  #readError: unknown;
  #complete: boolean;

  constructor(cache: WeightCache, entry: FileEntry, file: CacheFile, complete: boolean) {
    this.#cache = cache;
    this.#entry = entry;
    this.#file = file;
    this.#complete = complete;
  }

  /** True if the whole file is stored and was verified. */
  get complete(): boolean {
    return this.#complete;
  }

  /** True if all stored bytes could be read and written: they are the beginning of the file without a gap. */
  get intact(): boolean {
    return this.#intact;
  }

  /** Error of the read that ended {@link read}, if the store threw one. */
  get readError(): unknown {
    return this.#readError;
  }

  /** Yields the stored bytes from the start. Ends at the first byte that cannot be read. */
  async *read(pieceBytes: number): AsyncGenerator<Uint8Array, void, undefined> {
    const end = this.#file.bytes;
    for (let at = 0; at < end;) {
      // An unreadable piece counts as empty: the caller gets the bytes after it from the source. It is read twice, because such a file is
      // discarded, and other models can need it.
      const read = () =>
        this.#file.read(at, Math.min(pieceBytes, end - at)).catch((error: unknown) => {
          this.#readError = error;
          return new Uint8Array(0);
        });
      let piece = await read();
      if (piece.byteLength === 0) piece = await read();
      if (piece.byteLength === 0) {
        // Appending is not possible any more, because the bytes after this place are unreadable.
        this.#intact = false;
        return;
      }
      at += piece.byteLength;
      yield piece;
    }
  }

  async append(bytes: Uint8Array): Promise<void> {
    if (!this.#intact || !this.#cache.writable) {
      this.#intact = false;
      return;
    }
    try {
      await this.#file.append(bytes);
    } catch (problem) {
      this.#intact = false;
      this.#cache.stopWriting(problem);
    }
  }

  /** Discards the stored bytes and the record. */
  async reset(): Promise<void> {
    try {
      this.#complete = false;
      await this.#cache.unmark(this.#entry);
      await this.#file.truncate();
      this.#intact = true;
    } catch (problem) {
      this.#intact = false;
      this.#cache.stopWriting(problem);
    }
  }

  /** Closes the file. `verified` means that all bytes were passed on and have the expected hash; this is recorded. */
  async close(verified: boolean): Promise<void> {
    try {
      if (verified && !this.#intact) {
        await this.#cache.unmark(this.#entry);
        await this.#file.truncate();
      }
      const whole = this.#file.bytes === this.#entry.bytes;
      await this.#file.close();
      if (verified && whole && !this.#complete) await this.#cache.markComplete(this.#entry);
    } catch (problem) {
      this.#cache.stopWriting(problem);
    }
  }
}

/** Names of the files of models, with their records. */
function usedBy(records: ReadonlyMap<string, ModelRecord>): Set<string> {
  const used = new Set<string>();
  for (const [name, { manifest }] of records) {
    used.add(name).add(name + NEXT_SUFFIX);
    const { files, shards } = JSON.parse(manifest) as Manifest;
    for (const entry of [...files, ...shards]) used.add(dataName(entry)).add(recordName(entry));
  }
  return used;
}

function isComplete(files: readonly StoredFile[], entry: FileEntry): boolean {
  const has = (name: string, bytes: number) => files.some((file) => file.name === name && file.bytes === bytes);
  // A tab that is closed while it writes a record can leave an empty one.
  return has(recordName(entry), String(entry.bytes).length) && has(dataName(entry), entry.bytes);
}

async function modelName(url: string): Promise<string> {
  return (await sha256(new TextEncoder().encode(url))) + MODEL_SUFFIX;
}

/** Returns `undefined` if the text is not a record: a crash during writing can leave any bytes. */
function parseRecord(text: string | undefined): ModelRecord | undefined {
  try {
    const { url, manifest } = JSON.parse(text ?? "") as ModelRecord;
    return typeof url === "string" && isManifest(JSON.parse(manifest)) ? { url, manifest } : undefined;
  } catch {
    return undefined;
  }
}

/** True if a value has the parts of a manifest that this file reads. */
function isManifest(value: unknown): value is Manifest {
  const { files, shards, processor, provenance } = Object(value) as Partial<Manifest>;
  const isEntry = (entry: Partial<FileEntry> | null): boolean =>
    typeof entry?.file === "string" && typeof entry.sha256 === "string" && Number.isSafeInteger(entry.bytes) && Number(entry.bytes) >= 0;
  const areEntries = (list: unknown): boolean => Array.isArray(list) && (list as Partial<FileEntry>[]).every(isEntry);
  return areEntries(files) && areEntries(shards) && processor?.tokenizer_file !== undefined && typeof provenance?.source === "string";
}

/** Returns `undefined` if the text is not the record of a conversion. */
function parseConversion(text: string | undefined): ConversionRecord | undefined {
  let record: ConversionRecord;
  try {
    record = JSON.parse(text ?? "") as ConversionRecord;
  } catch {
    return undefined;
  }
  const { name, source, url, bytes, settings } = Object(record) as Partial<ConversionRecord>;
  const isText = (value: unknown): value is string => typeof value === "string";
  if (!isText(name) || !isText(url) || (source !== undefined && !isText(source))) return undefined;
  if (!Number.isSafeInteger(bytes) || typeof settings !== "object" || settings === null) return undefined;
  return { name, ...(source === undefined ? {} : { source }), url, bytes: bytes as number, settings };
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Returns the SHA-256 in lower-case hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  let text = "";
  for (const byte of new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))) text += HEX[byte];
  return text;
}
