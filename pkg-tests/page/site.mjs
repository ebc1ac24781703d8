// What the tests, the screenshots and the audit of the demo page share.

import { serve } from "../server.mjs";

/** Compiling pipelines takes half a minute on a software adapter. */
export const PATIENCE_MS = 5 * 60_000;

export const part = (id) => `[data-testid="${id}"]`;

/**
 * Waits until a function of the page returns something true (no element: drivers do not hand those over alike). Not puppeteer's own, which compiles text inside the page: its security policy
 * forbids that.
 */
export async function until(page, body, ...parameters) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await page.evaluate(body, ...parameters);
    if (found) return found;
    if (Date.now() > end) throw new Error(`never came true: ${body}(${JSON.stringify(parameters)})`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until an element is there. */
export const present = (page, id) => until(page, (selector) => document.querySelector(selector) !== null, part(id));

export const textOf = (page, id) => page.$eval(part(id), (element) => element.textContent);

/** The model is loaded and nothing runs. */
export const ready = (page) => until(page, () => document.querySelector('[data-testid="ask"]')?.disabled === false);

/** Clicks by script: it does not matter whether something lies above, as it would for a pointer. */
export const click = (page, selector) => page.$eval(selector.startsWith("[") ? selector : part(selector), (element) => element.click());

/** Writes a question in place of what is in the field. */
export async function write(page, text) {
  await page.$eval(part("question"), (field) => {
    field.value = "";
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  });
  await page.type(part("question"), text);
}

/** Asks and waits for the end of the answer; returns its text. */
export async function ask(page, text) {
  const before = (await page.$$(`${part("timings")}[data-finished]`)).length;
  await write(page, text);
  await click(page, "ask");
  await until(page, (count) => document.querySelectorAll('[data-testid="timings"][data-finished]').length > count, before);
  return page.$$eval(part("answer"), (answers) => answers.at(-1).textContent);
}

/**
 * Composes a scene by hand and attaches its picture.
 *
 * @param {[string, number, number][]} things English names, and where their middles lie, as parts of the side
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

/** Gives files to an input, also to one for folders, which drivers can not. */
export async function giveFiles(page, id, files) {
  await page.$eval(
    part(id),
    async (input, files) => {
      const transfer = new DataTransfer();
      for (const { name, url, type } of files) {
        transfer.items.add(new File([await (await fetch(url)).arrayBuffer()], name, { type }));
      }
      input.files = transfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    },
    files,
  );
}

/** The built page in a folder, with a model beside it as `cargo xtask site` puts it. */
export const serveSite = (site, model, { base = "/", ...options } = {}) => serve({ [base]: site, [`${base}model/`]: model }, options);
