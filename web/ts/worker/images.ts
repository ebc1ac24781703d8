/** Pictures on their way into the engine. */

import { readBitmap } from "../wire/bitmap.js";
import type { ImagePayload } from "../wire/protocol.js";
import type { Engine, Images } from "../wasm/qwen_vl_web.js";
import type { Edge } from "./edge.js";
import { decodeJpeg } from "./jpeg.js";

/** Converts pictures for the engine, and closes their bitmaps. Returns `undefined` if the engine no longer keeps one of them. */
export async function engineImages(edge: Edge, engine: Engine, payloads: readonly ImagePayload[]): Promise<Images | undefined> {
  const images = new edge.Images();
  let complete = false;
  try {
    for (const payload of payloads) {
      if (payload.kind === "encoded") {
        const pixels = edge.browserDecodes(payload.bytes, payload.upright) ? await decodeJpeg(payload.bytes) : undefined;
        if (pixels) images.pushImageData(pixels);
        else images.pushEncoded(payload.bytes, payload.upright, payload.original);
      } else if (payload.kind === "rgba") images.pushRgba(payload.width, payload.height, payload.pixels, payload.original);
      else if (payload.kind === "bitmap") images.pushImageData(readBitmap(payload.bitmap), payload.original);
      else if (engine.keepsImage(payload.id)) images.pushKept(payload.id);
      else return undefined;
    }
    complete = true;
    return images;
  } finally {
    if (!complete) images.free();
    for (const payload of payloads) if (payload.kind === "bitmap") payload.bitmap.close();
  }
}
