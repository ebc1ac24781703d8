// Checks that the page fits on screens of several sizes.

import assert from "node:assert/strict";
import { click, until } from "./site.mjs";

/** Width and height in CSS pixels: phones, the smallest on its side too, a tablet both ways, a laptop, a large screen. */
export const SCREENS = [
  [320, 568],
  [375, 667],
  [480, 854],
  [640, 360],
  [768, 1024],
  [1024, 768],
  [1280, 800],
  [1920, 1080],
];

/** A viewport with touch emulation. A page gets it before it is opened, because turning it on reloads the page. */
export const touchScreen = ([width, height]) => ({ width, height, isMobile: true, hasTouch: true });

/**
 * Asserts in both languages and on all screens that the page does not scroll, that picture, conversation and form are in view and apart, that no
 * button is cut, that no dialog scrolls sideways, and that dialogs, menus and elements with a fixed position are inside the screen.
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
  const { scrollHeight } = document.documentElement;
  if (scrollHeight > innerHeight) problems.push(`scrollHeight is ${scrollHeight}`);
  const areas = [".stage", ".stage > :first-child", ".talk", ".composer"].map((area) => document.querySelector(area));
  for (const element of document.querySelectorAll("body *")) {
    const isDialog = element.matches("dialog[open]");
    const isMenu = element.matches("details[open] > .menu-items");
    if (!isDialog && !isMenu && !areas.includes(element) && getComputedStyle(element).position !== "fixed") continue;
    const { left, top, right, bottom } = element.getBoundingClientRect();
    const place = [left, top, right, bottom].map(Math.round).join(", ");
    if (left < 0 || top < 0 || right > width || bottom > innerHeight + 0.5) problems.push(`${name(element)} is at ${place}`);
    if (isDialog && element.scrollWidth > element.clientWidth) problems.push(`${name(element)} scrolls sideways`);
  }
  const [stage, , talk, form] = areas.map((area) => area.getBoundingClientRect());
  if (talk.height < 72) problems.push(`the conversation is ${talk.height} pixels high`);
  const apart = (a, b) => a.bottom <= b.top + 0.5 || a.right <= b.left + 0.5;
  if (!apart(stage, talk) || !apart(stage, form) || !apart(talk, form)) problems.push("picture, conversation and form overlap");
  for (const button of document.querySelectorAll("button, summary, select")) {
    if (button.scrollWidth > button.clientWidth + 1) problems.push(`${name(button)} is cut: ${button.textContent}`);
  }
  return problems;
}
