/** Pictures that questions, sessions and references share. */

import type { WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { EngineLimits, PictureInfo } from "../wire/engine.js";
import type { ImagePayload } from "../wire/protocol.js";
import type { VideoOptions } from "../wire/types.js";
import { capture, dataUrl, DISPLAY, EXACT, type CapturedImage, type ImageSource, type ImageView } from "./image.js";
import { framesAsImages, type CapturedVideo, type VideoInput } from "./video.js";

/** A picture, or a reference to an encoded one from {@link QwenVLModel.encodeImage} or {@link QwenVLModel.encodeVideo}. */
export type ImageInput = ImageSource | ImageRef;

/** A picture or a video of a conversation. It is captured once, and sent to the worker until the worker keeps it. */
export class Picture {
  #input: ImageInput | VideoInput;
  /** Options of a video; absent for a picture. */
  readonly video: VideoOptions | undefined;
  /** Options that were asked for. */
  readonly view: ImageView;
  #info: PictureInfo | undefined;
  /** Limits of the size in which it was encoded. */
  #limits: EngineLimits = {};
  readonly #captured: Promise<CapturedImage | CapturedVideo>;
  #ready: CapturedImage | CapturedVideo | undefined;

  constructor(input: ImageInput | VideoInput, captured: Promise<CapturedImage | CapturedVideo>, view: ImageView, video?: VideoOptions) {
    this.#input = input;
    this.view = view;
    this.video = video;
    this.#captured = captured;
    captured.then(
      (image) => {
        this.#ready = image;
        if (image.kind !== "video" && !(input instanceof ImageRef)) this.#input = immutable(image);
      },
      // `payload` rejects with the same error.
      () => undefined,
    );
  }

  /** @param name the argument's place, for error messages */
  static of(input: ImageInput, view: ImageView, signal?: AbortSignal, name = "image"): Picture {
    if (input instanceof ImageRef) return input.picture;
    return new Picture(input, capture(input, view.imageOrientation, signal, name), view);
  }

  /** A video of a conversation. */
  static ofVideo(input: VideoInput, captured: Promise<CapturedVideo>, options: VideoOptions): Picture {
    // A frame has no EXIF orientation and no transparent pixels.
    return new Picture(input, captured, DISPLAY, options);
  }

  /** The original input. Once it is captured, an input that can change is replaced by an immutable copy. */
  get input(): ImageInput | VideoInput {
    // Files do not change, and are smaller than their frames.
    if (this.#ready?.kind === "video" && !(this.#input instanceof Blob)) this.#input = framesAsImages(this.#ready);
    return this.#input;
  }

  /** Id and size; known once the worker has encoded the picture. */
  get info(): PictureInfo | undefined {
    return this.#info;
  }

  /** Records that the worker has encoded the picture under these limits. */
  encoded(info: PictureInfo, limits: EngineLimits): void {
    this.#info = info;
    this.#limits = limits;
  }

  /** Returns the picture for the worker: its id if the worker should keep it in the size of these limits, unless `whole` is true. */
  async payload(whole: boolean, limits: EngineLimits): Promise<ImagePayload> {
    const image = await this.#captured;
    // The size of a video was chosen when it was captured.
    const same =
      this.video !== undefined || (this.#limits.min_tokens === limits.min_tokens && this.#limits.max_tokens === limits.max_tokens);
    if (this.#info && same && !whole) return { kind: "kept", id: this.#info.id };
    const original = this.view.imageColors === "original";
    switch (image.kind) {
      case "encoded":
        return { kind: "encoded", bytes: image.bytes.slice(), upright: image.upright, original };
      case "data":
        return { kind: "rgba", width: image.data.width, height: image.data.height, pixels: new Uint8Array(image.data.data), original };
      case "bitmap":
        return { kind: "bitmap", bitmap: await createImageBitmap(image.bitmap, EXACT), original };
      case "video":
        return { ...image, rgb: image.rgb.slice() };
    }
  }

  /** Returns the picture as an address that holds or names all of it, or the frames of a video so. */
  toJSON(): string | { image: string; time: number }[] {
    if (this.#ready?.kind === "video") {
      return framesAsImages(this.#ready).map(({ image, time }) => ({ image: dataUrl({ kind: "data", data: image }), time }));
    }
    if (this.#ready) return dataUrl(this.#ready);
    if (typeof this.#input === "string" || this.#input instanceof URL) return String(this.#input);
    throw new QwenVLError("INVALID_ARGUMENT", "a picture of the history is not read yet: ask a question first");
  }
}

/** Returns the parts of the payloads to transfer rather than copy. */
export function transferables(images: readonly ImagePayload[]): Transferable[] {
  return images.flatMap((image): Transferable[] => {
    switch (image.kind) {
      case "encoded":
        return [image.bytes.buffer];
      case "rgba":
        return [image.pixels.buffer];
      case "bitmap":
        return [image.bitmap];
      case "video":
        return [image.rgb.buffer];
      case "kept":
        return [];
    }
  });
}

/** Returns a captured picture as an input. */
function immutable(image: CapturedImage): ImageInput {
  return image.kind === "encoded" ? new Blob([image.bytes], { type: image.type }) : image.kind === "data" ? image.data : image.bitmap;
}

/**
 * A reference to an encoded picture or video. Can be used wherever one can; a question about it with the same limits of pictures does not encode
 * it again.
 */
export class ImageRef {
  /** Hash of its pixels. */
  readonly id: string;
  readonly width: number;
  readonly height: number;
  /** Width and height that the model sees, in pixels. */
  readonly seen: readonly [width: number, height: number];
  /** Positions of the picture in a prompt. */
  readonly tokens: number;
  /** @internal */
  readonly picture: Picture;
  readonly #release: () => void;
  #disposed = false;

  /** @internal */
  constructor(picture: Picture, { id, width, height, seen, tokens }: PictureInfo, release: () => void) {
    this.id = id;
    this.width = width;
    this.height = height;
    this.seen = seen;
    this.tokens = tokens;
    this.picture = picture;
    this.#release = release;
  }

  /** Lets the model discard the encoded picture. The reference stays usable; a later question may encode the picture again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Encodes a picture in the size of these limits. If `hold` is true, the worker keeps it until it is released. */
export async function encodePicture(
  client: WorkerClient,
  picture: Picture,
  limits: EngineLimits,
  hold: boolean,
  signal?: AbortSignal,
): Promise<PictureInfo> {
  for (let whole = false; ; whole = true) {
    const image = await picture.payload(whole, limits);
    const { result } = client.call("encode", { image, limits, hold }, { transfer: transferables([image]), ...(signal ? { signal } : {}) });
    const found = await result;
    if (found === "missing") continue;
    picture.encoded(found, limits);
    return found;
  }
}
