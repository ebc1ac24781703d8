/** Files on the disk, in Node. */

import type { Stats } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { QwenVLError } from "../wire/errors.js";
import type { RemoteFile } from "../wire/generated.js";
import type { Listing, RangeSource } from "../weights/ranges.js";
import type { ReadHooks } from "../weights/source.js";
import type { CacheFile, CacheStore, StoredFile } from "../weights/store.js";

/** Bytes to read at a time. */
const PIECE_BYTES = 256 << 10;

/** A folder in the published layout. */
export class DiskRanges implements RangeSource {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = resolve(folder);
  }

  async list(): Promise<Listing> {
    const files: RemoteFile[] = [];
    const add = async (path: string): Promise<void> => {
      const stats = await stat(join(this.#folder, path));
      files.push({ path, bytes: stats.size, version: versionOf(stats) });
    };
    for (const entry of await entriesOf(this.#folder)) {
      if (!entry.isDirectory) await add(entry.name);
      else
        for (const inner of await entriesOf(join(this.#folder, entry.name)))
          if (!inner.isDirectory) await add(`${entry.name}/${inner.name}`);
    }
    return { name: basename(this.#folder), place: this.#folder, files };
  }

  async *read(
    { path, version }: RemoteFile,
    start: number,
    end: number,
    { signal }: ReadHooks,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    const name = join(this.#folder, path);
    let file: FileHandle | undefined;
    try {
      file = await open(name);
      // Another file can have this name since the last read.
      if (versionOf(await file.stat()) !== version) throw new Error("it changed");
      const memory = new Uint8Array(Math.min(PIECE_BYTES, end - start));
      for (let at = start; at < end;) {
        signal.throwIfAborted();
        const { bytesRead } = await file.read(memory, 0, Math.min(memory.byteLength, end - at), at);
        if (bytesRead === 0) throw new Error("it became shorter");
        at += bytesRead;
        yield memory.subarray(0, bytesRead);
      }
    } catch (cause) {
      signal.throwIfAborted();
      throw new QwenVLError("INTEGRITY", `could not read ${name} (${(cause as Error).message}): convert again`, { cause });
    } finally {
      await file?.close();
    }
  }
}

/** Text that changes when a file changes. */
function versionOf({ mtimeMs }: Stats): string {
  return String(mtimeMs);
}

/** The entries of a folder. Links count as what they point to. */
async function entriesOf(folder: string): Promise<{ name: string; isDirectory: boolean }[]> {
  const names = (await readdir(folder)).sort();
  const entries = names.map(async (name) => ({ name, isDirectory: (await stat(join(folder, name))).isDirectory() }));
  return Promise.all(entries);
}

/** Stores files in a folder, which is made when it is needed. */
export class DiskStore implements CacheStore {
  readonly kind = "disk";
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async open(name: string, create: boolean): Promise<CacheFile | undefined> {
    const path = join(this.#folder, name);
    if (create) await mkdir(this.#folder, { recursive: true });
    try {
      const file = await open(path, create ? "a+" : "r");
      const { size } = await file.stat().catch(async (error: unknown) => {
        await file.close();
        throw error;
      });
      return new DiskFile(file, size, create);
    } catch (error) {
      if (!create && (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  async list(): Promise<StoredFile[]> {
    const names = await readdir(this.#folder).catch((error: NodeJS.ErrnoException) => {
      // The folder is made when the first file is.
      if (error.code === "ENOENT") return [];
      throw error;
    });
    return Promise.all(names.map(async (name) => ({ name, bytes: (await stat(join(this.#folder, name))).size })));
  }

  async delete(name: string): Promise<void> {
    await rm(join(this.#folder, name), { force: true });
  }

  async rename(from: string, to: string): Promise<void> {
    await rename(join(this.#folder, from), join(this.#folder, to));
  }
}

class DiskFile implements CacheFile {
  readonly #file: FileHandle;
  readonly #writable: boolean;
  #bytes: number;

  constructor(file: FileHandle, bytes: number, writable: boolean) {
    this.#file = file;
    this.#bytes = bytes;
    this.#writable = writable;
  }

  get bytes(): number {
    return this.#bytes;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    const { bytesRead, buffer } = await this.#file.read(new Uint8Array(length), 0, length, at);
    return buffer.subarray(0, bytesRead);
  }

  async append(bytes: Uint8Array): Promise<void> {
    // `writeFile` writes all bytes, at the position of the handle, which is the end.
    await this.#file.writeFile(bytes);
    this.#bytes += bytes.byteLength;
  }

  async truncate(bytes = 0): Promise<void> {
    await this.#file.truncate(bytes);
    this.#bytes = bytes;
  }

  flush(): Promise<void> {
    return this.#file.sync();
  }

  async close(): Promise<void> {
    try {
      // Some systems refuse it for a file that is open to be read.
      if (this.#writable) await this.#file.sync();
    } finally {
      await this.#file.close();
    }
  }
}
