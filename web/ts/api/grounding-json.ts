/**
 * The parser of objects in JSON, as Qwen2.5-VL and Qwen3-VL write them, for whole answers. It follows the rules that
 * `crates/processor/src/json.rs` describes, which the worker uses.
 */

import type { Point } from "../wire/types.js";
import { byteLength, trim, type Output } from "./grounding-output.js";

const BOX = "bbox_2d";
const COORDINATE_KEYS = [BOX, "point_2d"];
const NAME_KEYS = ["label", "text_content"];
/** Longest part of a record before its coordinates, in bytes of UTF-8; a longer record is text. */
const MAX_BEFORE_COORDINATES = 4096;
/** Shortest beginning of a coordinates' key that counts as one where an answer is cut off. */
const MIN_CUT_KEY = 4;

const SPACES = /\p{White_Space}*/uy;
/** White space and commas after markup. */
const GAP = /[\p{White_Space},]*/uy;
const BEFORE_FENCE = /[^`]*/y;
const BEFORE_MARKUP = /[^`[{]*/y;
const TICKS = /`*/y;
const LANGUAGE = /(?:[jJ][sS][oO][nN])?/y;
/** A string without its closing quote. */
const STRING = /"(?:[^"\\]+|\\[^]?)*/y;
/** A number or literal, or at the end of the answer the beginning of one. */
const WORD = /(?:[-\d][\d+.eE-]*|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?)$|(?:[-\d][\d+.eE-]*)?\d|true|false|null/y;

/** A JSON object at the top or in the list at the top. */
interface JsonRecord {
  start: number;
  /** Number of open brackets around its members. */
  depth: number;
  key: string;
  /** True if it has a key of coordinates. */
  located: boolean;
  /** True if it has a key of coordinates whose value is something else. */
  invalid: boolean;
  /** True if it has a key that is for neither coordinates nor names. */
  others: boolean;
  /** Points of its boxes (two) and of its points (one). */
  shapes: Point[][];
  /** Its names by key. */
  names: Map<string, string | undefined>;
}

/** An opening bracket or fence. */
interface Opening {
  /** False if it was text; absent while it is held. */
  isMarkup?: boolean;
}

type Expect = "value" | "item" | "key" | "colon" | "next";

/** Reads an answer. */
export function readJson(raw: string, output: Output): void {
  let at = 0;
  /** Start of the part before `at` that may be markup. */
  let held = 0;
  /** The first bracket of the value. */
  let bracket: Opening = {};
  /** The open Markdown fence. It is foreign if its language is not JSON. */
  let fence: (Opening & { ticks: number; foreign: boolean }) | undefined;

  const skip = (pattern: RegExp): string => {
    pattern.lastIndex = at;
    const found = pattern.exec(raw)?.[0] ?? "";
    at += found.length;
    return found;
  };

  /** Discards what is held, or makes it text. */
  const settle = (isMarkup: boolean): void => {
    if (!isMarkup) output.text += raw.slice(held, at);
    held = at;
    bracket.isMarkup ??= isMarkup;
    if (fence) fence.isMarkup ??= isMarkup;
  };

  /** Reads backticks. Returns true if they open a fence that may have objects. */
  const readTicks = (): boolean => {
    const ticks = skip(TICKS).length;
    if (!fence && ticks >= 3) {
      skip(LANGUAGE);
      fence = { ticks, foreign: !/[\p{White_Space}[{]/u.test(raw.charAt(at)) };
      if (fence.foreign) settle(false);
      return !fence.foreign;
    }
    const closes = fence && ticks >= fence.ticks;
    settle(closes === true && fence?.isMarkup === true);
    if (closes) fence = undefined;
    return false;
  };

  /** Reads a value up to its end, to a syntax error or to the end of the answer. Returns true if it ended and was markup. */
  const readValue = (): boolean => {
    const stack: string[] = [];
    let expect = "value" as Expect;
    let record: JsonRecord | undefined;
    /** First character of the current key or value of the record. */
    let mark = at;
    /** True if the rest of the element is text. */
    let passing = false;
    bracket = {};

    const inList = (): boolean => stack.length === 1 && stack[0] === "[";
    const inRecord = (): boolean => record?.depth === stack.length;
    const isTooLong = (): boolean => record !== undefined && byteLength(raw.slice(record.start, at)) > MAX_BEFORE_COORDINATES;

    const pass = (): void => {
      settle(false);
      record = undefined;
      passing = true;
    };

    const endKey = (key: string): void => {
      expect = "colon";
      if (!record || !inRecord()) return;
      record.key = key;
      if (NAME_KEYS.includes(key)) record.names.set(key, undefined);
      else if (!COORDINATE_KEYS.includes(key)) record.others = true;
      else if (!record.located && isTooLong()) pass();
      else record.located = true;
    };

    const endValue = (): void => {
      expect = "next";
      if (inList()) {
        settle(false);
        passing = false;
      }
      if (!record || !inRecord()) return;
      const { key } = record;
      const value = trim(raw.slice(mark, at));
      if (NAME_KEYS.includes(key)) record.names.set(key, readName(value));
      else if (COORDINATE_KEYS.includes(key) && value !== "null") {
        const shapes = readShapes(value, key === BOX ? 4 : 2);
        if (shapes) record.shapes.push(...shapes);
        else record.invalid = true;
      }
    };

    /** Returns true if the answer ends inside a record that is markup. `key` is the beginning of a key. */
    const isCut = (key?: string): boolean => {
      if (!record) return false;
      const begins = (keys: string[]): boolean => key !== undefined && keys.some((whole) => whole.startsWith(key));
      const located = begins(COORDINATE_KEYS);
      return (
        record.located ||
        (located && key !== undefined && key.length >= MIN_CUT_KEY) ||
        (record.names.size > 0 && !record.others && (key === undefined || located || begins(NAME_KEYS)))
      );
    };

    /** Ends the answer. */
    const end = (key?: string): boolean => {
      if (record && !record.located && isTooLong()) pass();
      settle(!passing && (bracket.isMarkup === true || isCut(key)));
      return false;
    };

    for (;;) {
      skip(SPACES);
      const char = raw.charAt(at);
      const inObject = stack.at(-1) === "{";
      const begins = expect === "value" || expect === "item";
      if (char === "") return end();
      if (begins && (char === "[" || char === "{")) {
        if (char === "{" && (stack.length === 0 || inList())) {
          const depth = stack.length + 1;
          record = { start: at, depth, key: "", located: false, invalid: false, others: false, shapes: [], names: new Map() };
        } else if (!passing && (record ? char === "{" && !record.located : stack.length > 0)) {
          // Coordinates below a record are not those of an object.
          pass();
        }
        at += 1;
        stack.push(char);
        expect = char === "{" ? "key" : "item";
      } else if (char === '"' && (begins || expect === "key")) {
        if (inList()) pass();
        const start = at;
        skip(STRING);
        const content = raw.slice(start + 1, at);
        if (at === raw.length) return end(expect === "key" ? content : undefined);
        at += 1;
        if (expect === "key") endKey(content);
        else endValue();
      } else if (begins && /[-\dtfn]/.test(char)) {
        if (inList()) pass();
        if (!skip(WORD)) break;
        endValue();
      } else if (char === ":" && expect === "colon") {
        at += 1;
        if (inRecord()) mark = at;
        expect = "value";
      } else if (char === "," && expect === "next") {
        at += 1;
        expect = inObject ? "key" : "item";
      } else if (char === (inObject ? "}" : "]") && (expect === "next" || expect === (inObject ? "key" : "item"))) {
        at += 1;
        if (record && inRecord()) {
          const { invalid, shapes, names } = record;
          const found = invalid ? [] : shapes;
          const name = names.get("label") ?? names.get("text_content");
          for (const points of found) output.add(points.length === 2 ? "box" : "point", points, name && trim(name));
          settle(found.length > 0);
          record = undefined;
        }
        stack.pop();
        if (stack.length > 0) {
          endValue();
        } else {
          const isMarkup = bracket.isMarkup === true;
          settle(isMarkup);
          return isMarkup;
        }
      } else break;
    }
    // Anything but JSON is text.
    settle(false);
    return false;
  };

  /** True at the start of a fence and after a value that is markup. */
  let inGap = false;
  while (at < raw.length) {
    skip(inGap ? GAP : fence?.foreign ? BEFORE_FENCE : BEFORE_MARKUP);
    if (!inGap) settle(false);
    const char = raw.charAt(at);
    if (char === "`") inGap = readTicks();
    else if (char === "[" || char === "{") inGap = readValue();
    else if (char !== "") {
      settle(false);
      inGap = false;
    }
  }
  settle(inGap && fence?.isMarkup === true);
}

