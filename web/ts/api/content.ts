/** Questions: text, pictures and regions, and the form in which the model was trained to read them. */

import { QwenVLError } from "../wire/errors.js";
import { describe } from "../wire/quote.js";
import { present, type EnginePart } from "../wire/engine.js";
import type { Box, VideoOptions } from "../wire/types.js";
import { DISPLAY, imageView, type ImageOptions, type ImageSize, type ImageView } from "./image.js";
import { anyString, checkArgument, checkBox, checkOptions, IMAGE_CHECKS, oneOf, whole, type Check } from "./options.js";
import { ImageRef, Picture, type ImageInput } from "./picture.js";
import { checkPlayable, readVideo, sampleFrames, VIDEO_CHECKS, type VideoInput, type VideoSource, type VideoTools } from "./video.js";

/** A part of a question. */
export type Part =
  | string
  | { text: string }
  | ({ image: ImageInput } & ImageOptions)
  | ({
      /** A video, or a reference to an encoded one. The 2023 model sees frames of a video as pictures, as in the paper. */
      video: VideoInput | ImageRef;
      /** Number of frames that the model sees as pictures, at most 65536; 4 by default for the 2023 model. */
      frames?: number;
    } & VideoOptions)
  | {
      /** Name of a region. */
      ref: string;
      /** The region in the latest picture before it. */
      boxes?: readonly Box[];
      /** Unit of the boxes: thousandths of the picture (default), or its pixels. */
      unit?: "norm" | "pixels";
    };

/** A question: text, or texts and pictures in order. */
export type Content = string | readonly Part[];

/** A question, or an answer with its tags (`Answer.raw`). */
export type Message = { role: "user"; content: Content } | { role: "assistant"; content: string };

/** The way in which pictures and videos that have no options themselves are read. `videos` is absent if the model takes no videos. */
export type QuestionView = ImageView & { readonly videos?: VideoTools | undefined };

/** A part of a question whose pictures are captured. */
type Stored = { text: string } | { picture: Picture } | { ref: string; boxes: readonly Box[]; unit: "norm" | "pixels" };

const FRAMES = 4;
/** Most frames of a video as pictures. Each takes memory at once, and a context of 256K tokens holds no more of the smallest ones. */
const MOST_FRAMES = 65_536;

const anyContent: Check = {
  expected: "a string or an array of parts",
  accepts: (value) => typeof value === "string" || Array.isArray(value),
};
const anyArray: Check = { expected: "an array of [x1, y1, x2, y2]", accepts: Array.isArray };

/** A question with its pictures as they were when it was asked. */
export class Question {
  readonly #parts: Stored[];

  /** @param name the argument's place, for error messages */
  constructor(content: Content, view: QuestionView, signal?: AbortSignal, name = "content") {
    checkArgument(name, content, anyContent);
    const parts = typeof content === "string" ? [content] : content;
    this.#parts = parts.flatMap((part, index) => stored(`${name}[${index}]`, part, view, signal));
  }

  get pictures(): Picture[] {
    return this.#parts.flatMap((part) => ("picture" in part ? [part.picture] : []));
  }

  /** Returns the pictures whose size {@link parts} needs and that are not encoded yet. */
  picturesWithPixelBoxes(earlier: readonly Picture[]): Picture[] {
    const needed: Picture[] = [];
    let latest = earlier.at(-1);
    for (const part of this.#parts) {
      if ("picture" in part) latest = part.picture;
      else if ("ref" in part && part.unit === "pixels" && latest && !latest.info) needed.push(latest);
    }
    return needed;
  }

  /** Returns the question for the engine. Pictures are named by their place in the conversation. */
  parts(earlier: readonly Picture[]): EnginePart[] {
    const pictures = [...earlier];
    return this.#parts.map((part) => {
      if ("text" in part) return { text: part.text };
      if ("picture" in part) {
        const name = `picture-${pictures.push(part.picture)}`;
        return part.picture.video ? { video: name } : { image: name };
      }
      const toNorm = (box: Box) => (part.unit === "norm" ? rounded(box) : toThousandths(box, pictures.at(-1)?.info));
      return { ref: part.ref, boxes: part.boxes.map(toNorm) };
    });
  }

  /** Returns the question for asking it again. */
  content(): Content {
    const parts = this.#parts.map((part): Part => {
      if (!("picture" in part)) return part;
      const { input, video, view } = part.picture;
      return video ? { video: input as VideoInput | ImageRef, ...video } : { image: input as ImageInput, ...view };
    });
    return simplified(parts);
  }

  /** Returns {@link content} with pictures as data URLs. */
  toJSON(): Content {
    const parts = this.#parts.map((part): Part => {
      if (!("picture" in part)) return part;
      const { video, view } = part.picture;
      const data = part.picture.toJSON();
      return video ? { video: data, ...video } : { image: data as string, ...view };
    });
    return simplified(parts);
  }
}

