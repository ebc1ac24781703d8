import { QwenVLError } from "./errors.js";
import type { ImagePayload } from "./protocol.js";

/** A picture: a file or its bytes, an address (`data:` too), or anything that can be drawn to a canvas. */
export type ImageInput =
  | Blob
  | ArrayBuffer
  | ArrayBufferView
  | string
  | URL
  | ImageData
  | Exclude<CanvasImageSource, SVGImageElement>;

/** Pixels across and down. */
export interface ImageSize {
  width: number;
  height: number;
}

/**
 * Makes a picture ready for the worker. Files go as they are, because decoding and resizing there is exact; what is drawn goes as pixels.
 *
 * @param upright turns a photo by its EXIF orientation, as browsers show it; the original takes the pixels as they are stored.
 */
export async function imagePayload(image: ImageInput, upright: boolean, signal?: AbortSignal): Promise<ImagePayload> {
  if (typeof image === "string" || image instanceof URL) {
    return { kind: "encoded", bytes: await download(image, signal), upright };
  }
  if (image instanceof Blob) {
    return { kind: "encoded", bytes: new Uint8Array(await image.arrayBuffer()), upright };
  }
  if (image instanceof ArrayBuffer) {
    return { kind: "encoded", bytes: new Uint8Array(image.slice(0)), upright };
  }
  if (ArrayBuffer.isView(image)) {
    return { kind: "encoded", bytes: new Uint8Array(image.buffer, image.byteOffset, image.byteLength).slice(), upright };
  }
  const { width, height, data } = image instanceof ImageData ? image : await pixels(image);
  return { kind: "rgba", width, height, pixels: new Uint8Array(data) };
}

async function download(address: string | URL, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const response = await fetch(address, signal ? { signal } : {});
    if (!response.ok) {
      const details = { url: response.url, status: response.status };
      throw new QwenVLError("DOWNLOAD", `the picture could not be fetched: status ${response.status} for ${response.url}`, { details });
    }
    return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("DOWNLOAD", `the picture could not be fetched: ${String(address).slice(0, 200)}`, { cause });
  }
}

async function pixels(image: Exclude<ImageInput, string | URL | Blob | ArrayBuffer | ArrayBufferView | ImageData>): Promise<ImageData> {
  try {
    // Neither colours nor transparent pixels are to change on the way.
    const bitmap = await createImageBitmap(image, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("there is no 2D canvas");
    context.drawImage(bitmap, 0, 0);
    const { width, height } = bitmap;
    bitmap.close();
    return context.getImageData(0, 0, width, height);
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", `the picture's pixels can not be read: ${String(cause)}`, { cause });
  }
}
