import { useEffect } from "preact/hooks";
import { droppedFiles } from "qwen-vl-web";
import { choosingRegion } from "../state/chat";
import { fail } from "../state/notices";
import { take } from "./files";

/** Takes files that are dropped or pasted anywhere on the page. Escape ends the choice of a region. */
export function useDocumentDrops(): void {
  useEffect(() => {
    const listening = new AbortController();
    const listen = <K extends keyof DocumentEventMap>(kind: K, listener: (event: DocumentEventMap[K]) => void) =>
      document.addEventListener(kind, listener, { signal: listening.signal });
    listen("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    listen("dragleave", (event) => {
      if (event.relatedTarget === null) document.body.classList.remove("dropping");
    });
    listen("drop", (event) => {
      document.body.classList.remove("dropping");
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      filesOf(event.dataTransfer).then(take).catch(fail);
    });
    listen("paste", (event) => {
      const files = Array.from(event.clipboardData?.files ?? []);
      if (files.length === 0) return;
      event.preventDefault();
      void take(files);
    });
    listen("keydown", (event) => {
      if (event.key === "Escape") choosingRegion.value = false;
    });
    return () => listening.abort();
  }, []);
}

/** Returns the files of a drop. Files that have no entry, such as a picture dragged from another page, are in `files` only. */
async function filesOf(transfer: DataTransfer): Promise<File[]> {
  const files = Array.from(transfer.files);
  const found = await droppedFiles(transfer);
  return found.length > 0 ? found : files;
}
