/** The small world that the embedded model knows: pictograms and words on a plain ground. */

import atlas from "../../../crates/world/assets/atlas.png?url";
import kinds from "../../../crates/world/assets/kinds.json";

export const ATLAS = atlas;
/** Pixels of a pictogram in the atlas, and pictograms in a row of it. */
export const CELL = 64;
export const COLUMNS = 12;
export const ROWS = Math.ceil(kinds.length / COLUMNS);
/** Pixels of a scene's side. */
export const SIDE = 448;
export const BACKGROUNDS = ["#ffffff", "#f6f1e4", "#dbeafe", "#dcfce7", "#fef3c7", "#1f2937"] as const;
export const WORDS = ["HELLO", "OPEN", "STOP", "SALE", "CAFE", "2026"] as const;

export interface WorldKind {
  /** Place in the atlas. */
  index: number;
  en: string;
  zh: string;
}

export const KINDS: readonly WorldKind[] = kinds.map(({ en, zh }, index) => ({ index, en, zh }));

export interface SceneItem {
  id: number;
  /** A pictogram, or a word. */
  what: { kind: number } | { word: string };
  /** Centre and height, as parts of the side. */
  x: number;
  y: number;
  size: number;
}

export interface Scene {
  background: string;
  items: readonly SceneItem[];
}

const clamp = (value: number, least: number, most: number): number => Math.min(Math.max(value, least), most);

export function placed(item: SceneItem, x: number, y: number): SceneItem {
  return { ...item, x: clamp(x, 0.05, 0.95), y: clamp(y, 0.05, 0.95) };
}

export const resized = (item: SceneItem, factor: number): SceneItem => ({ ...item, size: clamp(item.size * factor, 0.08, 0.6) });

/** Pictograms and a word on a grid, so that they do not cover each other. */
export function shuffled(): Scene {
  const cells = shuffle([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  const chosen = shuffle(KINDS).slice(0, 4);
  const word = WORDS[Math.floor(Math.random() * WORDS.length)] ?? WORDS[0];
  const whats: SceneItem["what"][] = [...chosen.map(({ index }) => ({ kind: index })), { word }];
  const items = whats.map((what, id): SceneItem => {
    const cell = cells[id] ?? 0;
    const jitter = () => (Math.random() - 0.5) * 0.06;
    const size = "kind" in what ? 0.2 + Math.random() * 0.08 : 0.1;
    return { id, what, x: ((cell % 3) + 0.5) / 3 + jitter(), y: (Math.floor(cell / 3) + 0.5) / 3 + jitter(), size };
  });
  return { background: BACKGROUNDS[Math.floor(Math.random() * (BACKGROUNDS.length - 1))] ?? BACKGROUNDS[0], items };
}

function shuffle<T>(list: readonly T[]): T[] {
  const mixed = [...list];
  for (let at = mixed.length - 1; at > 0; at--) {
    const other = Math.floor(Math.random() * (at + 1));
    [mixed[at], mixed[other]] = [mixed[other]!, mixed[at]!];
  }
  return mixed;
}

/** The colour of words on a ground. */
export const ink = (background: string): string => (background === "#1f2937" ? "#ffffff" : "#111827");

export const WORD_FONT = "700 100px 'DejaVu Sans', Verdana, sans-serif";

/** The scene as a picture. */
export async function paint({ background, items }: Scene): Promise<Blob> {
  const sheet = await createImageBitmap(await (await fetch(ATLAS)).blob());
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("there is no 2D canvas");
  context.fillStyle = background;
  context.fillRect(0, 0, SIDE, SIDE);
  context.imageSmoothingQuality = "high";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const { what, x, y, size } of items) {
    const side = size * SIDE;
    if ("kind" in what) {
      const [left, top] = [(what.kind % COLUMNS) * CELL, Math.floor(what.kind / COLUMNS) * CELL];
      context.drawImage(sheet, left, top, CELL, CELL, x * SIDE - side / 2, y * SIDE - side / 2, side, side);
    } else {
      context.font = WORD_FONT.replace("100px", `${side}px`);
      context.fillStyle = ink(background);
      context.fillText(what.word, x * SIDE, y * SIDE);
    }
  }
  sheet.close();
  return canvas.convertToBlob({ type: "image/png" });
}
