import { computed, effect, signal } from "@preact/signals";
import type { AskOptions, Family, ModelInfo, PictureLimits } from "qwen-vl-web";

export interface Settings {
  language: "en" | "zh";
  theme: "system" | "light" | "dark";
  system: string;
  sampling: "model" | "greedy" | "own";
  temperature: number;
  topP: number;
  topK: number;
  /** `null`: random. */
  seed: number | null;
  /** `null`: the model's default. */
  maxTokens: number | null;
  contextLength: number;
  /** Most tokens of a picture, for models that take pictures of any size. */
  maxPictureTokens: number;
  /** Of pictures, for the same models. */
  resolution: Resolution;
  /** For later models than that of 2023. `null`: the model's default. */
  presencePenalty: number | null;
  /** Address of the Hugging Face Hub, or of a mirror of it. */
  hubUrl: string;
}

/** Resolution of pictures: as they are, or by a number of tokens. */
export type Resolution = "auto" | "low" | "medium" | "high";

/** Valid values of a number. A step of 1 means an integer. */
export interface Range {
  min: number;
  max: number;
  step: number;
}

export const RANGES = {
  temperature: { min: 0, max: 2, step: 0.05 },
  topP: { min: 0, max: 1, step: 0.05 },
  topK: { min: 0, max: 1000, step: 1 },
  seed: { min: 0, max: 2 ** 32 - 1, step: 1 },
  maxTokens: { min: 1, max: 8192, step: 1 },
  presencePenalty: { min: -2, max: 2, step: 0.1 },
} satisfies Partial<Record<keyof Settings, Range>>;

export const CONTEXT_LENGTHS: readonly number[] = [1024, 2048, 4096, 8192];
export const PICTURE_TOKENS: readonly number[] = [256, 512, 1280, 2560, 5120];
/** Tokens of a picture in each resolution, as far as the load allows. */
const RESOLUTION_TOKENS = { low: 256, medium: 640, high: Infinity };
export const RESOLUTIONS: readonly Resolution[] = ["auto", "low", "medium", "high"];

const KEY = "qwen-vl-web-settings";
export const DEFAULTS: Settings = {
  language: navigator.language.startsWith("zh") ? "zh" : "en",
  theme: "system",
  system: "",
  sampling: "model",
  temperature: 1,
  topP: 0.3,
  topK: 0,
  seed: null,
  maxTokens: null,
  contextLength: 2048,
  maxPictureTokens: 1280,
  resolution: "auto",
  presencePenalty: null,
  hubUrl: "https://huggingface.co",
};

const oneOf = (choices: readonly unknown[]) => (value: unknown) => choices.includes(value);
const within =
  ({ min, max, step }: Range) =>
  (value: unknown) =>
    typeof value === "number" && value >= min && value <= max && (step !== 1 || Number.isInteger(value));

/** True for values that a setting can have. */
const VALID: Record<keyof Settings, (value: unknown) => boolean> = {
  language: oneOf(["en", "zh"]),
  theme: oneOf(["system", "light", "dark"]),
  system: (value) => typeof value === "string",
  sampling: oneOf(["model", "greedy", "own"]),
  temperature: within(RANGES.temperature),
  topP: within(RANGES.topP),
  topK: within(RANGES.topK),
  seed: (value) => value === null || within(RANGES.seed)(value),
  maxTokens: (value) => value === null || within(RANGES.maxTokens)(value),
  contextLength: oneOf(CONTEXT_LENGTHS),
  maxPictureTokens: oneOf(PICTURE_TOKENS),
  resolution: oneOf(RESOLUTIONS),
  presencePenalty: (value) => value === null || within(RANGES.presencePenalty)(value),
  hubUrl: (value) => typeof value === "string" && URL.canParse(value),
};

export const settings = signal<Settings>({ ...DEFAULTS, ...stored() });

export function change(changes: Partial<Settings>): void {
  settings.value = { ...settings.value, ...changes };
}

/** Returns the options of a question that the settings stand for. */
export function generation(family: Family): Omit<AskOptions, "signal"> {
  const { sampling, temperature, topP, topK, seed, maxTokens, presencePenalty } = settings.value;
  return {
    ...(sampling === "greedy" ? { greedy: true } : {}),
    ...(sampling === "own" ? { greedy: false, temperature, topP, topK } : {}),
    ...(seed === null ? {} : { seed }),
    ...(maxTokens === null ? {} : { maxTokens }),
    ...(family === "qwen_vl" || presencePenalty === null ? {} : { presencePenalty }),
  };
}

export const resolution = computed(() => settings.value.resolution);

/** Returns the tokens of a picture in a resolution, or those of the load if they are fewer. */
export const resolutionTokens = (resolution: Exclude<Resolution, "auto">, { pictureTokens }: ModelInfo): number =>
  Math.min(RESOLUTION_TOKENS[resolution], pictureTokens.max);

/** Returns the limits of pictures that the chosen resolution stands for. The low one leaves small pictures as they are. */
export function pictureLimits(info: ModelInfo): PictureLimits {
  const chosen = resolution.value;
  if (info.family === "qwen_vl" || chosen === "auto") return {};
  const tokens = resolutionTokens(chosen, info);
  return { maxPictureTokens: tokens, ...(chosen === "low" ? {} : { minPictureTokens: tokens }) };
}

effect(() => {
  const { theme } = settings.value;
  document.documentElement.dataset["theme"] = theme;
  try {
    localStorage.setItem(KEY, JSON.stringify(settings.value));
  } catch {
    // Without storage, settings last as long as the page.
  }
});

/** Returns the valid ones of the stored settings: another version of the page, or something else, can have written them. */
function stored(): Partial<Settings> {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, unknown>;
    return Object.fromEntries(Object.entries(VALID).flatMap(([key, valid]) => (valid(found[key]) ? [[key, found[key]]] : [])));
  } catch {
    return {};
  }
}
