/** The prompts that the model was trained on, beside chat: of the original's evaluation scripts and of its paper. */

import { regionText } from "./content.js";
import type { Box } from "../wire/types.js";

/** Where the picture of a task stands. */
const PICTURE = "<img>picture</img>";

export interface CaptionStyle {
  /** English by default. */
  lang?: "en" | "zh";
  /** Whether the caption points at what it names. */
  grounded?: boolean;
}

export function captionPrompt({ lang = "en", grounded = false }: CaptionStyle): string {
  const language = { en: "English", zh: "Chinese" }[lang];
  return PICTURE + (grounded ? `Generate the caption in ${language} with grounding:` : `Describe the image in ${language}:`);
}

export function vqaPrompt(question: string): string {
  return `${PICTURE}${question} Answer:`;
}

export function readPrompt(): string {
  return `${PICTURE}OCR with grounding:`;
}

/** The tag stays open: the answer begins with coordinates. */
export function groundPrompt(phrase: string): string {
  return `${PICTURE}<ref>${phrase}</ref><box>`;
}

export function regionPrompt(box: Box): string {
  return `${PICTURE}${regionText("This", [box])} is`;
}

/** Longest answers of these tasks, tokens, where the original says so. */
export const TASK_TOKENS = { caption: 128, vqa: 100, read: 512, ground: 28, region: 64 } as const;
