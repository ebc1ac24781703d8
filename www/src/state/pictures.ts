/** Pictures and videos of the visitor, as files that both the browser and the model can decode. */

import { sampleFrames, type ImageRef } from "qwen-vl-web";
import { texts } from "../texts";
import { isLater } from "./model";
import { PageError } from "./notices";

export interface Picture {
  id: string;
  /** Name of the file. Untrusted text. */
  name: string;
  blob: Blob;
  /** The file of a video, of which `blob` is a frame. */
  video?: Blob;
  /** Pixels of the upright picture. */
  width: number;
  height: number;
  /** Address for `<img>`, valid as long as the page. */
  url: string;
}

/** Videos that the model in use has read, by the id of their picture. */
export const readVideos = new Map<string, ImageRef>();

/** Formats that the package decodes. The browser decodes other formats, which are passed on as PNG. */
const DECODED_BY_PACKAGE = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
/** Most pixels that the package decodes. Larger pictures are scaled down to `SCALED_PIXELS`; the model sees fewer of any size. */
const MOST_PIXELS = 8192 * 8192;
const SCALED_PIXELS = 2048 * 2048;
const VIDEO_FRAMES = 4;

/** Makes one picture of each picture file. The 2023 model sees four frames of a video as pictures, later generations the video. */
export async function picturesOf(files: readonly File[]): Promise<Picture[]> {
  const pictures: Picture[] = [];
  for (const file of files) {
    try {
      if (file.type.startsWith("video/")) pictures.push(...(isLater.peek() ? [await makeVideo(file, file.name)] : await videoFrames(file)));
      else pictures.push(await makePicture(file, file.name));
    } catch (cause) {
      throw new PageError((t) => (isHeic(file) ? [t.heic(file.name), t.heicStep] : [t.notAPicture(file.name), t.notAPictureStep]), {
        cause,
      });
    }
  }
  return pictures;
}

/** Browsers report no type for formats that they do not know. */
const isHeic = ({ type, name }: File): boolean => /^image\/hei[cf]/.test(type) || /\.hei[cf]$/i.test(name);

export async function makePicture(blob: Blob, name: string, id: string = crypto.randomUUID()): Promise<Picture> {
  const bitmap = await createImageBitmap(blob);
  const pixels = bitmap.width * bitmap.height;
  const scale = pixels > MOST_PIXELS ? Math.sqrt(SCALED_PIXELS / pixels) : 1;
  const width = Math.max(Math.round(bitmap.width * scale), 1);
  const height = Math.max(Math.round(bitmap.height * scale), 1);
  if (scale < 1 || !DECODED_BY_PACKAGE.includes(blob.type)) blob = await encode(bitmap, width, height);
  bitmap.close();
  return { id, name, blob, width, height, url: URL.createObjectURL(blob) };
}

/** Makes a picture that stands for a video: the frame in its middle. */
export async function makeVideo(video: Blob, name: string, id?: string): Promise<Picture> {
  const [frame] = await sampleFrames(video, 1);
  if (!frame) throw new Error("the video has no frames");
  const blob = await encode(frame);
  frame.close();
  return { ...(await makePicture(blob, name, id)), video };
}

/** Fetches a picture that is part of this page. */
export async function pagePicture(file: string, name: string): Promise<Picture> {
  const failed = (cause: unknown) => new PageError(({ errors }) => errors.DOWNLOAD, { cause });
  const response = await fetch(file).catch((cause: unknown) => Promise.reject(failed(cause)));
  if (!response.ok) throw failed(`${file}: status ${response.status}`);
  return makePicture(await response.blob(), name);
}

/** Encodes an image as PNG, in its own size by default. */
export async function encode(image: ImageBitmap | OffscreenCanvas, width = image.width, height = image.height): Promise<Blob> {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("could not create a 2D canvas");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Returns the frames in the middle of the quarters of a video. */
async function videoFrames(file: File): Promise<Picture[]> {
  const pictures: Picture[] = [];
  for (const [index, frame] of (await sampleFrames(file, VIDEO_FRAMES)).entries()) {
    pictures.push(await makePicture(await encode(frame), texts.value.videoFrames(file.name, index + 1)));
    frame.close();
  }
  return pictures;
}
