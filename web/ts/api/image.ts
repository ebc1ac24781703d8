/** Captures pictures of every kind for the worker. */

import { context2d, readBitmap } from "../wire/bitmap.js";
import { QwenVLError } from "../wire/errors.js";
import { MAX_PICTURE_PIXELS } from "../wire/generated.js";
import { describe, excerptUrl } from "../wire/quote.js";
import { readBody } from "../weights/body.js";
import { collect, upTo } from "../weights/download.js";

/**
 * A picture: a file or its bytes, an address (also `data:`), or anything that a canvas can draw. A video stands for its current frame. SVG
 * is drawn on white at its own size.
 */
export type ImageSource = Blob | ArrayBuffer | ArrayBufferView | string | URL | ImageData | CanvasImageSource;

/** Orientation of photos: `"from-image"` applies the EXIF orientation, as browsers do; `"none"` does not, as the original. */
export type ImageOrientation = "from-image" | "none";

/**
 * Colours: `"display"` blends transparent pixels with white and scales 16-bit gray, as people see them. `"original"` does as the original:
 * it drops the alpha channel, so that transparent areas show their hidden colour, and clips 16-bit gray at 255.
 */
export type ImageColors = "display" | "original";

/** The way from a picture to the pixels that the model sees. */
export interface ImageOptions {
  /** `"from-image"` by default: a photo is turned as browsers show it, and objects are in pixels of the turned photo. */
  imageOrientation?: ImageOrientation;
  /** `"display"` by default. */
  imageColors?: ImageColors;
}

/** {@link ImageOptions} without gaps. */
export type ImageView = Required<ImageOptions>;

/** The model sees what people see. */
export const DISPLAY: ImageView = { imageOrientation: "from-image", imageColors: "display" };

/** Returns the options of a picture, and for those that are absent the defaults. */
export function imageView({ imageOrientation, imageColors }: ImageOptions, defaults: ImageView = DISPLAY): ImageView {
  return { imageOrientation: imageOrientation ?? defaults.imageOrientation, imageColors: imageColors ?? defaults.imageColors };
}

/** Size in pixels. */
export interface ImageSize {
  width: number;
  height: number;
}

/** Content of a picture, which does not change any more. */
export type CapturedImage =
  /** An encoded file, which the worker decodes. */
  | { kind: "encoded"; bytes: Uint8Array<ArrayBuffer>; type: string; upright: boolean }
  | { kind: "data"; data: ImageData }
  | { kind: "bitmap"; bitmap: ImageBitmap };

/** Keeps colours and transparent pixels unchanged. */
export const EXACT: ImageBitmapOptions = { premultiplyAlpha: "none", colorSpaceConversion: "none" };

/** Formats that the worker decodes, with their first bytes. */
const FORMATS: readonly [type: string, begins: RegExp][] = [
  ["image/png", /^\x89PNG/],
  ["image/jpeg", /^\xff\xd8\xff/],
  ["image/gif", /^GIF8/],
  ["image/webp", /^RIFF.{4}WEBP/s],
  ["image/bmp", /^BM/],
];

/** Size of an SVG that does not have one: the input of the vision tower. */
const VECTOR_SIDE = 448;

/** Largest file of a picture, bytes: four for each pixel, as in a BMP file with alpha, and headers. */
const MAX_PICTURE_BYTES = 4 * MAX_PICTURE_PIXELS + (1 << 20);

/** Base64 of the first bytes of {@link FORMATS}. */
const BASE64: readonly [type: string, begins: string][] = [
  ["image/png", "iVBORw0KGgo"],
  ["image/jpeg", "/9j/"],
  ["image/gif", "R0lGOD"],
  ["image/webp", "UklGR"],
];

/** Length from which a text of base64 characters alone cannot be an address. */
const LONGEST_NAME = 1000;

/** Throws `INVALID_ARGUMENT` unless the value can be a picture. `name` is the argument's place, for the message. */
export function checkImage(name: string, image: unknown): asserts image is ImageSource {
  if (typeof image === "string") {
    const type = typeOfBase64(image);
    if (!type) return;
    throw new QwenVLError("INVALID_ARGUMENT", `\`${name}\` is base64 without an address: put \`data:${type};base64,\` before it`);
  }
  // Objects of other windows are not instances of this window's classes, so an unknown class is accepted here and can fail when it is drawn.
  if (typeof image !== "object" || image === null || isPlain(image)) throw notAnImage(name, image);
}

