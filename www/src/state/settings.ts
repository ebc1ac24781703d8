import { effect, signal } from "@preact/signals";
import type { AskOptions } from "qwen-vl-web";

export interface Settings {
  language: "en" | "zh";
  theme: "system" | "light" | "dark";
  system: string;
  sampling: "model" | "greedy" | "own";
  temperature: number;
  topP: number;
  topK: number;
  seed: number | null;
  maxTokens: number | null;
  contextLength: number;
}

const KEY = "qwen-vl-web-settings";
const DEFAULTS: Settings = {
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
};

export const settings = signal<Settings>({ ...DEFAULTS, ...stored() });

export function change(changes: Partial<Settings>): void {
  settings.value = { ...settings.value, ...changes };
}

/** What the settings mean for a question. */
export function generation(): Omit<AskOptions, "signal"> {
  const { sampling, temperature, topP, topK, seed, maxTokens } = settings.value;
  return {
    ...(sampling === "greedy" ? { greedy: true } : {}),
    ...(sampling === "own" ? { greedy: false, temperature, topP, topK } : {}),
    ...(seed === null ? {} : { seed }),
    ...(maxTokens === null ? {} : { maxTokens }),
  };
}

effect(() => {
  const { theme } = settings.value;
  document.documentElement.style.colorScheme = theme === "system" ? "light dark" : theme;
  try {
    localStorage.setItem(KEY, JSON.stringify(settings.value));
  } catch {
    // Without storage, settings last as long as the page.
  }
});

/** What was stored, as far as it has the expected types: another version of the page may have written it. */
function stored(): Partial<Settings> {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, unknown>;
    const choices: Partial<Record<string, readonly unknown[]>> = {
      language: ["en", "zh"],
      theme: ["system", "light", "dark"],
      sampling: ["model", "greedy", "own"],
    };
    return Object.fromEntries(
      Object.entries(DEFAULTS).flatMap(([key, value]) => {
        const given = found[key];
        const allowed = choices[key];
        const optional = value === null && (given === null || typeof given === "number");
        const fits = allowed ? allowed.includes(given) : optional || typeof given === typeof value;
        return fits && given !== undefined ? [[key, given]] : [];
      }),
    );
  } catch {
    return {};
  }
}
