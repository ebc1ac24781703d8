/** Shows pictures to the model as soon as they are attached, so that their question is answered sooner. */

import { effect } from "@preact/signals";
import type { ImageRef } from "qwen-vl-web";
import { pictures } from "./chat";
import { lost, model } from "./model";

/** What the model remembers, by picture; promises, so that nothing is asked for twice. */
const references = new Map<string, Promise<ImageRef | undefined>>();
let engine = model.peek();

effect(() => {
  const now = model.value;
  if (now !== engine) {
    // What the model before remembered went with it.
    references.clear();
    engine = now;
  }
  if (!now || lost.value) return;
  const shown = pictures.value;
  for (const { id, blob } of shown) {
    if (references.has(id)) continue;
    // If this fails, so will the question, which then says why.
    references.set(
      id,
      now.encodeImage(blob).catch(() => undefined),
    );
  }
  for (const [id, reference] of references) {
    if (shown.some((picture) => picture.id === id)) continue;
    references.delete(id);
    void reference.then((made) => made?.dispose());
  }
});
