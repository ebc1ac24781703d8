/**
 * The parser of answers that were stored: it works without a model and without wasm. The worker uses `crates/processor/src/tags.rs` and
 * `json.rs`. Both pass the cases in `crates/processor/tests/grounding.json` and `grounding_json.json`.
 */

import type { Family } from "../wire/protocol.js";
import type { Grounded, Point } from "../wire/types.js";
import { readJson } from "./grounding-json.js";
import { byteLength, Output, trim, trimStart } from "./grounding-output.js";
import type { ImageSize } from "./image.js";
import { checkOptions, oneOf } from "./options.js";

/** Tags of Qwen-VL, and those of Qwen2-VL. */
const TAG = /<(\/?)(ref|box|quad)>|<\|(object_ref|box|quad)_(start|end)\|>/g;
const COORDINATES = /^[\d(),.\-\p{White_Space}]*$/u;
/** Longest coordinates, in bytes of UTF-8; a longer content of a box or quad is text after a stray tag. */
const MAX_COORDINATES = 128;

/**
 * Parses an answer. Returns the text without markup of objects, and the objects.
 *
 * An object belongs to the only picture, or to the one that the answer names most recently before it ("Picture 2"), or to the only one that
 * the question names. Otherwise it has no `image` and no `pixels`, except in answers of Qwen2.5-VL, where it belongs to the last picture.
 *
 * @param raw `Answer.raw`
 * @param sizes sizes of the prompt's pictures in order; they are numbered from 1. `seen` is what the model saw, as `ImageRef.seen`, by default
 *   the size of the picture: coordinates of Qwen2.5-VL are pixels of it.
 * @param question text of the question
 * @param options `family` is the generation that wrote the answer, `ModelInfo.family`. Without it the tags of both Qwen-VL and Qwen2-VL are
 *   markup, and the JSON of later generations is text.
 */
export function parse(
  raw: string,
  sizes: readonly (ImageSize & { seen?: readonly [width: number, height: number] })[] = [],
  question = "",
  options: { family?: Family } = {},
): { text: string; objects: Grounded[] } {
  checkOptions(options, { family: oneOf("qwen_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl") });
  const { family } = options;
  const output = new Output(sizes, question, family);
  if (family === "qwen2_5_vl" || family === "qwen3_vl") readJson(raw, output);
  else readTags(raw, output, family);
  return output.finish();
}

/** Reads tags: those of the family, or without one those of both. */
function readTags(raw: string, output: Output, family: "qwen_vl" | "qwen2_vl" | undefined): void {
  let reference: { text: string; start: number; closed: boolean } | undefined;
  let open: { kind: "box" | "quad"; content: string } | undefined;

  const addText = (piece: string): void => {
    if (open) {
      const content = open.content + piece;
      if (COORDINATES.test(content) && byteLength(content) <= MAX_COORDINATES) {
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
    output.text += piece;
  };

  const addObject = (kind: "box" | "quad", content: string): void => {
    const points = readPoints(content);
    if (points?.length !== (kind === "box" ? 2 : 4)) return;
    const name = reference && trim(reference.text);
    if (!reference || !name) return output.add(kind, points);
    const start = reference.start + reference.text.length - trimStart(reference.text).length;
    output.add(kind, points, name, [start, start + name.length]);
  };

  let end = 0;
  for (const match of raw.matchAll(TAG)) {
    const [, slash, tag, special, side] = match;
    if (family && (family === "qwen2_vl") !== (special !== undefined)) continue;
    addText(raw.slice(end, match.index));
    end = match.index + match[0].length;
    const closing = slash === "/" || side === "end";
    const kind = special === "object_ref" ? "ref" : ((tag ?? special) as "ref" | "box" | "quad");
    if (kind === "ref") {
      open = undefined;
      if (!closing) reference = { text: "", start: output.text.length, closed: false };
      else if (reference) reference.closed = true;
    } else if (!closing) {
      open = { kind, content: "" };
    } else {
      if (open?.kind === kind) addObject(kind, open.content);
      open = undefined;
    }
  }
  addText(raw.slice(end));
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
