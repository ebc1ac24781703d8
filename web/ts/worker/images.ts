/** Pictures and videos on their way into the engine. */

import { readBitmap } from "../wire/bitmap.js";
import type { FramePayload, FrameReply, ImagePayload } from "../wire/protocol.js";
import type { Engine, Images } from "../wasm/qwen_vl_web.js";
import type { Edge } from "./edge.js";
import { decodeJpeg } from "./jpeg.js";

/** Converts pictures for the engine, and closes their bitmaps. Returns `undefined` if the engine no longer keeps one of them. */
export async function engineImages(edge: Edge, engine: Engine, payloads: readonly ImagePayload[]): Promise<Images | undefined> {
  const images = new edge.Images();
  let complete = false;
  try {
    for (const payload of payloads) {
      if (payload.kind === "kept") {
        if (!engine.keepsImage(payload.id)) return undefined;
        images.pushKept(payload.id);
      } else if (payload.kind === "video") {
        images.pushVideo(payload.width, payload.height, payload.rgb, payload.times, payload.fps);
      } else await pushPicture(edge, images, payload);
    }
    complete = true;
    return images;
  } finally {
    if (!complete) images.free();
    for (const payload of payloads) if (payload.kind === "bitmap") payload.bitmap.close();
  }
}

/** Decodes a frame of a video, and stretches it to this size, if there is one. */
export async function frameOf(edge: Edge, payload: FramePayload, size: readonly [number, number] | undefined): Promise<FrameReply> {
  const images = new edge.Images();
  try {
    await pushPicture(edge, images, payload);
    const frame = images.frame(size && new Uint32Array(size));
    const { sourceWidth: width, sourceHeight: height } = frame;
    const rgb = frame.rgb() as Uint8Array<ArrayBuffer>;
    frame.free();
    return { width, height, rgb };
  } finally {
    images.free();
    if (payload.kind === "bitmap") payload.bitmap.close();
  }
}

async function pushPicture(edge: Edge, images: Images, payload: FramePayload): Promise<void> {
  if (payload.kind === "encoded") {
    const pixels = edge.browserDecodes(payload.bytes, payload.upright) ? await decodeJpeg(payload.bytes) : undefined;
    if (pixels) images.pushImageData(pixels);
    else images.pushEncoded(payload.bytes, payload.upright, payload.original);
  } else if (payload.kind === "rgba") images.pushRgba(payload.width, payload.height, payload.pixels, payload.original);
  else images.pushImageData(readBitmap(payload.bitmap), payload.original);
}
