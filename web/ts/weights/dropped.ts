/** Files and folders that a user drops on a page. */

/**
 * Returns the dropped files, including those in folders, for `load`, `convert` and `cache.importFrom`. Call it in the handler of the `drop` event
 * before the first `await`: the browser clears the items when the handler yields.
 */
export function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  return Promise.all(entries.map(filesOfEntry)).then((files) => files.flat());
}

async function filesOfEntry(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    // As in files that are chosen with their folder. `fullPath` begins with a slash.
    Object.defineProperty(file, "webkitRelativePath", { value: entry.fullPath.slice(1) });
    return [file];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const files: File[] = [];
  // `readEntries` returns a batch at a time (100 entries in Chromium); an empty batch is the end.
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return files;
    files.push(...(await Promise.all(entries.map(filesOfEntry))).flat());
  }
}