/** True for an array and for an object of no class. */
export function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return Array.isArray(value) || prototype === Object.prototype || prototype === null;
}

function notAnImage(name: string, value: unknown, cause?: unknown): QwenVLError {
  const expected = "an address, a Blob, bytes, ImageData or something that a canvas can draw";
  return new QwenVLError("INVALID_ARGUMENT", `\`${name}\` is ${describe(value)}, expected ${expected}`, { cause });
}

/** Returns the type of a picture in base64 without `data:`; `undefined` if the text can be an address. */
function typeOfBase64(text: string): string | undefined {
  if (text.length < 64 || !/^[\w+/\s-]+=*\s*$/.test(text)) return undefined;
  return BASE64.find(([, begins]) => text.startsWith(begins))?.[0] ?? (text.length > LONGEST_NAME ? "image/png" : undefined);
}

/** Captures a picture as it is now. Canvases and videos can change afterwards. `name` is the argument's place, for the message. */
export async function capture(
  image: ImageSource,
  orientation: ImageOrientation,
  signal?: AbortSignal,
  name = "image",
): Promise<CapturedImage> {
  checkImage(name, image);
  const upright = orientation === "from-image";
  if (typeof image === "string" || image instanceof URL) return fromFile(await download(image, signal), upright);
  if (image instanceof Blob) return fromFile(image, upright);
  if (image instanceof ArrayBuffer) return fromFile(new Blob([image]), upright);
  if (ArrayBuffer.isView(image)) {
    return fromFile(new Blob([new Uint8Array(image.buffer, image.byteOffset, image.byteLength).slice()]), upright);
  }
  if (isA("ImageData", image)) {
    const { data, width, height } = image as ImageData;
    checkSize(width, height);
    return { kind: "data", data: new ImageData(new Uint8ClampedArray(data), width, height) };
  }
  // An `<image>` refers to a file.
  if (isA("SVGImageElement", image)) return capture((image as SVGImageElement).href.baseVal, orientation, signal);
  const bitmap = await fromDrawable(image as Exclude<CanvasImageSource, SVGImageElement>, name);
  if (isReadable(bitmap)) return { kind: "bitmap", bitmap };
  // Retry with a CORS request: the server may permit it.
  if (isA("HTMLImageElement", image)) return capture((image as HTMLImageElement).currentSrc, orientation, signal);
  throw new QwenVLError("IMAGE_DECODE", "the picture has content of another origin, which the browser does not let pages read");
}

/** `instanceof` for a class that does not exist everywhere. */
function isA(name: "ImageData" | "SVGImageElement" | "HTMLImageElement" | "HTMLVideoElement", value: unknown): boolean {
  const type = globalThis[name] as (abstract new () => unknown) | undefined;
  return type !== undefined && value instanceof type;
}

/** Throws `IMAGE_TOO_LARGE` for a picture that the engine would refuse, before its pixels take memory. */
function checkSize(width: number, height: number): void {
  // Objects of unknown classes can have other values than numbers here.
  if (!(width * height > MAX_PICTURE_PIXELS)) return;
  const found = `${width}×${height}, ${width * height} pixels`;
  throw new QwenVLError("IMAGE_TOO_LARGE", `the picture is ${found}, expected at most ${MAX_PICTURE_PIXELS}: make it smaller`, {
    details: { width, height },
  });
}

/** Returns a bitmap, or closes it and throws `IMAGE_TOO_LARGE`. */
function checkedBitmap(bitmap: ImageBitmap): ImageBitmap {
  try {
    checkSize(bitmap.width, bitmap.height);
    return bitmap;
  } catch (error) {
    bitmap.close();
    throw error;
  }
}

function fileTooLarge(found: string): QwenVLError {
  return new QwenVLError(
    "IMAGE_TOO_LARGE",
    `the picture's file has ${found} bytes, expected at most ${MAX_PICTURE_BYTES}: make it smaller`,
  );
}