/** Checks a part and captures its pictures. `name` is its place, for error messages. */
function stored(name: string, part: Part, view: QuestionView, signal?: AbortSignal): Stored[] {
  if (typeof part === "string") return [{ text: part }];
  if (typeof part === "object" && part !== null) {
    if ("text" in part) {
      checkArgument(`${name}.text`, part.text, anyString);
      return [{ text: part.text }];
    }
    if ("image" in part) {
      const asked = imageView(part, view);
      checkArgument(`${name}.imageOrientation`, asked.imageOrientation, IMAGE_CHECKS.imageOrientation);
      checkArgument(`${name}.imageColors`, asked.imageColors, IMAGE_CHECKS.imageColors);
      return [{ picture: Picture.of(part.image, asked, signal, `${name}.image`) }];
    }
    if ("video" in part) {
      const { video, frames, fps, maxFrames, minStepTokens, maxTokens } = part;
      if (video instanceof ImageRef) return [{ picture: video.picture }];
      if (view.videos && frames === undefined) {
        const options: VideoOptions = present({ fps, maxFrames, minStepTokens, maxTokens });
        checkOptions(options, VIDEO_CHECKS);
        return [{ picture: Picture.ofVideo(video, readVideo(video, options, view.videos, signal, `${name}.video`), options) }];
      }
      const count = frames ?? FRAMES;
      checkArgument(`${name}.frames`, count, whole(1, MOST_FRAMES));
      checkPlayable(`${name}.video`, video);
      return framesOf(video, count, signal);
    }
    if ("ref" in part) {
      const { ref, boxes = [], unit = "norm" } = part;
      checkArgument(`${name}.ref`, ref, anyString);
      checkArgument(`${name}.unit`, unit, oneOf("norm", "pixels"));
      checkArgument(`${name}.boxes`, boxes, anyArray);
      boxes.forEach((box, index) => checkBox(`${name}.boxes[${index}]`, box));
      return [{ ref, boxes, unit }];
    }
  }
  throw new QwenVLError(
    "INVALID_ARGUMENT",
    `\`${name}\` is ${describe(part)}, expected a string, { text }, { image }, { video } or { ref }`,
  );
}

/** Returns a single text as a string. */
function simplified(parts: Part[]): Content {
  const [only] = parts;
  return parts.length === 1 && typeof only === "object" && "text" in only ? only.text : parts;
}

function framesOf(video: VideoSource, count: number, signal?: AbortSignal): Stored[] {
  const frames = sampleFrames(video, count, signal ? { signal } : {});
  // Each picture rejects with the same error.
  frames.catch(() => undefined);
  return Array.from({ length: count }, (_, index) => {
    const captured = frames.then((bitmaps) => {
      const bitmap = bitmaps[index];
      if (!bitmap) throw new QwenVLError("IMAGE_DECODE", `the video has no frame ${index}`);
      return { kind: "bitmap" as const, bitmap };
    });
    // A frame has no EXIF orientation and no transparent pixels.
    return { picture: new Picture("", captured, DISPLAY) };
  });
}

export function regionText(ref: string, boxes: readonly Box[]): string {
  return `<ref>${ref}</ref>${boxes.map(([x1, y1, x2, y2]) => `<box>(${x1},${y1}),(${x2},${y2})</box>`).join("")}`;
}

function rounded([x1, y1, x2, y2]: Box): Box {
  return [Math.round(x1), Math.round(y1), Math.round(x2), Math.round(y2)];
}

/** Converts a box from pixels of a picture to thousandths of its sides. */
export function toThousandths([x1, y1, x2, y2]: Box, size: ImageSize | undefined): Box {
  if (!size) throw new QwenVLError("INVALID_ARGUMENT", "a box in pixels has no picture before it");
  const part = (value: number, whole: number) => Math.min(Math.max(Math.round((value / whole) * 1000), 0), 999);
  return [part(x1, size.width), part(y1, size.height), part(x2, size.width), part(y2, size.height)];
}

/**
 * Returns a message as text for raw prompts of the 2023 model (`from_list_format` of its tokenizer), with pictures by name. Do not use it for
 * texts that users type, because tags in them would become pictures. Sessions send parts, which the engine writes
 * (`crates/processor/src/content.rs`).
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
