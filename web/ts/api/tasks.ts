/** Prompts that the model was trained on, other than chat: from the original's evaluation scripts and the paper. */

import type { Box } from "../wire/types.js";
import { regionText } from "./content.js";
import { anyBoolean, anyString, checkArgument, checkOptions, oneOf } from "./options.js";

/** Placeholder of a task's picture. */
const PICTURE = "<img>picture</img>";

export interface CaptionStyle {
  /** Language of the caption; English by default. */
  lang?: "en" | "zh";
  /** True if the caption has boxes of the things that it names. */
  grounded?: boolean;
}

/** Returns the text of a caption request, for a chat that has the picture already. */
export function captionText(style: CaptionStyle = {}): string {
  const { lang = "en", grounded = false } = style;
  checkOptions<CaptionStyle>({ lang, grounded }, { lang: oneOf("en", "zh"), grounded: anyBoolean });
  const language = { en: "English", zh: "Chinese" }[lang];
  return grounded ? `Generate the caption in ${language} with grounding:` : `Describe the image in ${language}:`;
}

export function captionPrompt(style: CaptionStyle): string {
  return PICTURE + captionText(style);
}

export function vqaPrompt(question: string): string {
  checkArgument("question", question, anyString);
  return `${PICTURE}${question} Answer:`;
}

export function readPrompt(): string {
  return `${PICTURE}OCR with grounding:`;
}

/** The `<box>` tag stays open, so that the answer begins with coordinates. */
export function groundPrompt(phrase: string): string {
  return `${PICTURE}<ref>${phrase}</ref><box>`;
}

export function regionPrompt(box: Box): string {
  return `${PICTURE}${regionText("This", [box])} is`;
}

/** Longest answers of the tasks, in tokens. They are the original's where it limits them. */
export const TASK_TOKENS = { caption: 128, vqa: 100, read: 512, ground: 28, region: 64 } as const;
