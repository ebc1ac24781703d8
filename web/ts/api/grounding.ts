/**
 * The parser of answers with tags, for answers that were stored: it works without a model and without wasm. The worker uses
 * `crates/processor/src/tags.rs`, `object.rs` and `mention.rs`. Both pass the cases in `crates/processor/tests/grounding.json`.
 */

import type { Box, Grounded, Quad } from "../wire/types.js";
import type { ImageSize } from "./image.js";

/** Tags of Qwen-VL, and those of Qwen2-VL. */
const TAG = /<(\/?)(ref|box|quad)>|<\|(object_ref|box|quad)_(start|end)\|>/g;
const COORDINATES = /^[\d(),.\-\p{White_Space}]*$/u;
/** Longest coordinates, in bytes of UTF-8; a longer content of a box or quad is text after a stray tag. */
const MAX_COORDINATES = 128;

type Point = [number, number];

/**
 * Parses an answer with the tags of Qwen-VL or Qwen2-VL. Returns the text without tags, and the objects. JSON of Qwen2.5-VL and Qwen3-VL is text here: store
 * `Answer.text` and `Answer.objects` with its answers.
 *
 * An object belongs to the only picture, or to the one that the answer names most recently before it ("Picture 2"), or to the only one that
 * the question names. Otherwise it has no `image` and no `pixels`.
 *
 * @param raw `Answer.raw`
 * @param sizes sizes of the prompt's pictures in order; they are numbered from 1
 * @param question text of the question
 */
export function parse(raw: string, sizes: readonly ImageSize[] = [], question = ""): { text: string; objects: Grounded[] } {
  const asked = pictureOf([...new Set(mentions(question).flat())], sizes);
  const objects: Grounded[] = [];
  let text = "";
  let reference: { text: string; start: number; closed: boolean } | undefined;
  let open: { kind: "box" | "quad"; content: string } | undefined;

  const addText = (piece: string): void => {
    if (open) {
      const content = open.content + piece;
      if (COORDINATES.test(content) && new TextEncoder().encode(content).length <= MAX_COORDINATES) {
        open.content = content;
        return;
      }
      // Text after a stray tag is text again.
      open = undefined;
      return addText(content);
    }
    if (reference && !reference.closed) reference.text += piece;
    // A name belongs to the boxes directly after it.
    else if (reference && trim(piece) !== "") reference = undefined;
    text += piece;
  };

  const currentPicture = (): number | undefined => {
    if (sizes.length <= 1) return sizes.length === 1 ? 0 : undefined;
    const named = mentions(text).at(-1);
    return named ? pictureOf(named, sizes) : asked;
  };

  const addObject = (kind: "box" | "quad", content: string): void => {
    const points = readPoints(content);
    if (points?.length !== (kind === "box" ? 2 : 4)) return;
    const image = currentPicture();
    const size = image === undefined ? undefined : sizes[image];
    const scaled = size && points.map(([x, y]): Point => [Math.trunc((x / 1000) * size.width), Math.trunc((y / 1000) * size.height)]);
    const name = reference && trim(reference.text);
    let range: [number, number] = [text.length, text.length];
    if (reference && name) {
      const start = reference.start + reference.text.length - trimStart(reference.text).length;
      range = [start, start + name.length];
    }
    const common = { ...(name ? { ref: name } : {}), ...(image === undefined ? {} : { image }), range };
    objects.push(
      kind === "box"
        ? { kind, norm: points.flat() as Box, ...(scaled ? { pixels: scaled.flat() as Box } : {}), ...common }
        : { kind, norm: points as Quad, ...(scaled ? { pixels: scaled as Quad } : {}), ...common },
    );
  };

  let end = 0;
  for (const match of raw.matchAll(TAG)) {
    addText(raw.slice(end, match.index));
    end = match.index + match[0].length;
    const [, slash, tag, special, side] = match;
    const closing = slash === "/" || side === "end";
    const kind = special === "object_ref" ? "ref" : ((tag ?? special) as "ref" | "box" | "quad");
    if (kind === "ref") {
      open = undefined;
      if (!closing) reference = { text: "", start: text.length, closed: false };
      else if (reference) reference.closed = true;
    } else if (!closing) {
      open = { kind, content: "" };
    } else {
      if (open?.kind === kind) addObject(kind, open.content);
      open = undefined;
    }
  }
  addText(raw.slice(end));

  // The text is stripped, as `Answer.text` is, and the ranges move accordingly.
  const removed = text.length - trimStart(text).length;
  for (const object of objects) object.range = object.range.map((at) => Math.max(at - removed, 0)) as [number, number];
  return { text: trim(text), objects };
}

/** Reads `(x,y),(x,y)…` with white space anywhere between the signs and the numbers. Values beyond the picture move to its border. */
function readPoints(content: string): Point[] | undefined {
  const points: Point[] = [];
  for (let rest = trim(content); ;) {
    const point = /^\(([^)]*)\)/.exec(rest);
    const [x, y, ...more] = point?.[1]?.split(",").map(readNumber) ?? [];
    if (!point || x === undefined || y === undefined || more.length > 0) return undefined;
    points.push([x, y]);
    rest = trimStart(rest.slice(point[0].length));
    if (rest === "") return points;
    // Some answers have no comma between points.
    if (rest.startsWith(",")) rest = trimStart(rest.slice(1));
  }
}

/** Returns a whole number of 64 bits, clamped to 0 … 1000. */
function readNumber(text: string): number | undefined {
  const digits = trim(text);
  if (!/^-?\d+$/.test(digits)) return undefined;
  const value = BigInt(digits);
  if (BigInt.asIntN(64, value) !== value) return undefined;
  return value < 0n ? 0 : value > 1000n ? 1000 : Number(value);
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
function trim(text: string): string {
  let end = text.length;
  while (end > 0 && SPACE.test(text.charAt(end - 1))) end -= 1;
  return trimStart(text.slice(0, end));
}

function trimStart(text: string): string {
  let start = 0;
  while (start < text.length && SPACE.test(text.charAt(start))) start += 1;
  return text.slice(start);
}
