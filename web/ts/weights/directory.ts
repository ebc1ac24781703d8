import type { CacheFile, CacheStore, StoredFile } from "./store.js";

/** Stores files in a folder that the user chose. A file changes when it is closed. */
export class DirectoryStore implements CacheStore {
  readonly kind = "directory";
  readonly #folder: FileSystemDirectoryHandle;

  constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  async open(name: string, create: boolean): Promise<CacheFile | undefined> {
    const handle = await this.#folder.getFileHandle(name, { create }).catch(unlessMissing);
    return handle && new DirectoryFile(handle, (await handle.getFile()).size);
  }

  list(): Promise<StoredFile[]> {
    return filesIn(this.#folder);
  }

  async delete(name: string): Promise<void> {
    await this.#folder.removeEntry(name).catch(unlessMissing);
  }
}

/** Lists the files of a folder. */
export async function filesIn(folder: FileSystemDirectoryHandle): Promise<StoredFile[]> {
  const files: StoredFile[] = [];
  for await (const [name, handle] of folder.entries()) {
    if (handle.kind !== "file") continue;
    // Another tab can delete the file meanwhile.
    const file = await (handle as FileSystemFileHandle).getFile().catch(unlessMissing);
    if (file) files.push({ name, bytes: file.size });
  }
  return files;
}

/** Handles the rejection of a file that does not exist: rethrows any other. */
export function unlessMissing(error: unknown): undefined {
  if ((error as DOMException).name !== "NotFoundError") throw error;
}

class DirectoryFile implements CacheFile {
  readonly #handle: FileSystemFileHandle;
  #bytes: number;
  #writer: FileSystemWritableFileStream | undefined;

  constructor(handle: FileSystemFileHandle, bytes: number) {
    this.#handle = handle;
    this.#bytes = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    return new Uint8Array(await (await this.#handle.getFile()).slice(at, at + length).arrayBuffer());
  }

  async append(bytes: Uint8Array): Promise<void> {
    const writer = await this.#open();
    await writer.write(bytes as Uint8Array<ArrayBuffer>);
    this.#bytes += bytes.byteLength;
  }

  async truncate(): Promise<void> {
    const writer = await this.#open();
    await writer.truncate(0);
    await writer.seek(0);
    this.#bytes = 0;
  }

  async close(): Promise<void> {
    await this.#writer?.close();
    this.#writer = undefined;
  }

  async #open(): Promise<FileSystemWritableFileStream> {
    if (!this.#writer) {
      this.#writer = await this.#handle.createWritable({ keepExistingData: true });
      await this.#writer.seek(this.#bytes);
    }
    return this.#writer;
  }
}