/** Reads `[x, …]` or `[[x, …], …]` of this many numbers: the points of each shape. */
function readShapes(value: string, count: number): Point[][] | undefined {
  const list = /\[[^[\]]*\]/g;
  if (!/^(?:\[[\p{White_Space},]*\])?$/u.test(value.replace(list, ""))) return undefined;
  const shapes: Point[][] = [];
  for (const [text] of value.matchAll(list)) {
    // A comma may follow the last number.
    const numbers = trim(text.slice(1, -1)).replace(/,$/, "").split(",").map(readNumber);
    if (numbers.length !== count) return undefined;
    const points: Point[] = [];
    for (let at = 0; at < count; at += 2) {
      const [x, y] = numbers.slice(at);
      if (x === undefined || y === undefined) return undefined;
      points.push([x, y]);
    }
    shapes.push(points);
  }
  return shapes;
}

/** Rounds a number to a coordinate. Those below 0 become 0. */
function readNumber(text: string): number | undefined {
  const number = trim(text);
  const [found, exponent = "0"] = /^-?\d+(?:\.\d*)?(?:[eE]([+-]?\d+))?$/.exec(number) ?? [];
  // The worker takes exponents of 32 bits.
  return found === undefined || Number(exponent) !== (Number(exponent) | 0) ? undefined : Math.max(0, Math.round(Number(number)));
}

/** Reads a name: a string, or a number or literal as it is. */
function readName(value: string): string | undefined {
  if (value.startsWith('"')) return replaceEscapes(value.slice(1, -1));
  return value === "null" || /^[[{]/.test(value) ? undefined : value;
}

const ESCAPES: Record<string, string> = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

/** Replaces escapes. Unknown ones stay as they are, and half a surrogate pair becomes U+FFFD. */
function replaceEscapes(text: string): string {
  const replaced = text.replace(/\\(?:u([\da-fA-F]{4})|([^]))/g, (escape: string, code?: string, char = "") =>
    code ? String.fromCharCode(parseInt(code, 16)) : (ESCAPES[char] ?? escape),
  );
  return replaced.replace(/\p{Surrogate}/gu, "\u{fffd}");
}