async function fromFile(file: Blob, upright: boolean): Promise<CapturedImage> {
  if (file.size > MAX_PICTURE_BYTES) throw fileTooLarge(String(file.size));
  const bytes = new Uint8Array(await file.arrayBuffer());
  const beginning = String.fromCharCode(...bytes.subarray(0, 16));
  const type = FORMATS.find(([, begins]) => begins.test(beginning))?.[0];
  if (type) return { kind: "encoded", bytes, type, upright };
  if (file.type.startsWith("image/svg") || isVector(bytes)) return { kind: "bitmap", bitmap: await drawVector(bytes) };
  let bitmap: ImageBitmap;
  try {
    // Formats that only some browsers decode, such as AVIF and HEIC. Their size is not known before.
    bitmap = await createImageBitmap(file, { ...EXACT, imageOrientation: upright ? "from-image" : "none" });
  } catch {
    // The browser does not decode it either. The worker's decoder reports what is wrong.
    return { kind: "encoded", bytes, type: file.type || "application/octet-stream", upright };
  }
  return { kind: "bitmap", bitmap: checkedBitmap(bitmap) };
}

function isVector(bytes: Uint8Array): boolean {
  const text = new TextDecoder().decode(bytes.subarray(0, 1024)).trimStart();
  return text.startsWith("<") && text.includes("<svg");
}

async function drawVector(bytes: Uint8Array<ArrayBuffer>): Promise<ImageBitmap> {
  if (typeof document === "undefined") throw new QwenVLError("IMAGE_DECODE", "SVG can only be drawn on pages, not in workers");
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const [width, height] = [image.naturalWidth || VECTOR_SIDE, image.naturalHeight || VECTOR_SIDE];
    checkSize(width, height);
    const canvas = new OffscreenCanvas(width, height);
    const context = context2d(canvas);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await createImageBitmap(canvas, EXACT);
  } catch (cause) {
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("IMAGE_DECODE", `could not draw the SVG: ${String(cause)}`, { cause });
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** True if the page may read the pixels, and so may post the bitmap. */
function isReadable(bitmap: ImageBitmap): boolean {
  const context = context2d(new OffscreenCanvas(1, 1));
  context.drawImage(bitmap, 0, 0);
  try {
    context.getImageData(0, 0, 1, 1);
    return true;
  } catch {
    // A `SecurityError`: the canvas is tainted by another origin.
    return false;
  }
}

async function fromDrawable(image: Exclude<CanvasImageSource, SVGImageElement>, name: string): Promise<ImageBitmap> {
  try {
    checkDrawable(image);
    if (isA("HTMLImageElement", image)) {
      await (image as HTMLImageElement).decode();
      // It may have had no size before.
      checkDrawable(image);
    }
    if (isA("HTMLVideoElement", image) && (image as HTMLVideoElement).readyState < 2) throw new Error("the video has no frame yet");
    return checkedBitmap(await createImageBitmap(image, EXACT));
  } catch (cause) {
    if (cause instanceof QwenVLError) throw cause;
    // `createImageBitmap` does not accept the type.
    if (cause instanceof TypeError) throw notAnImage(name, image, cause);
    throw new QwenVLError("IMAGE_DECODE", `could not read the picture's pixels: ${String(cause)}`, { cause });
  }
}

/** Checks the size of what is drawn, which has other names in each class. An element can be drawn in another size than it is shown. */
function checkDrawable(image: Exclude<CanvasImageSource, SVGImageElement>): void {
  const sizes = image as Partial<HTMLImageElement & HTMLVideoElement & VideoFrame & OffscreenCanvas>;
  const width = sizes.naturalWidth ?? sizes.videoWidth ?? sizes.displayWidth ?? sizes.width ?? 0;
  const height = sizes.naturalHeight ?? sizes.videoHeight ?? sizes.displayHeight ?? sizes.height ?? 0;
  checkSize(width, height);
}

async function download(address: string | URL, signal?: AbortSignal): Promise<Blob> {
  const data = /^data:([^,]*),/i.exec(String(address));
  if (data) return decodeDataUrl(data[1] ?? "", String(address).slice(data[0].length));
  try {
    const response = await fetch(address, signal ? { signal } : {});
    if (!response.ok) {
      const details = { url: response.url, status: response.status };
      throw new QwenVLError("DOWNLOAD", `could not fetch the picture: status ${response.status} for ${excerptUrl(response.url)}`, {
        details,
      });
    }
    const body = response.body ? readBody(response.body, { at: 0, bytes: Infinity, wait: (work) => work }) : [];
    const bytes = await collect(upTo(MAX_PICTURE_BYTES, body, () => fileTooLarge(`more than ${MAX_PICTURE_BYTES}`)));
    return new Blob([bytes], { type: mediaType(response.headers) });
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("DOWNLOAD", `could not fetch the picture: ${excerptUrl(address)}`, { cause });
  }
}

/** Returns the media type of an answer without its parameters, as an address with data can have it; empty if it is malformed. */
function mediaType(headers: Headers): string {
  return /^[\w.+-]+\/[\w.+-]+/.exec(headers.get("content-type") ?? "")?.[0] ?? "";
}

/** Decodes a data URL without `fetch`, which a page's security policy can forbid for such addresses. */
function decodeDataUrl(type: string, data: string): Blob {
  try {
    const text = decodeURIComponent(data);
    const bytes = type.endsWith(";base64") ? Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)) : new TextEncoder().encode(text);
    return new Blob([bytes], { type: type.split(";")[0] ?? "" });
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", "could not decode the data URL", { cause });
  }
}

