// Pictures of the main states of the page: desktop and phone, light and dark, English and Chinese.
//   cargo xtask screenshots        (or: node tools/screenshots/states.mjs --chromium PROGRAM --site www/dist --model FOLDER --out FOLDER)

import { mkdir } from "node:fs/promises";
import { parseArgs } from "node:util";
import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { ask, click, compose, part, present, ready, serveSite, until } from "../../pkg-tests/page/site.mjs";
import { camera, DESKTOP, PHONE } from "./shoot.mjs";

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

const shoot = camera(page, {
  out: values.out,
  views: [DESKTOP, { name: "wide", viewport: { width: 1920, height: 1000 }, only: ["answer"] }, PHONE],
  languages: values.languages.split(","),
  schemes: values.schemes.split(","),
  devtools: await page.createCDPSession(),
});

async function dialog(name, prepare = async () => {}) {
  await click(page, name);
  await present(page, `dialog-${name}`);
  await prepare();
  await shoot(name);
  await page.keyboard.press("Escape");
  await until(page, () => document.querySelector("dialog") === null);
}

try {
  await page.setViewport(DESKTOP.viewport);
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
  await shoot("answer");
  await click(page, "details");
  await shoot("details");
  await page.$eval(part("panel"), (panel) => (panel.open = false));
  for (const name of ["attach", "tasks", "chat"]) {
    await click(page, `menu-${name}`);
    await shoot(name);
    await click(page, `menu-${name}`);
  }
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
