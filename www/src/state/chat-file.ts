/** Chats as the page stores them and writes them to files. A file can come from anybody. */

import type { Box, Grounded } from "qwen-vl-web";
import type { Facts, StoredAnswer } from "./chat";

export interface StoredChat<P> {
  format: "qwen-vl-web-chat";
  version: 1;
  system: string;
  pictures: P[];
  turns: { text: string; pictures: string[]; region?: Box; raw: string; answer?: Omit<StoredAnswer, "raw">; facts?: Facts }[];
}

export interface FilePicture {
  id: string;
  name: string;
  /** A data URL. */
  data: string;
  /** A data URL. */
  video?: string;
}

const IMAGE_DATA = /^data:image\/(png|jpeg|webp|gif|bmp);base64,/;
const VIDEO_DATA = /^data:video\/[\w-]+;/;
/** Largest coordinate of a region. */
const SIDE = 1000;

/** Returns the chat of a file, or throws a `TypeError`. Measurements on another device, and fields that the page does not know, are left out. */
export function parseChat(json: string): StoredChat<FilePicture> {
  const { format, version, system, pictures, turns } = object(JSON.parse(json));
  check(format === "qwen-vl-web-chat" && version === 1);
  const chat = {
    format: "qwen-vl-web-chat" as const,
    version: 1 as const,
    system: text(system),
    pictures: list(pictures).map(pictureOf),
    turns: list(turns).map(turnOf),
  };
  const ids = new Set(chat.pictures.map(({ id }) => id));
  check(chat.turns.every(({ pictures }) => pictures.every((id) => ids.has(id))));
  return chat;
}

function pictureOf(value: unknown): FilePicture {
  const { id, name, data, video } = object(value);
  check(IMAGE_DATA.test(text(data)) && (video === undefined || VIDEO_DATA.test(text(video))));
  return { id: text(id), name: text(name), data: text(data), ...(video === undefined ? {} : { video: text(video) }) };
}

function turnOf(value: unknown): StoredChat<FilePicture>["turns"][number] {
  const turn = object(value);
  return {
    text: text(turn.text),
    pictures: list(turn.pictures).map(text),
    ...(turn.region === undefined ? {} : { region: regionOf(turn.region) }),
    raw: text(turn.raw),
    ...(turn.answer === undefined ? {} : { answer: answerOf(turn.answer) }),
  };
}

function regionOf(value: unknown): Box {
  const region = list(value);
  check(region.length === 4 && region.every((number) => typeof number === "number" && number >= 0 && number <= SIDE));
  return region as Box;
}

function answerOf(value: unknown): Omit<StoredAnswer, "raw"> {
  const answer = object(value);
  return { text: text(answer.text), objects: list(answer.objects).map(objectOf) };
}

function objectOf(value: unknown): Grounded {
  const { ref, image, range, kind, norm, pixels } = object(value);
  const ends = list(range).map(index);
  check(ends.length === 2);
  return {
    ...(ref === undefined ? {} : { ref: text(ref) }),
    ...(image === undefined ? {} : { image: index(image) }),
    range: ends,
    kind,
    norm: shape(kind, norm),
    ...(pixels === undefined ? {} : { pixels: shape(kind, pixels) }),
  } as Grounded;
}

function shape(kind: unknown, value: unknown): unknown {
  const values = list(value);
  if (kind === "quad") {
    check(values.length === 4);
    return values.map((corner) => shape("point", corner));
  }
  check((kind === "box" && values.length === 4) || (kind === "point" && values.length === 2));
  return values.map(index);
}

function index(value: unknown): number {
  check(Number.isSafeInteger(value) && (value as number) >= 0);
  return value as number;
}

function text(value: unknown): string {
  check(typeof value === "string");
  return value as string;
}

function list(value: unknown): unknown[] {
  check(Array.isArray(value));
  return value as unknown[];
}

function object(value: unknown): Record<string, unknown> {
  check(typeof value === "object" && value !== null && !Array.isArray(value));
  return value as Record<string, unknown>;
}

function check(fits: boolean): void {
  if (!fits) throw new TypeError("not a chat of this page");
}
