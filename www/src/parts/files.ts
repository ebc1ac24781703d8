/** Files that come in by picker, drop or paste, and files that go out. */

import { attach } from "../state/chat";
import { load } from "../state/model";
import { fail, failure } from "../state/notices";
import { picturesOf } from "../state/pictures";
import { importChat } from "../state/store";

/** Offers a file to be kept. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has taken the file's address by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Takes what was dropped, pasted or chosen: a model's folder, a saved chat, pictures and videos. */
export async function take(files: readonly File[]): Promise<void> {
  if (files.length === 0) return;
  failure.value = undefined;
  try {
    if (files.some(({ name }) => name === "manifest.json")) await load(files);
    else if (files.length === 1 && files[0]?.name.endsWith(".json")) await importChat(files[0]);
    else attach(await picturesOf(files));
  } catch (error) {
    fail(error);
  }
}

/** The files of a drop, those in folders too. */
export async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  // Entries have to be taken before the first wait: the browser empties the list then.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.() ?? undefined);
  const files = Array.from(transfer.files);
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const found = await Promise.all(entries.map(async (entry) => (entry ? filesOf(entry) : [])));
  return found.flat();
}

async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const files: File[] = [];
  for (;;) {
    // A reader gives a part of the folder at a time, and nothing at its end.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return files;
    for (const inner of some) if (inner.isFile) files.push(...(await filesOf(inner)));
  }
}
