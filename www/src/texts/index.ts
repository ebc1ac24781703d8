import { computed, effect } from "@preact/signals";
import { settings } from "../state/settings";
import { en, type Texts } from "./en";
import { zh } from "./zh";

export const LANGUAGES = { en, zh };
export type Language = keyof typeof LANGUAGES;

/** The texts of the chosen language. */
export const texts = computed((): Texts => LANGUAGES[settings.value.language]);

effect(() => {
  document.documentElement.lang = settings.value.language === "zh" ? "zh-CN" : "en";
});

const number = (digits: number, unit?: string) =>
  new Intl.NumberFormat(settings.value.language, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    ...(unit ? { style: "unit", unit, unitDisplay: unit === "second" ? "narrow" : "short" } : {}),
  });

/** @param digits of gigabytes after the point */
export function formatBytes(bytes: number, digits = 2): string {
  const text = bytes < 1e9 ? number(1, "megabyte").format(bytes / 1e6) : number(digits, "gigabyte").format(bytes / 1e9);
  // No line ends between a number and its unit.
  return text.replaceAll(" ", "\u00a0");
}

export const formatNumber = (value: number, digits = 1): string => number(digits).format(value);

export const formatMillis = (millis: number): string => number(2, "second").format(millis / 1000);

/** Time left: seconds, minutes or hours. */
export function formatEta(seconds: number): string {
  if (seconds < 90) return number(0, "second").format(seconds);
  if (seconds < 5400) return number(0, "minute").format(seconds / 60);
  return number(1, "hour").format(seconds / 3600);
}
