// Pictures of a visitor's path: the name of a model, the plan of its conversion, the conversion, an interruption, the answer, and the answer
// without a connection. The Hub is a stand-in with a tiny model of random weights.
//   cargo xtask screenshots        (or: node tools/screenshots/path.mjs --browser firefox --program PROGRAM --site www/dist --model FOLDER
//                                   --checkpoint FOLDER --out FOLDER [--vulkan-icd FILE])

import { mkdir } from "node:fs/promises";
import { parseArgs } from "node:util";
import { launch, openPage } from "../../pkg-tests/browser.mjs";
import { filesOf, startHub } from "../../pkg-tests/hub.mjs";
import { ask, click, part, present, ready, serveSite, until } from "../../pkg-tests/page/site.mjs";
import { camera, DESKTOP, PHONE } from "./shoot.mjs";

const text = { type: "string" };
const { values } = parseArgs({
  options: {
    browser: text,
    program: text,
    "vulkan-icd": text,
    site: text,
    model: text,
    checkpoint: text,
    out: text,
    languages: { ...text, default: "en,zh" },
    schemes: { ...text, default: "light,dark" },
  },
});
const NAME = "example/Qwen3-VL-tiny";
/** The last turn of the conversation. */
const LAST = `${part("turns")} > li:last-child`;

await mkdir(values.out, { recursive: true });
const hub = await startHub({ [NAME]: { files: await filesOf(values.checkpoint), license: "apache-2.0" } });
const server = await serveSite(values.site, values.model);
const browser = await launch({ name: values.browser, program: values.program, vulkanIcd: values["vulkan-icd"] });
try {
  const { page } = await openPage(browser, "about:blank");
  await page.setViewport(DESKTOP.viewport);
  await page.evaluateOnNewDocument(
    (settings) => {
      // Firefox runs this in its blank page, too, which has no storage.
      if (location.protocol === "http:") localStorage.setItem("qwen-vl-web-settings", settings);
    },
    JSON.stringify({ hubUrl: hub.origin, sampling: "greedy", maxTokens: 8 }),
  );
  const take = camera(page, {
    out: values.out,
    views: [DESKTOP, PHONE],
    languages: values.languages.split(","),
    schemes: values.schemes.split(","),
    devtools: values.browser === "chromium" ? await page.createCDPSession() : undefined,
  });
  /** @param shown selector of an element to scroll to */
  const shoot = (step, name, shown) => take(`path-${values.browser}-${step}-${name}`, shown);
  await page.goto(server.origin);
  await ready(page);

  await click(page, "models");
  await present(page, "known");
  await page.type(part("url"), NAME);
  await page.focus(part("look"));
  await shoot(1, "name", part("url"));
  await click(page, "look");
  await present(page, "offer");
  await shoot(2, "plan", part("convert"));

  // The plan and the conversion read the list of tensors in two requests each. The weights wait.
  let release;
  const held = new Promise((resolve) => (release = resolve));
  hub.beforeStorage = (path, nth) => (path === "model.safetensors" && nth >= 4 ? held : undefined);
  await click(page, "convert");
  await until(page, () => document.querySelector('[data-testid="conversion-progress"]')?.textContent.includes("0 of"));
  await shoot(3, "progress");
  await click(page, "pause");
  await present(page, "resume");
  await shoot(4, "paused");
  await click(page, "close");
  await until(page, () => document.querySelector("dialog") === null);
  await shoot(5, "paused-behind");

  await present(page, "offline-ready");
  await page.reload();
  await ready(page);
  await click(page, "models");
  await present(page, "unfinished");
  await shoot(6, "unfinished");
  release();
  await click(page, "resume-unfinished");
  await until(page, (name) => document.querySelector('[data-testid="models"]').textContent.includes(name), NAME);
  await ready(page);
  console.log(await ask(page, "What is this?"));
  await shoot(7, "answer", LAST);

  hub.close();
  server.close();
  await page.reload();
  await ready(page);
  await click(page, "models");
  const stored = `[data-testid=stored] li[data-url="hf:${NAME}"]`;
  await until(page, (item) => document.querySelector(item) !== null, stored);
  // Chromium opens its own window, which is not in the picture.
  if (values.browser === "firefox") await click(page, `${stored} [data-testid=save]`);
  await shoot(8, "stored", stored);
  await click(page, `${stored} [data-testid=load-stored]`);
  await until(page, (name) => document.querySelector('[data-testid="models"]').textContent.includes(name), NAME);
  await ready(page);
  console.log(await ask(page, "And without a connection?"));
  await shoot(9, "offline-answer", LAST);
} finally {
  await browser.close();
  server.close();
  hub.close();
}
