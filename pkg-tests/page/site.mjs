// Helpers for the tests, the screenshots and the audit of the demo page.

import { serve } from "../server.mjs";

/** Longest wait, in milliseconds. Compiling pipelines takes half a minute on a software adapter. */
export const PATIENCE_MS = 5 * 60_000;

export const part = (id) => `[data-testid="${id}"]`;

/**
 * Waits until a function returns a truthy value in the page, and returns that value. It must not be an element, because the drivers pass
 * elements in different ways. Puppeteer's own function compiles text in the page, which the page's security policy forbids.
 */
export async function until(page, body, ...parameters) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await page.evaluate(body, ...parameters);
    if (found) return found;
    if (Date.now() > end) throw new Error(`still false: ${body}(${JSON.stringify(parameters)})`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until an element exists. */
export const present = (page, id) => until(page, (selector) => document.querySelector(selector) !== null, part(id));

export const textOf = (page, id) => page.$eval(part(id), (element) => element.textContent);

/** Waits until a model is loaded and no answer is running. */
export const ready = (page) => until(page, () => document.querySelector('[data-testid="ask"]')?.disabled === false);

/** Clicks by script, which works even if another element covers this one. A menu is opened first: in the same step, because any focus closes it. */
export const click = (page, selector) =>
  page.$eval(selector.startsWith("[") ? selector : part(selector), (element) => {
    const summary = element.closest("details.menu:not([open])")?.querySelector("summary");
    if (summary && summary !== element) summary.click();
    if (element.closest("details.menu") && !element.checkVisibility()) throw new Error(`hidden in its menu: ${element.outerHTML}`);
    element.click();
  });

/** Replaces the text of the question field. */
export async function write(page, text) {
  await page.$eval(part("question"), (field) => {
    field.value = "";
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  });
  await page.type(part("question"), text);
}

/** Asks a question, waits for the end of the answer and returns its text. */
export async function ask(page, text) {
  const before = (await page.$$(`${part("timings")}[data-finished]`)).length;
  await write(page, text);
  await click(page, "ask");
  await until(page, (count) => document.querySelectorAll('[data-testid="timings"][data-finished]').length > count, before);
  return page.$$eval(part("answer"), (answers) => answers.at(-1).textContent);
}

/**
 * Composes a scene and attaches its picture.
 *
 * @param {[string, number, number][]} things English names and centres, as fractions of the side
 */
export async function compose(page, things) {
  await click(page, "scene");
  await present(page, "board");
  await click(page, "scene-clear");
  for (const [number, [name, x, y]] of things.entries()) {
    await page.$eval(
      part("board"),
      (board, name, x, y) => {
        const { left, top, width, height } = board.getBoundingClientRect();
        const dataTransfer = new DataTransfer();
        dataTransfer.setData("text/plain", name);
        const at = { clientX: left + x * width, clientY: top + y * height };
        board.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer, ...at }));
      },
      name,
      x,
      y,
    );
    await until(page, (count) => document.querySelectorAll('[data-testid="board"] .item').length === count, number + 1);
  }
  await click(page, "scene-use");
  await until(page, () => document.querySelector("dialog") === null);
  await present(page, "pending");
}

/** Sets the files of an input. The drivers cannot do this for inputs of folders. */
export async function giveFiles(page, id, files) {
  await page.$eval(
    part(id),
    async (input, files) => {
      const transfer = new DataTransfer();
      for (const { name, url, type, lastModified } of files) {
        transfer.items.add(new File([await (await fetch(url)).arrayBuffer()], name, { type, lastModified }));
      }
      input.files = transfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    },
    files,
  );
}

/** Serves the built page with a model at the place where `cargo xtask site` puts it. */
export const serveSite = (site, model, { base = "/", ...options } = {}) => serve({ [base]: site, [`${base}model/`]: model }, options);
