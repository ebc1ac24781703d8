/** Encodes pictures as soon as they are attached, so that their question is answered sooner. */

import { effect, signal } from "@preact/signals";
import type { ImageRef } from "qwen-vl-web";
import { pictures } from "./chat";
import { lost, model } from "./model";

/** Encoded pictures by id. Promises, so that none is encoded twice. */
const references = new Map<string, Promise<ImageRef | undefined>>();
/** Encoded pictures by id: what the model sees of them. */
export const encoded = signal<ReadonlyMap<string, ImageRef>>(new Map());
let engine = model.peek();

effect(() => {
  const now = model.value;
  if (now !== engine) {
    // The references belong to the previous model.
    references.clear();
    encoded.value = new Map();
    engine = now;
  }
  if (!now || lost.value) return;
  const shown = pictures.value;
  for (const { id, blob } of shown) {
    if (references.has(id)) continue;
    // The question encodes the picture again and reports the error.
    const reference = now.encodeImage(blob).catch(() => undefined);
    references.set(id, reference);
    void reference.then((made) => {
      if (made && references.get(id) === reference) encoded.value = new Map([...encoded.peek(), [id, made]]);
    });
  }
  for (const [id, reference] of references) {
    if (shown.some((picture) => picture.id === id)) continue;
    references.delete(id);
    void reference.then((made) => made?.dispose());
  }
});
