import type { ImageSize } from "./image.js";
import type { Box, Grounded, Quad } from "../wire/types.js";

const TAG = /<(\/?)(ref|box|quad)>/g;
const COORDINATES = /^[\d(),.\-\s]{0,128}$/;

/**
 * Reads an answer with tags: its text without them, and what it points at. The same rules as in the worker
 * (`crates/processor/src/grounding.rs`), for answers that were stored.
 *
 * @param raw `Answer.raw`
 * @param sizes the pictures of the prompt, in order; without them there are no pixels
 */
export function parse(raw: string, sizes: readonly ImageSize[] = []): { text: string; objects: Grounded[] } {
  const size = sizes[sizes.length - 1];
  const objects: Grounded[] = [];
  let text = "";
  let reference: { text: string; start: number; closed: boolean } | undefined;
  let open: { kind: "box" | "quad"; content: string } | undefined;

  const addText = (piece: string): void => {
    if (open) {
      const content = open.content + piece;
      if (COORDINATES.test(content)) {
        open.content = content;
        return;
      }
      // What follows a stray tag is text again.
      open = undefined;
      return addText(content);
    }
    if (reference && !reference.closed) reference.text += piece;
    // A name holds for the boxes right behind it.
    else if (reference && piece.trim() !== "") reference = undefined;
    text += piece;
  };

  const addObject = (kind: "box" | "quad", content: string): void => {
    const points = readPoints(content);
    if (points?.length !== (kind === "box" ? 2 : 4)) return;
    const scaled = size && points.map(([x, y]): Point => [Math.trunc((x / 1000) * size.width), Math.trunc((y / 1000) * size.height)]);
    const name = reference?.text.trim();
    let range: [number, number] = [text.length, text.length];
    if (reference && name) {
      const start = reference.start + reference.text.length - reference.text.trimStart().length;
      range = [start, start + name.length];
    }
    const common = { ...(name ? { ref: name } : {}), ...(size ? { image: sizes.length - 1 } : {}), range };
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
    const closing = match[1] === "/";
    const kind = match[2] as "ref" | "box" | "quad";
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

  // As `Answer.text` and its ranges: stripped.
  const stripped = text.length - text.trimStart().length;
  for (const object of objects) object.range = object.range.map((at) => Math.max(at - stripped, 0)) as [number, number];
  return { text: text.trim(), objects };
}

type Point = [number, number];

/** `(x,y),(x,y)…`, blanks anywhere between the signs; values beyond the picture are moved to its border. */
function readPoints(content: string): Point[] | undefined {
  if (!/^\s*\([^()]*\)(\s*,?\s*\([^()]*\))*\s*$/.test(content)) return undefined;
  const points: Point[] = [];
  for (const [, inside] of content.matchAll(/\(([^()]*)\)/g)) {
    const numbers = /^\s*([+-]?\d{1,18})\s*,\s*([+-]?\d{1,18})\s*$/.exec(inside ?? "");
    if (!numbers) return undefined;
    const clamp = (value: string | undefined) => Math.min(Math.max(Number(value), 0), 1000);
    points.push([clamp(numbers[1]), clamp(numbers[2])]);
  }
  return points;
}
