/**
 * Decodes JPEG with the browser.
 *
 * Chromium and Firefox use libjpeg-turbo, as the original does through Pillow, so the pixels are the original's. The engine's decoder rounds
 * differently by 1 or 2 of 255; it is used where the browser cannot decode the file, or changes the pixels that scripts read.
 */

import { readBitmap } from "../wire/bitmap.js";

/** Longest side of a canvas that all browsers support. */
const MAX_CANVAS_SIDE = 16_384;

/** Side of the canvas that {@link readsExactly} tests. */
const TEST_SIDE = 32;

let exact: Promise<boolean> | undefined;

/** Returns the pixels of a JPEG, turned by its EXIF orientation; `undefined` if the engine is to decode it. */
export async function decodeJpeg(bytes: Uint8Array<ArrayBuffer>): Promise<ImageData | undefined> {
  if (typeof createImageBitmap === "undefined" || typeof OffscreenCanvas === "undefined") return undefined;
  exact ??= readsExactly();
  if (!(await exact)) return undefined;
  let bitmap: ImageBitmap;
  try {
    // Browsers apply the orientation even with `imageOrientation: "none"`, which the standard made an alias of "from-image".
    const options: ImageBitmapOptions = { colorSpaceConversion: "none", imageOrientation: "from-image" };
    bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }), options);
  } catch {
    // The browser does not support the file. The engine decodes it, or reports what is wrong.
    return undefined;
  }
  try {
    if (Math.max(bitmap.width, bitmap.height) > MAX_CANVAS_SIDE) return undefined;
    return readBitmap(bitmap);
  } finally {
    bitmap.close();
  }
}

/** True if a canvas returns the pixels that were drawn. Browsers that protect users from fingerprinting add noise to them. */
async function readsExactly(): Promise<boolean> {
  const drawn = new ImageData(TEST_SIDE, TEST_SIDE);
  // A fixed pattern of all values; noise leaves areas of one colour alone.
  drawn.data.forEach((_, index) => (drawn.data[index] = index % 4 === 3 ? 255 : Math.imul(index, 2_654_435_761) >>> 24));
  const bitmap = await createImageBitmap(drawn);
  const read = readBitmap(bitmap);
  bitmap.close();
  return read.data.every((value, index) => value === drawn.data[index]);
}
