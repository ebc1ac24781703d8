/** The place that a conversion writes to: the weight cache, or a flat folder. */

import { QwenVLError } from "../wire/errors.js";
import type { FinishedShard } from "../wire/protocol.js";
import { conversionPrefix, SHARD_RECORD, WeightCache, type ConversionRecord } from "../weights/cache.js";
import type { FileEntry, Manifest } from "../weights/manifest.js";
import { createFile, readText, writeFile, type CacheFile, type CacheStore } from "../weights/store.js";
import { withErrors } from "../weights/store-errors.js";

/** The output of one conversion. */
export interface Output {
  /**
   * Returns the shards that an earlier run has finished, by index. Fails if files of someone else are in the way.
   *
   * @param accepts says whether a record is whole and of that shard
   */
  finished(accepts: (index: number, record: string) => boolean): Promise<Map<number, FinishedShard>>;
  /** Opens a shard that is not complete. */
  begin(index: number): Promise<ShardFile>;
  /** Opens a finished shard, to read it. */
  open(index: number, entry: FileEntry): Promise<CacheFile>;
  /** Writes the other files, the manifest last. */
  finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void>;
  /** Deletes what this conversion has written so far. */
  discard(): Promise<void>;
}

/** A shard that is being written. */
export interface ShardFile {
  /** Bytes that an earlier run has written and made durable. */
  readonly stored: number;
  /** The record that was committed with them. */
  readonly record: string | undefined;
  /** Returns at most `length` of the stored bytes from offset `at`. */
  read(at: number, length: number): Promise<Uint8Array>;
  /** Discards the bytes from an offset on. Returns the number of bytes that are left, which can be 0. */
  keep(bytes: number): Promise<number>;
  append(bytes: Uint8Array): Promise<void>;
  /** Makes the bytes so far durable: a run after a crash can resume here. `record` is JSON with their number, `bytes`. */
  commit(record: string): Promise<void>;
  /** Closes the file and records that it is complete. */
  done(shard: FinishedShard): Promise<void>;
  /** Closes the file. The next run resumes at the last commit. */
  abandon(): Promise<void>;
}

const PART = ".part";
/** Bytes between two commits, which cost milliseconds. */
const COMMIT_BYTES = 1 << 20;
const MANIFEST = "manifest.json";

/**
 * The shards of a conversion in a store. A record with its manifest entry, written after the shard is closed, marks one that is complete:
 * a closed tab loses only the shards that were being written.
 */
abstract class StoreOutput implements Output {
  protected readonly store: CacheStore;

  protected constructor(store: CacheStore) {
    this.store = withErrors(store);
  }

  protected abstract shardName(index: number): string;
  /** Name of a record, without its ending. */
  protected abstract recordStem(index: number): string;
  /** Returns the index of a record's shard; `undefined` for other files. */
  protected abstract recordIndex(name: string): number | undefined;
  abstract finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void>;
  abstract discard(): Promise<void>;

  async finished(accepts: (index: number, record: string) => boolean): Promise<Map<number, FinishedShard>> {
    const found = new Map<number, FinishedShard>();
    const files = new Map((await this.store.list()).map(({ name, bytes }) => [name, bytes]));
    for (const name of files.keys()) {
      const index = this.recordIndex(name);
      if (index === undefined) continue;
      const record = await readText(this.store, name);
      // A crash can cut a record off.
      if (record === undefined || !accepts(index, record)) continue;
      const shard = JSON.parse(record) as FinishedShard;
      // A crash in `finish` can leave a shard under its last name.
      const stored = files.get(this.shardName(index)) ?? files.get(shard.sha256);
      if (stored === shard.bytes) found.set(index, shard);
    }
    return found;
  }

  async begin(index: number): Promise<ShardFile> {
    const [done, part] = [SHARD_RECORD, PART].map((ending) => this.recordStem(index) + ending) as [string, string];
    await this.store.delete(done);
    // Before the shard is opened: an open file is locked, and a failure here would leave it so.
    const record = await readText(this.store, part);
    const file: CacheFile = await createFile(this.store, this.shardName(index));
    const write = (name: string, text: string) => writeFile(this.store, name, new TextEncoder().encode(text));
    let committed = Math.min(bytesOf(record), file.bytes);
    return {
      stored: committed,
      record,
      read: (at, length) => file.read(at, length),
      keep: async (bytes) => {
        await file.truncate(bytes);
        if (file.bytes !== bytes) await file.truncate();
        if (file.bytes < committed) await this.store.delete(part);
        committed = file.bytes;
        return file.bytes;
      },
      append: (bytes) => file.append(bytes),
      commit: async (record) => {
        if (!file.flush || file.bytes - committed < COMMIT_BYTES) return;
        await file.flush();
        committed = file.bytes;
        await write(part, record);
      },
      done: async (shard) => {
        await file.close();
        await write(done, JSON.stringify(shard));
        await this.store.delete(part);
      },
      abandon: () => file.close(),
    };
  }

  async open(index: number, entry: FileEntry): Promise<CacheFile> {
    const names = (await this.store.list()).map(({ name }) => name);
    // As in `finished`.
    return createFile(this.store, names.includes(this.shardName(index)) ? this.shardName(index) : entry.sha256);
  }

  protected async deleteAll(mine: (name: string) => boolean): Promise<void> {
    for (const { name } of await this.store.list()) if (mine(name)) await this.store.delete(name);
  }
}

