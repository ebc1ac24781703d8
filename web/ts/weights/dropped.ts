/** Files and folders that a user drops on a page. */

import { unreadable } from "./errors.js";

/**
 * Returns the dropped files, including those in folders, for `load`, `convert` and `cache.importFrom`. Call it in the handler of the `drop` event
 * before the first `await`: the browser clears the items when the handler yields. Rejects with `INTEGRITY` if a file or a folder cannot be read.
 */
export function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  return Promise.all(entries.map(filesOfEntry)).then((files) => files.flat());
}

async function filesOfEntry(entry: FileSystemEntry): Promise<File[]> {
  // As in files that are chosen with their folder. `fullPath` begins with a slash.
  const path = entry.fullPath.slice(1);
  if (entry.isFile) {
    const file = await read<File>(path, (resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    Object.defineProperty(file, "webkitRelativePath", { value: path });
    return [file];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const files: File[] = [];
  // `readEntries` returns a batch at a time (100 entries in Chromium); an empty batch is the end.
  for (;;) {
    const entries = await read<FileSystemEntry[]>(path, (resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return files;
    // Not as arguments of one call: a folder can have more files than a call takes.
    for (const file of (await Promise.all(entries.map(filesOfEntry))).flat()) files.push(file);
  }
}

function read<T>(path: string, start: (resolve: (value: T) => void, reject: (cause: unknown) => void) => void): Promise<T> {
  return new Promise<T>(start).catch((cause: unknown) => {
    throw unreadable(path, cause);
  });
}
