// Serves the demo page with a model and prints its address; with --ask, asks in a browser without a screen, prints the answer, and ends.
// `cargo xtask demo` calls it with:
//   --site FOLDER --model FOLDER_OR_URL --port N [--ask TEXT [--image FILE] --chromium PROGRAM]

import { parseArgs } from "node:util";
import { launch, openPage } from "../pkg-tests/browser.mjs";
import { click, part, write } from "../pkg-tests/page/site.mjs";
import { serve } from "../pkg-tests/server.mjs";

const text = { type: "string" };
const { values } = parseArgs({ options: { site: text, model: text, port: text, ask: text, image: text, chromium: text } });
const remote = /^https?:/.test(values.model);
const folders = { "/": values.site, ...(remote ? {} : { "/model/": values.model }) };
const server = await serve(folders, { port: Number(values.port) }).catch((error) => {
  if (error.code !== "EADDRINUSE") throw error;
  console.error(`port ${values.port} is taken: choose another with --port`);
  process.exit(1);
});
const address = `${server.origin}/${remote ? `?model=${encodeURIComponent(values.model)}` : ""}`;
console.log(`\nQwen-VL Web: ${address}\n`);

if (values.ask !== undefined) {
  const ok = await askWithoutScreen();
  server.close();
  process.exit(ok ? 0 : 1);
}

async function askWithoutScreen() {
  const browser = await launch({ name: "chromium", program: values.chromium });
  try {
    const { page, problems } = await openPage(browser, address);
    const read = () =>
      page.evaluate(() => {
        const find = (id) => document.querySelector(`[data-testid="${id}"]`);
        const text = (id) => find(id)?.textContent ?? "";
        return {
          error: ["error-code", "error-message", "error-hint"].map(text).filter(Boolean).join(" ") || text("error"),
          ready: find("ask")?.disabled === false,
          pictures: document.querySelectorAll('[data-testid="pending"]').length,
          answer: text("answer"),
          timings: text("timings"),
          finished: find("timings")?.dataset.finished,
          model: [...document.querySelectorAll('[data-testid="model"] div')].map((row) =>
            [...row.children].map((cell) => cell.textContent).join(": "),
          ),
          objects: [...document.querySelectorAll("[data-object]")].map((item) => JSON.parse(item.dataset.object)),
        };
      });
    /** Looks at the page until `done`; false if it reports an error. */
    async function until(done) {
      for (;;) {
        const state = await read();
        if (state.error || problems.length > 0) {
          console.error([state.error, ...problems].filter(Boolean).join("\n"));
          return false;
        }
        if (done(state)) return state;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }

    const loaded = await until((state) => state.ready);
    if (!loaded) return false;
    console.log(`model     ${loaded.model.join("\n          ")}`);
    // Without the example of a first visit.
    await click(page, "reset");
    if (values.image) {
      const input = await page.$(part("picture"));
      await input.uploadFile(values.image);
      if (!(await until((state) => state.pictures === 1))) return false;
    }
    await write(page, values.ask);
    await click(page, "ask");
    console.log(`question  ${values.ask}`);
    process.stdout.write("answer    ");
    let printed = 0;
    const finished = await until((state) => {
      process.stdout.write(state.answer.slice(printed));
      printed = Math.max(printed, state.answer.length);
      return state.finished !== undefined;
    });
    console.log();
    if (!finished) return false;
    console.log(`objects   ${finished.objects.length === 0 ? "none" : ""}`);
    for (const object of finished.objects) console.log(`          ${JSON.stringify(object)}`);
    console.log(`timings   ${finished.timings}`);
    console.log("adapter   SwiftShader, in software: no measure of speed");
    return true;
  } finally {
    await browser.close();
  }
}