/** A conversion into the weight cache, where a load finds the model at its address. */
export class CacheOutput extends StoreOutput {
  readonly #id: string;
  readonly #prefix: string;
  readonly #record: ConversionRecord;

  /** @param id fingerprint of the conversion */
  constructor(store: CacheStore, id: string, record: ConversionRecord) {
    super(store);
    this.#id = id;
    this.#prefix = conversionPrefix(id);
    this.#record = record;
  }

  override async finished(accepts: (index: number, record: string) => boolean): Promise<Map<number, FinishedShard>> {
    await new WeightCache(this.store).rememberConversion(this.#id, this.#record);
    return super.finished(accepts);
  }

  protected shardName(index: number): string {
    return this.#prefix + String(index);
  }

  protected recordStem(index: number): string {
    return this.shardName(index);
  }

  protected recordIndex(name: string): number | undefined {
    return name.startsWith(this.#prefix) && name.endsWith(SHARD_RECORD)
      ? Number(name.slice(this.#prefix.length, -SHARD_RECORD.length))
      : undefined;
  }

  async finish(text: string, smallFiles: readonly [string, Uint8Array][]): Promise<void> {
    const manifest = JSON.parse(text) as Manifest;
    let problem: unknown;
    const cache = new WeightCache(this.store, (found) => (problem = found));
    for (const [index, entry] of manifest.shards.entries()) await cache.adopt(this.shardName(index), entry);
    for (const entry of manifest.files) {
      const bytes = smallFiles.find(([name]) => name === entry.file)?.[1];
      if (!bytes) continue;
      await writeFile(this.store, this.#prefix + entry.file, bytes);
      await cache.adopt(this.#prefix + entry.file, entry);
    }
    await cache.remember(this.#record.url, text);
    if (problem) throw problem;
    await cache.endConversion(this.#id);
  }

  discard(): Promise<void> {
    return new WeightCache(this.store).deleteConversion(this.#id);
  }
}

/** A conversion into a folder as `quantize` writes it. The manifest comes last: a folder with a manifest is complete. */
export class FolderOutput extends StoreOutput {
  readonly #names: readonly string[];
  readonly #others: readonly string[];
  readonly #fingerprint: string;
  readonly #path: string | undefined;

  /**
   * @param shards names of the shards
   * @param others names of the other files
   * @param path path of the folder, if it is for this conversion alone
   */
  constructor(store: CacheStore, fingerprint: string, shards: readonly string[], others: readonly string[], path?: string) {
    super(store);
    this.#path = path;
    this.#names = shards;
    this.#others = [...others, MANIFEST];
    this.#fingerprint = fingerprint;
  }

  protected shardName(index: number): string {
    return this.#names[index] as string;
  }

  protected recordStem(index: number): string {
    return `${this.#records}${index}`;
  }

  /** Begins the names of records. */
  get #records(): string {
    return `.${this.#fingerprint}-`;
  }

  protected recordIndex(name: string): number | undefined {
    const index = this.#names.findIndex((_, at) => name === this.recordStem(at) + SHARD_RECORD);
    return index < 0 ? undefined : index;
  }

  /** A marker says that the files with our names are ours. */
  get #marker(): string {
    return `.${this.#fingerprint}.conversion`;
  }

  override async finished(accepts: (index: number, record: string) => boolean): Promise<Map<number, FinishedShard>> {
    const names = (await this.store.list()).map(({ name }) => name);
    const begun = names.includes(this.#marker);
    const isOutput = (name: string) => this.#others.includes(name) || this.#names.includes(name);
    const isOurs = (name: string) => begun && (isOutput(name) || name.startsWith(this.#records) || name === this.#marker);
    const other = names.find((name) => !isOurs(name) && (this.#path !== undefined || isOutput(name)));
    if (other !== undefined) {
      const [place, step] =
        this.#path === undefined ? ["the folder", "choose an empty folder"] : [this.#path, "move it away, or choose another output folder"];
      throw new QwenVLError("INVALID_ARGUMENT", `${place} holds \`${other}\`, which is not of this conversion: ${step}`);
    }
    if (!begun) await writeFile(this.store, this.#marker, new Uint8Array(0));
    return super.finished(accepts);
  }

  async finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void> {
    for (const [name, bytes] of smallFiles) await writeFile(this.store, name, bytes);
    await writeFile(this.store, MANIFEST, new TextEncoder().encode(manifest));
    // A folder for this conversion alone is renamed first: without them, a run after a crash would not know it.
    if (this.#path !== undefined) return;
    await this.deleteAll((name) => name.startsWith(this.#records));
    await this.store.delete(this.#marker);
  }

  async discard(): Promise<void> {
    // Without the marker, files of these names are of a complete conversion, or of another one.
    if (!(await this.store.list()).some(({ name }) => name === this.#marker)) return;
    await this.deleteAll((name) => this.#names.includes(name) || name.startsWith(this.#records));
    await this.store.delete(this.#marker);
  }
}

/** True for the marker and the records that a conversion keeps in a folder until it is complete. */
export function isRecordOf(fingerprint: string, name: string): boolean {
  return name.startsWith(`.${fingerprint}`);
}

/** Returns the number of bytes that the record of a commit names; 0 for a record that a crash has cut off. */
function bytesOf(record: string | undefined): number {
  try {
    const { bytes } = JSON.parse(record ?? "") as { bytes?: unknown };
    return Number.isSafeInteger(bytes) && Number(bytes) > 0 ? Number(bytes) : 0;
  } catch {
    return 0;
  }
}
