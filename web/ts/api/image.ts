/** Pictures of every kind, as they are handed to the worker. */

import { context2d, readBitmap } from "../wire/bitmap.js";
import { QwenVLError } from "../wire/errors.js";

/**
 * A picture: a file or its bytes, an address (`data:` too), or anything that can be drawn to a canvas; a video is its current frame.
 * SVG is drawn on white at its own size.
 */
export type ImageSource = Blob | ArrayBuffer | ArrayBufferView | string | URL | ImageData | CanvasImageSource;

/** Whether a photo is turned by its EXIF orientation, as browsers show it, or its pixels count as they are stored, as in the original. */
export type ImageOrientation = "from-image" | "none";

/** A video: a file, its address, or an element of the page. */
export type VideoSource = Blob | string | URL | HTMLVideoElement;

/** Pixels across and down. */
export interface ImageSize {
  width: number;
  height: number;
}

/** A picture's contents, which nobody else changes. */
export type CapturedImage =
  /** A file as it is: decoding and resizing in the worker is exact. */
  | { kind: "encoded"; bytes: Uint8Array<ArrayBuffer>; type: string; upright: boolean }
  | { kind: "data"; data: ImageData }
  | { kind: "bitmap"; bitmap: ImageBitmap };

/** Neither colours nor transparent pixels are to change on the way. */
export const EXACT: ImageBitmapOptions = { premultiplyAlpha: "none", colorSpaceConversion: "none" };

/** Formats that the worker decodes, by their first bytes. */
const FORMATS: readonly [type: string, begins: RegExp][] = [
  ["image/png", /^\x89PNG/],
  ["image/jpeg", /^\xff\xd8\xff/],
  ["image/gif", /^GIF8/],
  ["image/webp", /^RIFF.{4}WEBP/s],
  ["image/bmp", /^BM/],
];

/** What an SVG without a size of its own is drawn at: what the vision tower sees of any picture. */
const VECTOR_SIDE = 448;

/** Takes a picture as it is now. Canvases and videos may change afterwards. */
export async function capture(image: ImageSource, orientation: ImageOrientation, signal?: AbortSignal): Promise<CapturedImage> {
  const upright = orientation === "from-image";
  if (typeof image === "string" || image instanceof URL) return fromFile(await download(image, signal), upright);
  if (image instanceof Blob) return fromFile(image, upright);
  if (image instanceof ArrayBuffer) return fromFile(new Blob([image]), upright);
  if (ArrayBuffer.isView(image)) {
    return fromFile(new Blob([new Uint8Array(image.buffer, image.byteOffset, image.byteLength).slice()]), upright);
  }
  if (isA("ImageData", image)) {
    const { data, width, height } = image as ImageData;
    return { kind: "data", data: new ImageData(new Uint8ClampedArray(data), width, height) };
  }
  // What stands in it is a file.
  if (isA("SVGImageElement", image)) return capture((image as SVGImageElement).href.baseVal, orientation, signal);
  const bitmap = await fromDrawable(image as Exclude<CanvasImageSource, SVGImageElement>);
  if (isReadable(bitmap)) return { kind: "bitmap", bitmap };
  // Its server may allow reading it all the same, to who asks for that.
  if (isA("HTMLImageElement", image)) return capture((image as HTMLImageElement).currentSrc, orientation, signal);
  throw new QwenVLError("IMAGE_DECODE", "the picture shows something of another origin, which the browser does not let pages read");
}

/** `instanceof` for classes that do not exist everywhere. */
function isA(name: "ImageData" | "SVGImageElement" | "HTMLImageElement" | "HTMLVideoElement", value: unknown): boolean {
  const type = globalThis[name] as (abstract new () => unknown) | undefined;
  return type !== undefined && value instanceof type;
}

async function fromFile(file: Blob, upright: boolean): Promise<CapturedImage> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const beginning = String.fromCharCode(...bytes.subarray(0, 16));
  const type = FORMATS.find(([, begins]) => begins.test(beginning))?.[0];
  if (type) return { kind: "encoded", bytes, type, upright };
  if (file.type.startsWith("image/svg") || isVector(bytes)) return { kind: "bitmap", bitmap: await drawVector(bytes) };
  try {
    // Formats that only some browsers know, AVIF and HEIC among them.
    const bitmap = await createImageBitmap(file, { ...EXACT, imageOrientation: upright ? "from-image" : "none" });
    return { kind: "bitmap", bitmap };
  } catch {
    // The worker says what is wrong with it.
    return { kind: "encoded", bytes, type: file.type || "application/octet-stream", upright };
  }
}

function isVector(bytes: Uint8Array): boolean {
  const text = new TextDecoder().decode(bytes.subarray(0, 1024)).trimStart();
  return text.startsWith("<") && text.includes("<svg");
}

async function drawVector(bytes: Uint8Array<ArrayBuffer>): Promise<ImageBitmap> {
  if (typeof document === "undefined") throw new QwenVLError("IMAGE_DECODE", "SVG can be drawn on pages only, not in workers");
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth || VECTOR_SIDE, image.naturalHeight || VECTOR_SIDE);
    const context = context2d(canvas);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await createImageBitmap(canvas, EXACT);
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", `the SVG can not be drawn: ${String(cause)}`, { cause });
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Whether the page may read its pixels, and so hand it to the worker. */
function isReadable(bitmap: ImageBitmap): boolean {
  const context = context2d(new OffscreenCanvas(1, 1));
  context.drawImage(bitmap, 0, 0);
  try {
    context.getImageData(0, 0, 1, 1);
    return true;
  } catch {
    return false;
  }
}

