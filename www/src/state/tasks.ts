/** Questions that the task buttons write. */

import { captionText, groundText, readText } from "qwen-vl-web";
import { texts } from "../texts";
import { model, type Kind } from "./model";
import { settings } from "./settings";
import { NAME_MARK, QUESTIONS } from "./world";

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
  const family = model.value?.info.family ?? "qwen_vl";
  if (family !== "qwen_vl") {
    const wording = { captionEn: captionText({ lang: "en" }, family), read: readText(family), find: groundText(NAME_MARK, family) };
    return { ...questions, ...wording };
  }
  if (kind !== "nano") return { ...questions, captionEn: captionText({ lang: "en", grounded: true }) };
  const trained = QUESTIONS[settings.value.language];
  return { ...trained, compare: () => trained.compare };
}
