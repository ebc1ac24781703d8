// Pictures of the main states of the page: desktop and phone, light and dark, English and Chinese.
//   cargo xtask screenshots        (or: node tools/screenshots.mjs --chromium PROGRAM --site www/dist --model FOLDER --out FOLDER)

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { ask, click, compose, part, present, ready, serveSite, until } from "../pkg-tests/page/site.mjs";

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    chromium: text,
    site: text,
    model: text,
    out: text,
    languages: { ...text, default: "en,zh" },
    schemes: { ...text, default: "light,dark" },
  },
});
const VIEWS = [
  { name: "desktop", viewport: { width: 1280, height: 800 } },
  { name: "wide", viewport: { width: 1920, height: 1000 }, only: ["answer"] },
  { name: "phone", viewport: { width: 360, height: 740, deviceScaleFactor: 2 }, touch: true },
];

await mkdir(values.out, { recursive: true });
/** Until this promise resolves, the server withholds the model's shards, as on a slow connection. */
let held = Promise.resolve();
const server = await serveSite(values.site, values.model, {
  async handle(path) {
    if (path.includes("/model/shard-")) await held;
    return false;
  },
});
const browser = await launch({ name: "chromium", program: values.chromium });
let release;
held = new Promise((resolve) => (release = resolve));
const { page } = await openPage(browser, `${server.origin}/`);

const devtools = await page.createCDPSession();
/** Emulates a touch screen. `hasTouch` of a viewport loads the page again. */
const emulateTouch = (enabled) => devtools.send("Emulation.setTouchEmulationEnabled", { enabled });
const settle = () => page.evaluate(() => new Promise((done) => setTimeout(done, 150)));

/** Takes a state in every view, colour scheme and language. */
async function shoot(state) {
  for (const language of values.languages.split(",")) {
    const shown = await page.evaluate(() => document.documentElement.lang.slice(0, 2));
    if (shown !== language) await click(page, "language");
    for (const scheme of values.schemes.split(",")) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      for (const { name, viewport, touch = false, only } of VIEWS) {
        if (only && !only.includes(state)) continue;
        await page.setViewport(viewport);
        await emulateTouch(touch);
        await settle();
        await page.screenshot({ path: join(values.out, `${state}-${name}-${scheme}-${language}.png`) });
      }
    }
  }
  await page.setViewport(VIEWS[0].viewport);
  await emulateTouch(false);
  const shown = await page.evaluate(() => document.documentElement.lang.slice(0, 2));
  if (shown !== "en") await click(page, "language");
  console.log(state);
}

async function dialog(name, prepare = async () => {}) {
  await click(page, name);
  await present(page, `dialog-${name}`);
  await prepare();
  // Dialogs are modal: the language is changed behind them.
  await shoot(name);
  await page.keyboard.press("Escape");
  await until(page, () => document.querySelector("dialog") === null);
}

try {
  await page.setViewport(VIEWS[0].viewport);
  await present(page, "loading");
  await shoot("loading");
  release();
  await ready(page);
  await shoot("first");
  // Composed by hand: the model's world, but not its generator.
  await compose(page, [
    ["cat", 0.2, 0.22],
    ["banana", 0.8, 0.5],
    ["red circle", 0.3, 0.8],
  ]);
  for (const question of ["What is in the picture?", "Find the banana."]) console.log(`${question} ${await ask(page, question)}`);
  await shoot("boxes");
  for (const question of ["Is there a dog?", "猫在哪里？", "What color is the circle?"])
    console.log(`${question} ${await ask(page, question)}`);
  await page.$eval(`${part("panel")}`, (panel) => (panel.open = true));
  await shoot("answer");
  await click(page, "task-region");
  await shoot("region");
  await page.keyboard.press("Escape");
  await dialog("gallery", () => until(page, () => [...document.querySelectorAll(".gallery-list img")].every((image) => image.complete)));
  await dialog("scene");
  await dialog("models", () => until(page, () => document.querySelector("[data-testid=stored] li") !== null));
  await dialog("settings");
  await page.goto(`${server.origin}/?model=/nothing/`);
  await present(page, "error");
  await shoot("error");
} finally {
  await browser.close();
  server.close();
}
