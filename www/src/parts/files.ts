/** Files that the visitor adds by picker, drop or paste, and files that the page saves. */

import { attach } from "../state/chat";
import { plan } from "../state/conversion";
import { load } from "../state/model";
import { fail, failure } from "../state/notices";
import { picturesOf } from "../state/pictures";
import { importChat } from "../state/store";
import { opened } from "./dialog";

/** Saves a file as a download. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // By then the browser has read the file.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Opens added files: a model's folder, a saved chat, or pictures and videos. */
export async function take(files: readonly File[]): Promise<void> {
  if (files.length === 0) return;
  failure.value = undefined;
  try {
    if (files.some(({ name }) => name === "manifest.json")) await load(files);
    else if (files.some(({ name }) => name === "config.json")) {
      await plan(files);
      opened.value = "models";
    } else if (files.length === 1 && files[0]?.name.endsWith(".json")) await importChat(files[0]);
    else attach(await picturesOf(files));
  } catch (error) {
    fail(error);
  }
}
