/** Pictures on their way to the model: whatever a visitor brings becomes a file that both the browser and the model can decode. */

import { sampleFrames } from "qwen-vl-web";
import { texts } from "../texts";

export interface Picture {
  id: string;
  /** As the user knows it. Text from outside. */
  name: string;
  blob: Blob;
  /** Upright, as browsers show it. */
  width: number;
  height: number;
  /** For `<img>`; lives as long as the page. */
  url: string;
}

/** What the model's own decoders read. Other formats are decoded by the browser and go as PNG. */
const DECODED_BY_THE_MODEL = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const VIDEO_FRAMES = 4;

/** Pictures of files: one of a picture, four of a video. */
export async function picturesOf(files: readonly File[]): Promise<Picture[]> {
  const pictures: Picture[] = [];
  for (const file of files) {
    try {
      if (file.type.startsWith("video/")) pictures.push(...(await videoFrames(file)));
      else pictures.push(await makePicture(file, file.name));
    } catch (cause) {
      throw new Error(texts.value.notAPicture(file.name), { cause });
    }
  }
  return pictures;
}

export async function makePicture(blob: Blob, name: string, id: string = crypto.randomUUID()): Promise<Picture> {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  if (!DECODED_BY_THE_MODEL.includes(blob.type)) blob = await encode(bitmap);
  bitmap.close();
  return { id, name, blob, width, height, url: URL.createObjectURL(blob) };
}

/** A picture that is part of this page. */
export async function pagePicture(file: string, name: string): Promise<Picture> {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: ${response.status}`);
  return makePicture(await response.blob(), name);
}

export async function encode(image: CanvasImageSource & { width: number; height: number }): Promise<Blob> {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("there is no 2D canvas");
  context.drawImage(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Frames from the middle of each quarter of a video. */
async function videoFrames(file: File): Promise<Picture[]> {
  const pictures: Picture[] = [];
  for (const [index, frame] of (await sampleFrames(file, VIDEO_FRAMES)).entries()) {
    pictures.push(await makePicture(await encode(frame), texts.value.videoFrames(file.name, index + 1)));
    frame.close();
  }
  return pictures;
}
