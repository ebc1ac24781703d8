/** The place that a conversion writes to: the weight cache, or a flat folder. */

import { QwenVLError } from "../wire/errors.js";
import { CONVERSION_PREFIX, WeightCache } from "../weights/cache.js";
import type { FileEntry, Manifest } from "../weights/manifest.js";
import { createFile, readText, writeFile, type CacheFile, type CacheStore } from "../weights/store.js";

/** The output of one conversion. */
export interface Output {
  /** Returns the shards that an earlier run has finished: entries by index. Fails if files of someone else are in the way. */
  finished(): Promise<Map<number, FileEntry>>;
  /** Begins a shard; what is there of it is discarded. */
  begin(index: number): Promise<ShardFile>;
  /** Writes the other files, the manifest last. */
  finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void>;
  /** Deletes what this conversion has written so far. */
  discard(): Promise<void>;
}

/** A shard that is being written. */
export interface ShardFile {
  append(bytes: Uint8Array): Promise<void>;
  /** Closes the file and records that it is complete. */
  done(entry: FileEntry): Promise<void>;
  /** Closes the file, which the next run discards. */
  abandon(): Promise<void>;
}

const DONE = ".done";
const MANIFEST = "manifest.json";

/**
 * The shards of a conversion in a store. A record with its manifest entry, written after the shard is closed, marks one that is complete:
 * a closed tab loses only the shards that were being written.
 */
abstract class StoreOutput implements Output {
  protected readonly store: CacheStore;

  protected constructor(store: CacheStore) {
    this.store = store;
  }

  protected abstract shardName(index: number): string;
  protected abstract recordName(index: number): string;
  /** Returns the index of a record's shard; `undefined` for other files. */
  protected abstract recordIndex(name: string): number | undefined;
  abstract finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void>;
  abstract discard(): Promise<void>;

  async finished(): Promise<Map<number, FileEntry>> {
    const found = new Map<number, FileEntry>();
    const files = new Map((await this.store.list()).map(({ name, bytes }) => [name, bytes]));
    for (const name of files.keys()) {
      const index = this.recordIndex(name);
      if (index === undefined) continue;
      const entry = parseEntry(await readText(this.store, name));
      // A crash in `finish` can leave a shard under its last name.
      const stored = entry && (files.get(this.shardName(index)) ?? files.get(entry.sha256));
      if (entry && stored === entry.bytes) found.set(index, entry);
    }
    return found;
  }

  async begin(index: number): Promise<ShardFile> {
    await this.store.delete(this.recordName(index));
    const file: CacheFile = await createFile(this.store, this.shardName(index));
    await file.truncate();
    return {
      append: (bytes) => file.append(bytes),
      done: async (entry) => {
        await file.close();
        await writeFile(this.store, this.recordName(index), new TextEncoder().encode(JSON.stringify(entry)));
      },
      abandon: () => file.close(),
    };
  }

  protected async deleteAll(mine: (name: string) => boolean): Promise<void> {
    for (const { name } of await this.store.list()) if (mine(name)) await this.store.delete(name);
  }
}

/** A conversion into the weight cache, where a load finds the model at its address. */
export class CacheOutput extends StoreOutput {
  readonly #prefix: string;
  readonly #url: string;

  /** @param url address of the model for `load` */
  constructor(store: CacheStore, fingerprint: string, url: string) {
    super(store);
    this.#prefix = `${CONVERSION_PREFIX}${fingerprint}-`;
    this.#url = url;
  }

  protected shardName(index: number): string {
    return this.#prefix + String(index);
  }

  protected recordName(index: number): string {
    return this.shardName(index) + DONE;
  }

  protected recordIndex(name: string): number | undefined {
    return name.startsWith(this.#prefix) && name.endsWith(DONE) ? Number(name.slice(this.#prefix.length, -DONE.length)) : undefined;
  }

  async finish(text: string, smallFiles: readonly [string, Uint8Array][]): Promise<void> {
    const manifest = JSON.parse(text) as Manifest;
    let problem: unknown;
    const cache = new WeightCache(this.store, (found) => (problem = found));
    const stored = new Set((await this.store.list()).map(({ name }) => name));
    for (const [index, entry] of manifest.shards.entries()) {
      if (stored.has(this.shardName(index))) await cache.adopt(this.shardName(index), entry);
    }
    for (const entry of manifest.files) {
      const bytes = smallFiles.find(([name]) => name === entry.file)?.[1];
      if (!bytes) continue;
      await writeFile(this.store, this.#prefix + entry.file, bytes);
      await cache.adopt(this.#prefix + entry.file, entry);
    }
    await cache.remember(this.#url, text);
    if (problem) throw problem;
    await this.discard();
  }

  discard(): Promise<void> {
    return this.deleteAll((name) => name.startsWith(this.#prefix));
  }
}

/** A conversion into a folder as `quantize` writes it. The manifest comes last: a folder with a manifest is complete. */
export class FolderOutput extends StoreOutput {
  readonly #names: readonly string[];
  readonly #fingerprint: string;

  /** @param shards names of the shards */
  constructor(store: CacheStore, fingerprint: string, shards: readonly string[]) {
    super(store);
    this.#names = shards;
    this.#fingerprint = fingerprint;
  }

  protected shardName(index: number): string {
    return this.#names[index] as string;
  }

  protected recordName(index: number): string {
    return `.${this.#fingerprint}-${index}${DONE}`;
  }

  protected recordIndex(name: string): number | undefined {
    const index = this.#names.findIndex((_, at) => name === this.recordName(at));
    return index < 0 ? undefined : index;
  }

  /** A marker says that the files with our names are ours. */
  get #marker(): string {
    return `.${this.#fingerprint}.conversion`;
  }

  override async finished(): Promise<Map<number, FileEntry>> {
    const names = (await this.store.list()).map(({ name }) => name);
    if (!names.includes(this.#marker)) {
      const other = names.find((name) => name === MANIFEST || this.#names.includes(name));
      if (other) {
        const advice = "choose an empty folder, or delete the files of the other conversion";
        throw new QwenVLError("INVALID_ARGUMENT", `the folder holds \`${other}\`, which is not of this conversion: ${advice}`);
      }
      await writeFile(this.store, this.#marker, new Uint8Array(0));
    }
    return super.finished();
  }

  async finish(manifest: string, smallFiles: readonly [string, Uint8Array][]): Promise<void> {
    for (const [name, bytes] of smallFiles) await writeFile(this.store, name, bytes);
    await writeFile(this.store, MANIFEST, new TextEncoder().encode(manifest));
    await this.deleteAll((name) => this.recordIndex(name) !== undefined);
    await this.store.delete(this.#marker);
  }

  async discard(): Promise<void> {
    // Without the marker, files of these names are of a complete conversion, or of another one.
    if (!(await this.store.list()).some(({ name }) => name === this.#marker)) return;
    await this.deleteAll((name) => this.#names.includes(name) || this.recordIndex(name) !== undefined);
    await this.store.delete(this.#marker);
  }
}

function parseEntry(text: string | undefined): FileEntry | undefined {
  try {
    return JSON.parse(text ?? "") as FileEntry;
  } catch {
    // A crash while the record was written.
    return undefined;
  }
}
