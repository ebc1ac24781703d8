/**
 * Prompts of the tasks, in the words that each generation knows best.
 *
 * Qwen-VL: the base format of the original's evaluation scripts and of the paper. Later generations: questions of a chat, in the words of their
 * published examples. The sources, as repository and file:
 *
 * - caption: QwenLM/Qwen3-VL, `README.md` and `qwen-vl-utils/README.md` ("Describe this image.")
 * - vqa: open-compass/VLMEvalKit, `vlmeval/vlm/qwen2_vl/prompt.py` and `vlmeval/vlm/qwen3_vl/prompt.py`, `_build_vqa_prompt`
 * - read, Qwen2-VL: the prompt of `qwen-vl-ocr` in Alibaba Cloud's documentation, also in QwenLM/Qwen3-VL, `cookbooks/ocr.ipynb`
 * - read, Qwen2.5-VL: QwenLM/Qwen2.5-VL, `cookbooks/ocr.ipynb`, its line-level prompt; Qwen3-VL: the same notebook of QwenLM/Qwen3-VL
 * - ground, Qwen2-VL: modelscope/ms-swift, `docs/source/Multi-Modal/qwen2-vl最佳实践.md` (release 2), "Specific format for qwen2-vl-chat"; the
 *   makers publish the form of answers only (arXiv 2409.12191, "Referring Grounding")
 * - ground, Qwen2.5-VL: QwenLM/Qwen2.5-VL, `cookbooks/spatial_understanding.ipynb`
 * - ground, Qwen3-VL: `cookbooks/2d_grounding.ipynb`, and with single quotes `evaluation/ODinW-13/dataset_utils.py`
 * - caption with boxes, Qwen2-VL: the words of Qwen-VL, which it follows too (QwenLM/Qwen3-VL issue 342)
 * - caption with boxes, Qwen2.5-VL and Qwen3-VL: the counting prompt of QwenLM/Qwen2.5-VL, `cookbooks/spatial_understanding.ipynb`, with another end
 */

import type { EnginePart, PromptInput } from "../wire/engine.js";
import type { Family } from "../wire/protocol.js";
import { QwenVLError } from "../wire/errors.js";
import type { Box, Constraint } from "../wire/types.js";
import { regionText } from "./content.js";
import { anyBoolean, anyString, checkArgument, checkOptions, oneOf } from "./options.js";

export interface CaptionStyle {
  /** Language of the caption; English by default. */
  lang?: "en" | "zh";
  /** True if the caption has boxes of the things that it names. */
  grounded?: boolean;
}

/** A task with what it is about. */
export type Task =
  | ({ kind: "caption" } & CaptionStyle)
  | { kind: "vqa"; question: string }
  | { kind: "read" }
  | { kind: "ground"; phrase: string }
  /** The box is in thousandths of the picture. */
  | { kind: "region"; box: Box };

/** Name of a task's picture in its prompt. */
const PICTURE = "picture";

/** Words of the tasks after their picture, by generation. */
interface Words<Place> {
  caption(language: string): string;
  groundedCaption(language: string): string;
  vqa(question: string): string;
  read: string;
  ground(phrase: string): Place;
  region(box: Box): Place;
}

const QWEN_VL: Words<string> = {
  caption: (language) => `Describe the image in ${language}:`,
  groundedCaption: (language) => `Generate the caption in ${language} with grounding:`,
  vqa: (question) => `${question} Answer:`,
  read: "OCR with grounding:",
  // The `<box>` tag stays open, so that the answer begins with coordinates.
  ground: (phrase) => `<ref>${phrase}</ref><box>`,
  region: (box) => `${regionText("This", [box])} is`,
};

const LATER: Pick<Words<unknown>, "caption" | "vqa"> & { region(box: Box): EnginePart[] } = {
  caption: (language) => `Describe this image in ${language}.`,
  vqa: (question) => `${question}\nPlease try to answer the question with short words or phrases if possible.`,
  region: (box) => [{ text: "Describe " }, { ref: "the region", boxes: [box] }, { text: " of the image." }],
};

/** For the generations that answer in JSON. */
const JSON_CAPTION = (language: string) =>
  `Please first output bbox coordinates and names of every item in this image in JSON format, and then describe the image in ${language}.`;

const WORDS: Record<Exclude<Family, "qwen_vl">, Words<EnginePart[]>> = {
  qwen2_vl: {
    ...LATER,
    groundedCaption: QWEN_VL.groundedCaption,
    read: "Read all the text in the image.",
    ground: (phrase) => [{ text: "Find " }, { ref: phrase }],
  },
  qwen2_5_vl: {
    ...LATER,
    groundedCaption: JSON_CAPTION,
    read: "Spotting all the text in the image with line-level, and output in JSON format.",
    ground: (phrase) => [{ text: `Locate ${phrase}, output its bbox coordinates using JSON format.` }],
  },
  qwen3_vl: {
    ...LATER,
    vqa: (question) => `${question}\nPlease answer concisely with short words or phrases when possible.`,
    groundedCaption: JSON_CAPTION,
    read: "Spotting all the text in the image with line-level, and output in JSON format as [{'bbox_2d': [x1, y1, x2, y2], 'text_content': 'text'}, ...].",
    ground: (phrase) => [
      { text: `Locate every instance that belongs to the following categories: "${phrase}". Report bbox coordinates in JSON format.` },
    ],
  },
};

