/** Questions: text, pictures and regions, and how the model was trained to read them. */

import { QwenVLError } from "../wire/errors.js";
import { sampleFrames, type ImageOrientation, type VideoSource } from "./image.js";
import { Picture, type ImageInput } from "./picture.js";
import type { Box } from "../wire/types.js";

/** A piece of a question. */
export type Part =
  | string
  | { text: string }
  | {
      image: ImageInput;
      /** `"from-image"` by default: photos are turned as browsers show them, and so are the objects' pixels. */
      imageOrientation?: ImageOrientation;
    }
  | {
      /** Frames of it stand for the video, as in the paper. */
      video: VideoSource;
      /** Number of frames; 4 by default. */
      frames?: number;
    }
  | {
      /** A name to point at. */
      ref: string;
      /** Where it is in the latest picture before it. */
      boxes?: readonly Box[];
      /** Of the boxes: thousandths of the picture (default), or its pixels. */
      unit?: "norm" | "pixels";
    };

/** A question: text, or text and pictures in order. */
export type Content = string | readonly Part[];

/** A question, or an answer with its tags (`Answer.raw`). */
export type Message = { role: "user"; content: Content } | { role: "assistant"; content: string };

/** A piece of a question whose pictures are captured. */
type Stored = { text: string } | { picture: Picture } | { ref: string; boxes: readonly Box[]; unit: "norm" | "pixels" };

/** A question with its pictures as they were when it was asked. */
export class Question {
  readonly #parts: Stored[];

  constructor(content: Content, orientation: ImageOrientation, signal?: AbortSignal) {
    const parts = typeof content === "string" ? [content] : content;
    this.#parts = parts.flatMap((part): Stored[] => {
      if (typeof part === "string") return [{ text: part }];
      if ("text" in part) return [{ text: part.text }];
      if ("image" in part) return [{ picture: Picture.of(part.image, part.imageOrientation ?? orientation, signal) }];
      if ("video" in part) return framesOf(part.video, part.frames ?? 4, signal);
      if ("ref" in part) return [{ ref: part.ref, boxes: part.boxes ?? [], unit: part.unit ?? "norm" }];
      throw new QwenVLError("INVALID_ARGUMENT", "a part of the question is neither text, image, video nor ref");
    });
  }

  get pictures(): Picture[] {
    return this.#parts.flatMap((part) => ("picture" in part ? [part.picture] : []));
  }

  /** Pictures whose size has to be known for {@link text}. */
  picturesWithPixelBoxes(earlier: readonly Picture[]): Picture[] {
    const needed: Picture[] = [];
    let latest = earlier.at(-1);
    for (const part of this.#parts) {
      if ("picture" in part) latest = part.picture;
      else if ("ref" in part && part.unit === "pixels" && latest && !latest.info) needed.push(latest);
    }
    return needed;
  }

  /** The question as the model reads it; pictures are numbered over the conversation. */
  text(earlier: readonly Picture[]): string {
    const pictures = [...earlier];
    return this.#parts
      .map((part) => {
        if ("text" in part) return part.text;
        if ("picture" in part) return pictureText(pictures.push(part.picture));
        return regionText(
          part.ref,
          part.boxes.map((box) => (part.unit === "norm" ? box : normalized(box, pictures.at(-1)))),
        );
      })
      .join("");
  }

  /** As it can be asked again. */
  content(): Content {
    const parts = this.#parts.map((part): Part => {
      if ("picture" in part) return { image: part.picture.input, imageOrientation: part.picture.orientation };
      return part;
    });
    return plain(parts);
  }

  /** {@link content} with pictures as data URLs. */
  toJSON(): Content {
    const parts = this.#parts.map((part): Part => {
      if ("picture" in part) return { image: part.picture.toJSON(), imageOrientation: part.picture.orientation };
      return part;
    });
    return plain(parts);
  }
}

/** A text alone is a string. */
function plain(parts: Part[]): Content {
  const [only] = parts;
  return parts.length === 1 && typeof only === "object" && "text" in only ? only.text : parts;
}

function framesOf(video: VideoSource, count: number, signal?: AbortSignal): Stored[] {
  const frames = sampleFrames(video, count, signal ? { signal } : {});
  // Each picture tells of the failure.
  frames.catch(() => undefined);
  return Array.from({ length: count }, (_, index) => {
    const captured = frames.then((bitmaps) => {
      const bitmap = bitmaps[index];
      if (!bitmap) throw new QwenVLError("IMAGE_DECODE", `the video has no frame ${index}`);
      return { kind: "bitmap" as const, bitmap };
    });
    return { picture: new Picture("", captured) };
  });
}

function pictureText(number: number): string {
  return `Picture ${number}: <img>picture-${number}</img>\n`;
}

export function regionText(ref: string, boxes: readonly Box[]): string {
  return `<ref>${ref}</ref>${boxes.map(([x1, y1, x2, y2]) => `<box>(${x1},${y1}),(${x2},${y2})</box>`).join("")}`;
}

/** Pixels of a picture as thousandths. */
function normalized([x1, y1, x2, y2]: Box, picture: Picture | undefined): Box {
  const size = picture?.info;
  if (!size) throw new QwenVLError("INVALID_ARGUMENT", "a box in pixels has no picture before it");
  const part = (value: number, whole: number) => Math.min(Math.max(Math.round((value / whole) * 1000), 0), 999);
  return [part(x1, size.width), part(y1, size.height), part(x2, size.width), part(y2, size.height)];
}

/**
 * A message as the model reads it (`from_list_format` of the original), pictures by name.
 *
 * @param firstPicture number of the first picture: one more than the pictures before it in the conversation
 */
export function promptText(
  parts: readonly (string | { text: string } | { image: string } | { ref: string; boxes?: readonly Box[] })[],
  firstPicture = 1,
): string {
  let picture = firstPicture;
  return parts
    .map((part) => {
      if (typeof part === "string") return part;
      if ("text" in part) return part.text;
      if ("image" in part) return `Picture ${picture++}: <img>${part.image}</img>\n`;
      return regionText(part.ref, part.boxes ?? []);
    })
    .join("");
}
