/**
 * The small world that the embedded model has seen: `World::small` of crates/world, which draws its training pictures. Pictograms, shapes in
 * plain colours, words and numbers, on a pale ground.
 */

import atlas from "../../../crates/world/assets/atlas.png?url";
import allKinds from "../../../crates/world/assets/kinds.json";

export const ATLAS = atlas;
/** Pixels of a pictogram in the atlas, and pictograms in a row of it. */
const CELL = 64;
export const COLUMNS = 12;
export const ROWS = Math.ceil(allKinds.length / COLUMNS);
/** Pixels of a scene's side. */
const SIDE = 448;

interface Name {
  en: string;
  zh: string;
}

const KNOWN = ["apple", "banana", "carrot", "cat", "dog", "fish", "tree", "sunflower", "car", "house", "umbrella", "airplane"];
/** With their places in the atlas. */
export const KINDS: readonly (Name & { index: number })[] = allKinds
  .map(({ en, zh }, index) => ({ en, zh, index }))
  .filter(({ en }) => KNOWN.includes(en));

const STAR = Array.from({ length: 10 }, (_, point) => {
  const [angle, radius] = [(point * Math.PI) / 5, point % 2 === 0 ? 0.98 : 0.42];
  return `${(radius * Math.sin(angle)).toFixed(3)} ${(-radius * Math.cos(angle)).toFixed(3)}`;
});
/** Paths in the square from -1 to 1. */
export const SHAPES: readonly (Name & { path: string })[] = [
  { en: "circle", zh: "圆形", path: "M-.949 0a.949 .949 0 1 0 1.898 0a.949 .949 0 1 0-1.898 0z" },
  { en: "square", zh: "正方形", path: "M-.85-.85h1.7v1.7h-1.7z" },
  { en: "triangle", zh: "三角形", path: "M0-.95L.95 .85H-.95z" },
  { en: "star", zh: "星形", path: `M${STAR.join("L")}z` },
];
export const COLORS: readonly (Name & { css: string })[] = [
  { en: "red", zh: "红色", css: "rgb(220 30 35)" },
  { en: "green", zh: "绿色", css: "rgb(25 150 60)" },
  { en: "blue", zh: "蓝色", css: "rgb(30 80 220)" },
  { en: "yellow", zh: "黄色", css: "rgb(245 205 20)" },
  { en: "purple", zh: "紫色", css: "rgb(135 45 175)" },
  { en: "black", zh: "黑色", css: "rgb(20 20 25)" },
];
export const BACKGROUNDS: readonly (Name & { css: string })[] = [
  { en: "white", zh: "白色", css: "rgb(250 250 250)" },
  { en: "gray", zh: "灰色", css: "rgb(185 185 188)" },
  { en: "pink", zh: "粉色", css: "rgb(250 200 212)" },
  { en: "cyan", zh: "青色", css: "rgb(170 232 236)" },
];
const WORDS = ["STOP", "OPEN", "EXIT", "SALE", "TAXI", "CAFE", "BANK", "ZOO", "BUS", "PARK", "SHOP", "FOOD", "7", "12", "35"] as const;
const INK = "rgb(20 20 25)";
/** The face of style.css that words are trained in. */
const WORD_FONT = "World";

export type Thing = { kind: number } | { shape: number; color: number } | { word: string };

export interface SceneItem {
  id: number;
  thing: Thing;
  /** Centre and height, as parts of the side. */
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

/** Sizes as in training. */
export const usualSize = (thing: Thing): number => ("word" in thing ? 0.28 : 0.34);

/** Two or three things in different thirds of the picture. */
export function shuffled(): Scene {
  const random = (count: number) => Math.floor(Math.random() * count);
  const thing = (): Thing => {
    const chance = Math.random();
    if (chance < 0.55) return { kind: KINDS[random(KINDS.length)]!.index };
    if (chance < 0.8) return { shape: random(SHAPES.length), color: random(COLORS.length) };
    return { word: WORDS[random(WORDS.length)]! };
  };
  const rows = [0, 1, 2].sort(() => Math.random() - 0.5);
  const items = rows.slice(0, 2 + random(2)).map((row, id): SceneItem => {
    const made = thing();
    // Words are wide: they stay in the middle.
    const column = "word" in made ? 1 : random(3);
    return { id, thing: made, x: (column + 0.5) / 3, y: (row + 0.5) / 3, size: usualSize(made) - Math.random() * 0.04 };
  });
  return { background: random(BACKGROUNDS.length), items };
}

/** The scene as a picture. */
export async function paint({ background, items }: Scene): Promise<Blob> {
  const [sheet] = await Promise.all([
    fetch(ATLAS).then(async (response) => createImageBitmap(await response.blob())),
    document.fonts.load(`100px ${WORD_FONT}`),
  ]);
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("there is no 2D canvas");
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
      context.fillStyle = COLORS[thing.color]?.css ?? INK;
      context.fill(new Path2D(SHAPES[thing.shape]?.path));
    } else {
      context.font = `${side}px ${WORD_FONT}`;
      context.fillStyle = INK;
      context.fillText(thing.word, 0, 0);
    }
    context.restore();
  }
  sheet.close();
  return canvas.convertToBlob({ type: "image/png" });
}