async function fromDrawable(image: Exclude<CanvasImageSource, SVGImageElement>): Promise<ImageBitmap> {
  try {
    if (isA("HTMLImageElement", image)) await (image as HTMLImageElement).decode();
    if (isA("HTMLVideoElement", image) && (image as HTMLVideoElement).readyState < 2) throw new Error("the video has no frame yet");
    return await createImageBitmap(image, EXACT);
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", `the picture's pixels can not be read: ${String(cause)}`, { cause });
  }
}

async function download(address: string | URL, signal?: AbortSignal): Promise<Blob> {
  const data = /^data:([^,]*),/i.exec(String(address));
  if (data) return decodeDataUrl(data[1] ?? "", String(address).slice(data[0].length));
  try {
    const response = await fetch(address, signal ? { signal } : {});
    if (!response.ok) {
      const details = { url: response.url, status: response.status };
      throw new QwenVLError("DOWNLOAD", `the picture could not be fetched: status ${response.status} for ${response.url}`, { details });
    }
    return await response.blob();
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("DOWNLOAD", `the picture could not be fetched: ${String(address).slice(0, 200)}`, { cause });
  }
}

/** Without `fetch`, which a page's security policy may forbid for such addresses. */
function decodeDataUrl(type: string, data: string): Blob {
  try {
    const text = decodeURIComponent(data);
    const bytes = type.endsWith(";base64") ? Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)) : new TextEncoder().encode(text);
    return new Blob([bytes], { type: type.split(";")[0] ?? "" });
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", "the data URL can not be decoded", { cause });
  }
}

/** A picture as an address that holds all of it. */
export function dataUrl(image: CapturedImage): string {
  const { type, bytes } = image.kind === "encoded" ? image : { type: "image/bmp", bytes: bitmapFile(pixelsOf(image)) };
  let binary = "";
  // As many arguments as every browser takes.
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return `data:${type};base64,${btoa(binary)}`;
}

function pixelsOf(image: Exclude<CapturedImage, { kind: "encoded" }>): ImageData {
  return image.kind === "data" ? image.data : readBitmap(image.bitmap);
}

/** A BMP file of 24 bits a pixel: the one lossless format that can be written at once, without a callback. */
function bitmapFile({ width, height, data }: ImageData): Uint8Array {
  const row = Math.ceil((width * 3) / 4) * 4;
  const header = 54;
  const file = new Uint8Array(header + row * height);
  const view = new DataView(file.buffer);
  view.setUint16(0, 0x424d);
  view.setUint32(2, file.length, true);
  view.setUint32(10, header, true);
  view.setUint32(14, 40, true);
  view.setInt32(18, width, true);
  // Rows from the top down.
  view.setInt32(22, -height, true);
  view.setUint16(26, 1, true);
  view.setUint16(28, 24, true);
  for (let y = 0; y < height; y++) {
    let to = header + y * row;
    for (let from = y * width * 4; from < (y + 1) * width * 4; from += 4) {
      file[to++] = data[from + 2] ?? 0;
      file[to++] = data[from + 1] ?? 0;
      file[to++] = data[from] ?? 0;
    }
  }
  return file;
}

/**
 * Frames of a video at equal distances, from the middle of the first part to the middle of the last, as pictures for a question.
 *
 * @param count the original asks with four
 */
export async function sampleFrames(video: VideoSource, count = 4, options: { signal?: AbortSignal } = {}): Promise<ImageBitmap[]> {
  if (typeof document === "undefined") throw new QwenVLError("IMAGE_DECODE", "videos can be read on pages only, not in workers");
  if (!Number.isInteger(count) || count < 1) throw new QwenVLError("INVALID_ARGUMENT", `${count} is not a number of frames`);
  const { signal } = options;
  const url =
    video instanceof Blob ? URL.createObjectURL(video) : video instanceof HTMLVideoElement ? video.currentSrc || video.src : String(video);
  // A player of our own, so that nothing jumps on the page.
  const player = Object.assign(document.createElement("video"), { muted: true, preload: "auto", crossOrigin: "anonymous" });
  try {
    await arrival(player, "loadeddata", signal, () => (player.src = url));
    const seek = async (time: number) => {
      await arrival(player, "seeked", signal, () => (player.currentTime = time));
      if (player.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) await arrival(player, "canplay", signal);
    };
    // What a recorder has written tells its length only at its end.
    if (!Number.isFinite(player.duration)) await arrival(player, "seeked", signal, () => (player.currentTime = Number.MAX_SAFE_INTEGER));
    const frames: ImageBitmap[] = [];
    for (let frame = 0; frame < count; frame++) {
      await seek(((frame + 0.5) / count) * player.duration);
      frames.push(await createImageBitmap(player, EXACT));
    }
    return frames;
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("IMAGE_DECODE", `the video's frames can not be read: ${String(cause)}`, { cause });
  } finally {
    player.removeAttribute("src");
    player.load();
    if (video instanceof Blob) URL.revokeObjectURL(url);
  }
}

function arrival(player: HTMLVideoElement, event: string, signal?: AbortSignal, start?: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const over = new AbortController();
    const listening = { signal: over.signal };
    const end = (settle: () => void) => () => {
      over.abort();
      settle();
    };
    player.addEventListener(event, end(resolve), listening);
    const failed = () =>
      new QwenVLError("IMAGE_DECODE", `the browser can not play the video: ${player.error?.message ?? "unknown reason"}`);
    player.addEventListener(
      "error",
      end(() => reject(failed())),
      listening,
    );
    signal?.addEventListener(
      "abort",
      end(() => reject(signal.reason)),
      listening,
    );
    start?.();
  });
}
