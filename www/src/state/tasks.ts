/** Questions that the task buttons write. */

import { captionText } from "qwen-vl-web";
import { texts } from "../texts";
import type { Kind } from "./model";
import { settings } from "./settings";
import { QUESTIONS } from "./world";

interface Questions {
  /** Written for the example. */
  first: string;
  captionEn: string;
  captionZh: string;
  read: string;
  /** `NAME_MARK` stands for the name of a thing. */
  find: string;
  /** `REGION_MARK` stands for the region. */
  region: string;
  compare: (first: number, second: number) => string;
}

/** Returns the questions for a kind of model, each in the words that it knows best. */
export function questionsFor(kind: Kind): Questions {
  const { questions } = texts.value;
  if (kind !== "nano") return { ...questions, captionEn: captionText({ lang: "en", grounded: true }) };
  const trained = QUESTIONS[settings.value.language];
  return { ...trained, compare: () => trained.compare };
}
