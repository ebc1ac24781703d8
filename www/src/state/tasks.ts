/** What the task buttons ask. Each kind of model has learned to be asked in its own words. */

import type { Language } from "../texts";
import { REGION_MARK } from "./chat";
import type { Kind } from "./model";

export interface Prompts {
  captionEn: string;
  captionZh: string;
  read: string;
  /** With `…` where the thing is written. */
  find: string;
  /** With the mark where the region stands. */
  region: string;
  compare: (first: number, second: number) => string;
}

const FULL: Record<Language, Prompts> = {
  en: {
    captionEn: "Generate the caption in English with grounding:",
    captionZh: "用中文描述这张图片。",
    read: "What does the text in the picture say?",
    find: "Locate … in the picture.",
    region: `What is ${REGION_MARK}?`,
    compare: (first, second) => `What is different between Picture ${first} and Picture ${second}?`,
  },
  zh: {
    captionEn: "Generate the caption in English with grounding:",
    captionZh: "用中文描述这张图片。",
    read: "图中的文字写的是什么？",
    find: "框出图中…的位置",
    region: `${REGION_MARK}是什么？`,
    compare: (first, second) => `Picture ${first} 和 Picture ${second} 有什么不同？`,
  },
};

/** As in the training data, crates/world/src/language.rs. */
const NANO: Record<Language, Prompts> = {
  en: {
    captionEn: "Describe the picture.",
    captionZh: "描述这张图片。",
    read: "What word is written?",
    find: "Find the ….",
    region: `What is ${REGION_MARK}?`,
    compare: () => "Which picture has more objects?",
  },
  zh: {
    captionEn: "Describe the picture.",
    captionZh: "描述这张图片。",
    read: "写的是什么？",
    find: "框出图中…的位置",
    region: `What is ${REGION_MARK}?`,
    compare: () => "Which picture has more objects?",
  },
};

/** The words of each kind of model. */
export const PROMPTS: Record<Kind, Record<Language, Prompts>> = { full: FULL, random: FULL, nano: NANO };