/** Returns a picture as a data URL. */
export function dataUrl(image: CapturedImage): string {
  const { type, bytes } = image.kind === "encoded" ? image : { type: "image/bmp", bytes: bitmapFile(pixelsOf(image)) };
  let binary = "";
  // The number of arguments that every browser accepts.
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return `data:${type};base64,${btoa(binary)}`;
}

function pixelsOf(image: Exclude<CapturedImage, { kind: "encoded" }>): ImageData {
  return image.kind === "data" ? image.data : readBitmap(image.bitmap);
}

/** Bytes of the file header, and of the picture header with colour masks (`BITMAPV4HEADER`) and without. */
const FILE_HEADER = 14;
const INFO_HEADER = 40;
const V4_HEADER = 108;

/**
 * Encodes pixels as a BMP file, the one lossless format that can be written without a callback: 24 bits a pixel, or 32 bits with alpha if
 * any pixel is transparent.
 */
function bitmapFile({ width, height, data }: ImageData): Uint8Array<ArrayBuffer> {
  let opaque = true;
  for (let at = 3; opaque && at < data.length; at += 4) opaque = data[at] === 255;
  const channels = opaque ? 3 : 4;
  const header = FILE_HEADER + (opaque ? INFO_HEADER : V4_HEADER);
  const row = Math.ceil((width * channels) / 4) * 4;
  const file = new Uint8Array(header + row * height);
  const view = new DataView(file.buffer);
  view.setUint16(0, 0x424d);
  view.setUint32(2, file.length, true);
  view.setUint32(10, header, true);
  view.setUint32(14, header - FILE_HEADER, true);
  view.setInt32(18, width, true);
  // Negative: the first row is the top one.
  view.setInt32(22, -height, true);
  view.setUint16(26, 1, true);
  view.setUint16(28, channels * 8, true);
  if (!opaque) {
    // Compression by bit fields, and the masks of red, green, blue and alpha.
    view.setUint32(30, 3, true);
    [0x00ff0000, 0x0000ff00, 0x000000ff, 0xff000000].forEach((mask, index) => view.setUint32(54 + 4 * index, mask, true));
  }
  for (let y = 0; y < height; y++) {
    let to = header + y * row;
    for (let from = y * width * 4; from < (y + 1) * width * 4; from += 4) {
      file[to++] = data[from + 2] ?? 0;
      file[to++] = data[from + 1] ?? 0;
      file[to++] = data[from] ?? 0;
      if (!opaque) file[to++] = data[from + 3] ?? 0;
    }
  }
  return file;
}
