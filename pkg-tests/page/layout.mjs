// Checks that the page fits on screens of several sizes.

import assert from "node:assert/strict";
import { click, until } from "./site.mjs";

/** Width and height in CSS pixels: a small and a common phone, a tablet, a laptop. */
export const SCREENS = [
  [360, 640],
  [390, 844],
  [768, 1024],
  [1280, 800],
];

/** A viewport with touch emulation. A page gets it before it is opened, because turning it on reloads the page. */
export const touchScreen = ([width, height]) => ({ width, height, isMobile: true, hasTouch: true });

/**
 * Asserts in both languages and on all screens that the page does not scroll sideways, that no dialog does, and that dialogs and elements
 * with a fixed position are inside the screen.
 *
 * @param {string} state name of the page's state, for the message
 */
export async function fitsScreens(page, state) {
  const before = page.viewport();
  const problems = [];
  // The second switch restores the language.
  for (let switched = 0; switched < 2; switched++) {
    const language = await page.evaluate(() => document.documentElement.lang);
    for (const [width, height] of SCREENS) {
      await page.setViewport({ ...before, width, height });
      await until(page, (width) => screen.width === width || innerWidth === width, width);
      const found = await page.evaluate(measure, width);
      problems.push(...found.map((problem) => `${state}, ${language}, ${width} × ${height}: ${problem}`));
    }
    await click(page, "language");
    await until(page, (language) => document.documentElement.lang !== language, language);
  }
  await page.setViewport(before);
  assert.deepEqual(problems, []);
}

/** Runs in the page. */
async function measure(width) {
  // Two frames: the layout has followed the new size, and so has the page's zoom.
  for (let frame = 0; frame < 2; frame++) {
    await Promise.race([new Promise(requestAnimationFrame), new Promise((resolve) => setTimeout(resolve, 100))]);
  }
  const problems = [];
  const name = (element) => `<${element.localName} class="${element.getAttribute("class") ?? ""}">`;
  // A page that is too wide makes the browser of a phone zoom out, which enlarges `innerWidth`.
  if (innerWidth !== width) problems.push(`innerWidth is ${innerWidth}`);
  const { scrollWidth } = document.documentElement;
  if (scrollWidth > width) {
    const wide = [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > width);
    problems.push(`scrollWidth is ${scrollWidth}; beyond the edge: ${wide.map(name).join(" ")}`);
  }
  for (const element of document.querySelectorAll("body *")) {
    const isDialog = element.matches("dialog[open]");
    if (!isDialog && getComputedStyle(element).position !== "fixed") continue;
    const { left, top, right, bottom } = element.getBoundingClientRect();
    const place = [left, top, right, bottom].map(Math.round).join(", ");
    if (left < 0 || top < 0 || right > width || bottom > innerHeight) problems.push(`${name(element)} is at ${place}`);
    if (isDialog && element.scrollWidth > element.clientWidth) problems.push(`${name(element)} scrolls sideways`);
  }
  return problems;
}
