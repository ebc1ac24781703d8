import { QwenVLError } from "./errors.js";

/** Returns the pixels of a bitmap. */
export function readBitmap(bitmap: ImageBitmap): ImageData {
  const context = context2d(new OffscreenCanvas(bitmap.width, bitmap.height));
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** Returns a drawing context whose pixels are read often. */
export function context2d(canvas: OffscreenCanvas): OffscreenCanvasRenderingContext2D {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new QwenVLError("IMAGE_DECODE", "could not create a 2D canvas");
  return context;
}
