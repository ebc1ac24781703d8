/** The small world of the embedded model, as `crates/world` describes it: pictograms, shapes in plain colours, words and numbers. */

import ATLAS from "@world/atlas.png?url";
import small from "@world/small.json";

export { ATLAS };
/** Pictogram `index` is in column `index % columns` and row `index / columns` of the atlas, `cell` pixels wide. */
const { cell: CELL, columns: COLUMNS, rows: ROWS } = small.atlas;
/** Pixels of a scene's side. */
const SIDE = 448;
/** Font of the words in training, declared in `tokens.css`. */
const WORD_FONT = "World";

interface Name {
  en: string;
  zh: string;
}

/** Pictograms, with their index in the atlas. */
export const KINDS: readonly (Name & { index: number })[] = small.kinds;
/** Shapes, as paths in the square from -1 to 1. */
export const SHAPES: readonly (Name & { path: string })[] = small.shapes;
export const COLORS: readonly (Name & { css: string })[] = small.colors;
export const BACKGROUNDS: readonly (Name & { css: string })[] = small.backgrounds;
/** Questions that the model was trained on, by the visitor's language. */
export const QUESTIONS = small.questions;
/** Texts in questions that stand for the name that the visitor writes, and for the region that the visitor marks. */
export const { name: NAME_MARK, region: REGION_MARK } = small.marks;

export type Thing = { kind: number } | { shape: number; color: number } | { word: string };

export interface SceneItem {
  id: number;
  thing: Thing;
  /** Centre and height, as fractions of the scene's side. */
  x: number;
  y: number;
  size: number;
}

export interface Scene {
  /** Index of a background. */
  background: number;
  items: readonly SceneItem[];
}

export function nameOf(thing: Thing, language: keyof Name): string {
  if ("word" in thing) return thing.word;
  if ("kind" in thing) return KINDS.find(({ index }) => index === thing.kind)?.[language] ?? "";
  const names = [COLORS[thing.color]?.[language], SHAPES[thing.shape]?.[language]];
  return names.join(language === "en" ? " " : "");
}

const clamp = (value: number, least: number, most: number): number => Math.min(Math.max(value, least), most);

export const placed = (item: SceneItem, x: number, y: number): SceneItem => ({ ...item, x: clamp(x, 0.05, 0.95), y: clamp(y, 0.05, 0.95) });

export const resized = (item: SceneItem, factor: number): SceneItem => ({ ...item, size: clamp(item.size * factor, 0.15, 0.6) });

/** Returns a size from the range of the training pictures. */
export const usualSize = (thing: Thing): number => ("word" in thing ? small.sizes.text : small.sizes.object);

/** Style that shows one pictogram of the atlas as a background. */
export function spriteStyle(thing: Thing): Record<string, string> {
  if (!("kind" in thing)) return {};
  const [column, row] = [thing.kind % COLUMNS, Math.floor(thing.kind / COLUMNS)];
  return {
    backgroundImage: `url(${ATLAS})`,
    backgroundSize: `${COLUMNS * 100}% ${ROWS * 100}%`,
    backgroundPosition: `${(column / (COLUMNS - 1)) * 100}% ${(row / (ROWS - 1)) * 100}%`,
  };
}

/** Makes a scene of two or three things in different thirds of the picture. */
export function shuffled(): Scene {
  const random = (count: number) => Math.floor(Math.random() * count);
  const thing = (): Thing => {
    const { pictograms, shapes, texts, numbers } = small.shares;
    const choice = Math.random() * (pictograms + shapes + texts);
    if (choice < pictograms) return { kind: KINDS[random(KINDS.length)]!.index };
    if (choice < pictograms + shapes) return { shape: random(SHAPES.length), color: random(COLORS.length) };
    return { word: Math.random() < numbers ? String(random(10 ** small.digits)) : small.words[random(small.words.length)]! };
  };
  const rows = [0, 1, 2].sort(() => Math.random() - 0.5);
  const items = rows.slice(0, 2 + random(2)).map((row, id): SceneItem => {
    const made = thing();
    // Words are wide, so they go to the middle.
    const column = "word" in made ? 1 : random(3);
    return { id, thing: made, x: (column + 0.5) / 3, y: (row + 0.5) / 3, size: usualSize(made) - Math.random() * 0.04 };
  });
  return { background: random(BACKGROUNDS.length), items };
}

/** Draws the scene as a picture. */
export async function paint({ background, items }: Scene): Promise<Blob> {
  const [sheet] = await Promise.all([
    fetch(ATLAS).then(async (response) => createImageBitmap(await response.blob())),
    document.fonts.load(`100px ${WORD_FONT}`),
  ]);
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("could not create a 2D canvas");
  context.fillStyle = BACKGROUNDS[background]?.css ?? "white";
  context.fillRect(0, 0, SIDE, SIDE);
  context.imageSmoothingQuality = "high";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const { thing, x, y, size } of items) {
    const side = size * SIDE;
    context.save();
    context.translate(x * SIDE, y * SIDE);
    if ("kind" in thing) {
      const [left, top] = [(thing.kind % COLUMNS) * CELL, Math.floor(thing.kind / COLUMNS) * CELL];
      context.drawImage(sheet, left, top, CELL, CELL, -side / 2, -side / 2, side, side);
    } else if ("shape" in thing) {
      context.scale(side / 2, side / 2);
      context.fillStyle = COLORS[thing.color]?.css ?? small.ink;
      context.fill(new Path2D(SHAPES[thing.shape]?.path));
    } else {
      context.font = `${side}px ${WORD_FONT}`;
      context.fillStyle = small.ink;
      context.fillText(thing.word, 0, 0);
    }
    context.restore();
  }
  sheet.close();
  return canvas.convertToBlob({ type: "image/png" });
}
