/** Encodes pictures as soon as they are attached, so that their question is answered sooner. */

import { effect, signal } from "@preact/signals";
import type { ImageRef } from "qwen-vl-web";
import { pictures } from "./chat";
import { isLater, lost, model } from "./model";
import { readVideos } from "./pictures";
import { pictureLimits, resolution } from "./settings";

/** Encoded pictures by id. Promises, so that none is encoded twice. */
const references = new Map<string, Promise<ImageRef | undefined>>();
/** Encoded pictures by id: what the model sees of them. */
export const encoded = signal<ReadonlyMap<string, ImageRef>>(new Map());
let engine = model.peek();
let encodedIn = resolution.peek();

effect(() => {
  const now = model.value;
  const wanted = resolution.value;
  if (now !== engine) {
    // The references belong to the previous model.
    references.clear();
    readVideos.clear();
    encoded.value = new Map();
    engine = now;
  }
  if (!now || lost.value) return;
  const shown = pictures.value;
  for (const id of references.keys()) {
    const picture = shown.find((picture) => picture.id === id);
    // Videos have their own size.
    if (!picture || (wanted !== encodedIn && !picture.video)) release(id);
  }
  encodedIn = wanted;
  for (const { id, blob, video } of shown) {
    if (references.has(id)) continue;
    // The question encodes the picture again and reports the error.
    const encoding = video && isLater.peek() ? now.encodeVideo(video) : now.encodeImage(blob, pictureLimits(now.info));
    const reference = encoding.catch(() => undefined);
    references.set(id, reference);
    void reference.then((made) => {
      if (!made || references.get(id) !== reference) return;
      if (video && isLater.peek()) readVideos.set(id, made);
      encoded.value = new Map([...encoded.peek(), [id, made]]);
    });
  }
});

function release(id: string): void {
  void references.get(id)?.then((made) => made?.dispose());
  references.delete(id);
  readVideos.delete(id);
  encoded.value = new Map([...encoded.peek()].filter(([other]) => other !== id));
}
