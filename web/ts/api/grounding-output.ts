/**
 * The output of the parsers of stored answers: the text without markup, the objects and their pictures. The worker uses
 * `crates/processor/src/object.rs` and `mention.rs`.
 */

import type { Family } from "../wire/protocol.js";
import type { Grounded, Point } from "../wire/types.js";
import type { ImageSize } from "./image.js";

/** Size of a picture of the prompt, in pixels. */
export interface PictureSize extends ImageSize {
  /** Width and height that the model saw, as `ImageRef.seen`; by default those of the picture. Qwen2.5-VL writes coordinates in these pixels. */
  seen?: readonly [width: number, height: number];
}

/** Collects text and objects. */
export class Output {
  /** The text so far. */
  text = "";
  readonly #objects: Grounded[] = [];
  readonly #sizes: readonly PictureSize[];
  /** Index of the picture that the question names. */
  readonly #asked: number | undefined;
  /** True if coordinates are pixels of the picture as the model saw it, false if they are thousandths. */
  readonly #inPixels: boolean;

  constructor(sizes: readonly PictureSize[], question: string, family: Family | undefined) {
    this.#sizes = sizes;
    this.#asked = pictureOf([...new Set(mentions(question).flat())], sizes);
    this.#inPixels = family === "qwen2_5_vl";
  }

  /**
   * Adds an object at the end of the text.
   *
   * @param points its coordinates as the answer has them; those beyond the picture move to its border
   * @param name its name, stripped
   * @param range place of the name in the text
   */
  add(kind: Grounded["kind"], points: readonly Point[], name = "", range: [number, number] = [this.text.length, this.text.length]): void {
    const image = this.#picture();
    const size = image === undefined ? undefined : this.#sizes[image];
    const [width, height] = size && this.#inPixels ? (size.seen ?? [size.width, size.height]) : [1000, 1000];
    const scaled = (toWidth: number, toHeight: number, round: (value: number) => number): Point[] | number[] => {
      const scale = (value: number, from: number, to: number): number => round((Math.min(value, from) / from) * to);
      const moved = points.map(([x, y]): Point => [scale(x, width, toWidth), scale(y, height, toHeight)]);
      return kind === "quad" ? moved : moved.flat();
    };
    this.#objects.push({
      kind,
      norm: scaled(1000, 1000, Math.round),
      ...(size ? { pixels: scaled(size.width, size.height, Math.trunc) } : {}),
      ...(name ? { ref: name } : {}),
      ...(image === undefined ? {} : { image }),
      range,
    } as Grounded);
  }

  /** Returns the text, stripped as `Answer.text` is, and the objects, whose ranges move accordingly. */
  finish(): { text: string; objects: Grounded[] } {
    const removed = this.text.length - trimStart(this.text).length;
    for (const object of this.#objects) object.range = object.range.map((at) => Math.max(at - removed, 0)) as [number, number];
    return { text: trim(this.text), objects: this.#objects };
  }

  /** Returns the index of the picture that an object at the end of the text belongs to, if it is known. */
  #picture(): number | undefined {
    const { length } = this.#sizes;
    if (length <= 1) return length === 1 ? 0 : undefined;
    const named = mentions(this.text).at(-1);
    const image = named ? pictureOf(named, this.#sizes) : this.#asked;
    // Pixels mean nothing without their picture: it is taken to be the latest.
    return image ?? (this.#inPixels ? length - 1 : undefined);
  }
}

/** The words before the number of a picture, and the signs and words between the numbers of one mention. */
const WORD = /pictures|picture|images|image|图片|图/g;
const NUMBER = /^\p{White_Space}*(\d+)/u;
const NEXT_NUMBER = /^\p{White_Space}*(?:,|&|-|–|and|or|to|、|和|与|或|及)\p{White_Space}*(\d+)/u;
/** The label of a picture, `Picture 2: <img>` or `Picture 2: <|vision_start|>`, which is not a mention. */
const LABEL = /^\p{White_Space}*[:：]\p{White_Space}*(?:<img>|<\|vision_start\|>)/u;

/** Returns the numbers of pictures that a text names, mention by mention: `[[2], [1, 3]]` for "Picture 2 … pictures 1 and 3". */
function mentions(text: string): number[][] {
  const lower = text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
  const found: number[][] = [];
  WORD.lastIndex = 0;
  for (let word = WORD.exec(lower); word; word = WORD.exec(lower)) {
    let rest = lower.slice(WORD.lastIndex);
    const numbers: number[] = [];
    for (let next = NUMBER.exec(rest); next; next = NEXT_NUMBER.exec(rest)) {
      numbers.push(Number(next[1]));
      rest = rest.slice(next[0].length);
    }
    const beginsWord = !/[a-z\d]$/.test(lower.slice(0, word.index));
    if (beginsWord && numbers.length > 0 && !LABEL.test(rest)) found.push(numbers);
    WORD.lastIndex = lower.length - rest.length;
  }
  return found;
}

/** Returns the index of the picture that the numbers name, if they are one number of a picture. */
function pictureOf(numbers: readonly number[], sizes: readonly ImageSize[]): number | undefined {
  const [number, ...more] = numbers;
  return number !== undefined && more.length === 0 && number >= 1 && number <= sizes.length ? number - 1 : undefined;
}

const SPACE = /\p{White_Space}/u;

/** Strips white space as Rust does: `String.trim` strips U+FEFF and does not strip U+0085. */
export function trim(text: string): string {
  let end = text.length;
  while (end > 0 && SPACE.test(text.charAt(end - 1))) end -= 1;
  return trimStart(text.slice(0, end));
}

export function trimStart(text: string): string {
  let start = 0;
  while (start < text.length && SPACE.test(text.charAt(start))) start += 1;
  return text.slice(start);
}

/** Returns the length of a text in UTF-8, which the limits of the worker's parser count. */
export function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