/** Longest answers of the tasks, in tokens. Those of Qwen-VL are the original's where it limits them. JSON takes more than tags. */
const TOKENS: Record<"qwen_vl" | "later", Record<Task["kind"], number>> = {
  qwen_vl: { caption: 128, vqa: 100, read: 512, ground: 28, region: 64 },
  later: { caption: 512, vqa: 100, read: 2048, ground: 1024, region: 128 },
};

/** Tokens of a picture in which things can be located. */
const LOCATING_TOKENS = 1024;

/** Returns the text of a caption request, for a chat that has the picture already. */
export function captionText(style: CaptionStyle = {}, family: Family = "qwen_vl"): string {
  const { lang = "en", grounded = false } = style;
  checkOptions<CaptionStyle>({ lang, grounded }, { lang: oneOf("en", "zh"), grounded: anyBoolean });
  checkFamily(family);
  const language = { en: "English", zh: "Chinese" }[lang];
  const words = family === "qwen_vl" ? QWEN_VL : WORDS[family];
  return grounded ? words.groundedCaption(language) : words.caption(language);
}

/** Returns the text of a request to read the picture's text, for a chat that has the picture already. */
export function readText(family: Family = "qwen_vl"): string {
  checkFamily(family);
  return family === "qwen_vl" ? QWEN_VL.read : WORDS[family].read;
}

/** Returns the text of a request to locate something, for a chat that has the picture already. */
export function groundText(phrase: string, family: Family = "qwen_vl"): string {
  checkArgument("phrase", phrase, anyString);
  checkFamily(family);
  if (family === "qwen_vl") return QWEN_VL.ground(phrase);
  return WORDS[family]
    .ground(phrase)
    .map((part) => ("text" in part ? part.text : phrase))
    .join("");
}

function checkFamily(family: Family): void {
  checkArgument("family", family, oneOf("qwen_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"));
}

/** Returns the prompt of a task, which has one picture. */
export function taskPrompt(task: Task, family: Family): PromptInput {
  if (task.kind === "vqa") checkArgument("question", task.question, anyString);
  if (family === "qwen_vl") return { kind: "raw", text: `<img>${PICTURE}</img>${textOf(task)}` };
  return { kind: "chat", history: [], query: [{ image: PICTURE }, ...partsOf(task, family)], overflow: "error" };
}

function textOf(task: Task): string {
  switch (task.kind) {
    case "caption":
      return captionText(task);
    case "vqa":
      return QWEN_VL.vqa(task.question);
    case "read":
      return QWEN_VL.read;
    case "ground":
      return QWEN_VL.ground(task.phrase);
    case "region":
      return QWEN_VL.region(task.box);
  }
}

function partsOf(task: Task, family: Exclude<Family, "qwen_vl">): EnginePart[] {
  const words = WORDS[family];
  switch (task.kind) {
    case "caption":
      return [{ text: captionText(task, family) }];
    case "vqa":
      return [{ text: words.vqa(task.question) }];
    case "read":
      return [{ text: words.read }];
    case "ground":
      return words.ground(task.phrase);
    case "region":
      return words.region(task.box);
  }
}

/** Returns the form of the JSON in which a generation locates things. */
export function groundConstraint(family: Family): Constraint {
  if (family === "qwen_vl" || family === "qwen2_vl") {
    throw new QwenVLError("INVALID_ARGUMENT", "`strict` is true, but this generation writes boxes as tags, not as JSON: leave it out");
  }
  const side = { type: "integer", minimum: 0, maximum: 9999 };
  const properties = { bbox_2d: { type: "array", items: side, minItems: 4, maxItems: 4 }, label: { type: "string" } };
  const items = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  return { jsonSchema: { type: "array", items } };
}

/** Returns the length limit of a task's answer, in tokens. */
export const taskTokens = (task: Task["kind"], family: Family): number => TOKENS[family === "qwen_vl" ? "qwen_vl" : "later"][task];

/**
 * Returns the fewest tokens of a task's picture; `undefined` for those of the checkpoint.
 *
 * @param most most tokens that a picture can have
 */
export function taskPictureTokens(task: Task, most: number): number | undefined {
  const locates = task.kind === "ground" || task.kind === "read" || (task.kind === "caption" && task.grounded === true);
  return locates ? Math.min(LOCATING_TOKENS, most) : undefined;
}
