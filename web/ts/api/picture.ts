/** Pictures as questions, sessions and references share them. */

import type { WorkerClient } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import { capture, dataUrl, EXACT, type CapturedImage, type ImageOrientation, type ImageSource } from "./image.js";
import type { PictureInfo } from "../wire/engine.js";
import type { ImagePayload } from "../wire/protocol.js";

/** A picture, or a reference to one that {@link QwenVLModel.encodeImage} has made. */
export type ImageInput = ImageSource | ImageRef;

/** A picture of a conversation: captured once, sent to the worker until that knows it. */
export class Picture {
  /** What it was given as, or the nearest thing that does not change. */
  input: ImageInput;
  /** What the worker calls it, and its size. */
  info: PictureInfo | undefined;
  readonly #captured: Promise<CapturedImage>;
  #ready: CapturedImage | undefined;

  constructor(input: ImageInput, captured: Promise<CapturedImage>) {
    this.input = input;
    this.#captured = captured;
    captured.then(
      (image) => {
        this.#ready = image;
        if (input instanceof ImageRef) return;
        this.input =
          image.kind === "encoded" ? new Blob([image.bytes], { type: image.type }) : image.kind === "data" ? image.data : image.bitmap;
      },
      // Whoever asks for it is told.
      () => undefined,
    );
  }

  static of(input: ImageInput, orientation: ImageOrientation, signal?: AbortSignal): Picture {
    return input instanceof ImageRef ? input.picture : new Picture(input, capture(input, orientation, signal));
  }

  /** @param whole even if the worker should know it */
  async payload(whole: boolean): Promise<ImagePayload> {
    const image = await this.#captured;
    if (this.info && !whole) return { kind: "kept", id: this.info.id };
    switch (image.kind) {
      case "encoded":
        return { kind: "encoded", bytes: image.bytes.slice(), upright: image.upright };
      case "data":
        return { kind: "rgba", width: image.data.width, height: image.data.height, pixels: new Uint8Array(image.data.data) };
      case "bitmap":
        return { kind: "bitmap", bitmap: await createImageBitmap(image.bitmap, EXACT) };
    }
  }

  /** The whole picture as an address. */
  toJSON(): string {
    if (this.#ready) return dataUrl(this.#ready);
    if (typeof this.input === "string" || this.input instanceof URL) return String(this.input);
    throw new QwenVLError("INVALID_ARGUMENT", "a picture of the history has not been read yet: ask a question first");
  }

  /** How it was to be turned, for a copy of it. */
  get orientation(): ImageOrientation {
    return this.#ready?.kind === "encoded" && !this.#ready.upright ? "none" : "from-image";
  }
}

/** What must be handed over and not copied. */
export function transferables(images: readonly ImagePayload[]): Transferable[] {
  return images.flatMap((image): Transferable[] => {
    switch (image.kind) {
      case "encoded":
        return [image.bytes.buffer];
      case "rgba":
        return [image.pixels.buffer];
      case "bitmap":
        return [image.bitmap];
      case "kept":
        return [];
    }
  });
}

/** A picture that the model has looked at already: asking about it costs no encoding. Usable wherever a picture is. */
export class ImageRef {
  /** Hash of its pixels. */
  readonly id: string;
  readonly width: number;
  readonly height: number;
  /** Positions that it takes in a prompt. */
  readonly tokens: number;
  /** @internal */
  readonly picture: Picture;
  readonly #release: () => void;
  #disposed = false;

  /** @internal */
  constructor(picture: Picture, { id, width, height }: PictureInfo, tokens: number, release: () => void) {
    this.id = id;
    this.width = width;
    this.height = height;
    this.tokens = tokens;
    this.picture = picture;
    this.#release = release;
  }

  /** Lets the model forget it when it needs the room. The reference can still be used; the picture may have to be encoded again then. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Has a picture encoded. With `hold` the worker keeps it until it is told otherwise. */
export async function encodePicture(client: WorkerClient, picture: Picture, hold: boolean, signal?: AbortSignal): Promise<PictureInfo> {
  for (let whole = false; ; whole = true) {
    const image = await picture.payload(whole);
    const { result } = client.call("encode", { image, hold }, { transfer: transferables([image]), ...(signal ? { signal } : {}) });
    const found = await result;
    if (found === "missing") continue;
    picture.info = found;
    return found;
  }
}
