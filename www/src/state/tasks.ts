/** What the task buttons ask. Each kind of model has learned to be asked in its own words. */

import type { Kind } from "./model";
import type { Language } from "../texts";

export interface Prompts {
  captionEn: string;
  captionZh: string;
  read: string;
  /** With `…` where the thing is written. */
  find: string;
  region: string;
  compare: (first: number, second: number) => string;
}

const FULL: Record<Language, Prompts> = {
  en: {
    captionEn: "Generate the caption in English with grounding:",
    captionZh: "用中文描述这张图片。",
    read: "What does the text in the picture say?",
    find: "Locate … in the picture.",
    region: "What is this?",
    compare: (first, second) => `What is different between Picture ${first} and Picture ${second}?`,
  },
  zh: {
    captionEn: "Generate the caption in English with grounding:",
    captionZh: "用中文描述这张图片。",
    read: "图中的文字写的是什么？",
    find: "框出图中…的位置",
    region: "这是什么？",
    compare: (first, second) => `Picture ${first} 和 Picture ${second} 有什么不同？`,
  },
};

/** The words of each kind of model. */
export const PROMPTS: Record<Kind, Record<Language, Prompts>> = { full: FULL, random: FULL, nano: FULL };
