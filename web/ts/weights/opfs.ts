import { filesIn, unlessMissing } from "./directory.js";
import type { CacheFile, CacheStore, StoredFile } from "./store.js";

/** Parts of the File System standard that only workers have. */
interface SyncAccessHandle {
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}
interface WorkerFileHandle extends FileSystemFileHandle {
  createSyncAccessHandle(): Promise<SyncAccessHandle>;
  move(name: string): Promise<void>;
}

const FOLDER = "qwen-vl-web";
/** Attempts to open or delete a file that is locked: a terminated worker keeps its files locked for a moment. */
const LOCKED_ATTEMPTS = 20;
const LOCKED_WAIT_MS = 100;

/** Stores files in the origin private file system. It is fast and separate from the site's own caches. */
export class OpfsStore implements CacheStore {
  readonly kind = "opfs";
  readonly #folder: FileSystemDirectoryHandle;

  private constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  static async create(): Promise<OpfsStore> {
    const root = await navigator.storage.getDirectory();
    return new OpfsStore(await root.getDirectoryHandle(FOLDER, { create: true }));
  }

  async open(name: string, create: boolean): Promise<CacheFile | undefined> {
    const file = await this.#folder.getFileHandle(name, { create }).catch(unlessMissing);
    const opened = file && whenUnlocked(() => (file as WorkerFileHandle).createSyncAccessHandle());
    // Another tab can delete the file meanwhile.
    const handle = await (create ? opened : opened?.catch(unlessMissing));
    if (!handle) return undefined;
    try {
      return new OpfsFile(handle);
    } catch (error) {
      // An open handle locks the file.
      handle.close();
      throw error;
    }
  }

  list(): Promise<StoredFile[]> {
    return filesIn(this.#folder);
  }

  async delete(name: string): Promise<void> {
    await whenUnlocked(() => this.#folder.removeEntry(name)).catch(unlessMissing);
  }

  async rename(from: string, to: string): Promise<void> {
    const file = (await this.#folder.getFileHandle(from)) as WorkerFileHandle;
    await this.delete(to);
    await whenUnlocked(() => file.move(to));
  }
}

async function whenUnlocked<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if ((error as DOMException).name !== "NoModificationAllowedError" || attempt === LOCKED_ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, LOCKED_WAIT_MS));
    }
  }
}

class OpfsFile implements CacheFile {
  readonly #handle: SyncAccessHandle;
  #bytes: number;
  #buffer = new Uint8Array(0);

  constructor(handle: SyncAccessHandle) {
    this.#handle = handle;
    this.#bytes = handle.getSize();
  }

  get bytes(): number {
    return this.#bytes;
  }

  read(at: number, length: number): Promise<Uint8Array> {
    if (this.#buffer.byteLength < length) this.#buffer = new Uint8Array(length);
    const read = this.#handle.read(this.#buffer.subarray(0, length), { at });
    return Promise.resolve(this.#buffer.subarray(0, read));
  }

  append(bytes: Uint8Array): Promise<void> {
    const written = this.#handle.write(bytes, { at: this.#bytes });
    this.#bytes += written;
    // Some browsers write only the bytes that fit instead of throwing.
    if (written < bytes.byteLength) return Promise.reject(new DOMException("the file system is full", "QuotaExceededError"));
    return Promise.resolve();
  }

  truncate(bytes = 0): Promise<void> {
    this.#handle.truncate(bytes);
    this.#bytes = bytes;
    return Promise.resolve();
  }

  flush(): Promise<void> {
    this.#handle.flush();
    return Promise.resolve();
  }

  close(): Promise<void> {
    try {
      this.#handle.flush();
    } finally {
      this.#handle.close();
    }
    return Promise.resolve();
  }
}
