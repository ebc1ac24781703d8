// Takes a state of the page in every view, colour scheme and language.

import { join } from "node:path";
import { click } from "../../pkg-tests/page/site.mjs";

export const DESKTOP = { name: "desktop", viewport: { width: 1280, height: 800 } };
export const PHONE = { name: "phone", viewport: { width: 360, height: 740, deviceScaleFactor: 2 }, touch: true };

/**
 * Returns a function that takes the pictures of a state: `STATE-VIEW-SCHEME-LANGUAGE.png`, scrolled to an element if its selector is given. It
 * leaves the page in English and in the first view.
 *
 * @param {import("puppeteer-core").Page} page
 * @param {{ out: string, views: { name: string, viewport: object, touch?: boolean, only?: string[] }[], languages: string[],
 *   schemes: string[], devtools?: import("puppeteer-core").CDPSession }} options `devtools`: for the emulation of a touch screen, in Chromium
 */
export function camera(page, { out, views, languages, schemes, devtools }) {
  // `hasTouch` of a viewport loads the page again.
  const emulateTouch = (enabled) => devtools?.send("Emulation.setTouchEmulationEnabled", { enabled });
  const settle = () => page.evaluate(() => new Promise((done) => setTimeout(done, 150)));
  const speak = async (language) => {
    const shown = await page.evaluate(() => document.documentElement.lang.slice(0, 2));
    if (shown !== language) await click(page, "language");
  };
  return async (state, shown) => {
    const before = await page.evaluate(() => document.documentElement.dataset.theme);
    for (const language of languages) {
      // Dialogs are modal: the language is changed behind them.
      await speak(language);
      for (const scheme of schemes) {
        // Not by emulation, which Firefox lacks.
        await page.evaluate((scheme) => (document.documentElement.dataset.theme = scheme), scheme);
        for (const { name, viewport, touch = false, only } of views) {
          if (only && !only.includes(state)) continue;
          await page.setViewport(viewport);
          await emulateTouch(touch);
          if (shown) await page.$eval(shown, (element) => element.scrollIntoView({ block: "center" }));
          await settle();
          await page.screenshot({ path: join(out, `${state}-${name}-${scheme}-${language}.png`) });
        }
      }
    }
    await page.evaluate((before) => (document.documentElement.dataset.theme = before), before);
    await page.setViewport(views[0].viewport);
    await emulateTouch(false);
    await speak("en");
    console.log(state);
  };
}
