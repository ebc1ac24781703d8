import assert from "node:assert/strict";
import { join } from "node:path";

const part = (id) => `[data-testid="${id}"]`;
const TIMEOUT_MS = 5 * 60_000;

/** Waits until an expression about the page is true. */
const until = (page, body, ...parameters) => page.waitForFunction(body, { timeout: TIMEOUT_MS, polling: 50 }, ...parameters);
const textOf = (page, id) => page.$eval(part(id), (element) => element.textContent);

/** The demo page, as a visitor uses it. */
export async function pageTests(context, bed) {
  await context.test("the page answers and draws the box", () =>
    bed.open(
      async (page) => {
        await until(page, () => !document.querySelector('[data-testid="ask"]').disabled);
        assert.equal(await textOf(page, "status"), "Ready");

        const input = await page.$(part("picture"));
        await input.uploadFile(join(bed.repository, "tests/fixtures/images/photo_cat.png"));
        await until(page, () => !document.querySelector('[data-testid="canvas"]').hidden);
        // Markup in a question is text.
        await page.type(part("question"), "Who is <b>this</b>?");
        await page.click(part("ask"));
        await until(page, () => document.querySelector('[data-testid="timings"]')?.dataset.finished);
        assert.equal(await page.$eval(".turns .asked", (element) => element.textContent), "Who is <b>this</b>?");
        assert.equal(await textOf(page, "answer"), "This is a person.");
        assert.match(await textOf(page, "timings"), /prompt tokens .* tokens, [\d.]+ a second$/);

        const objects = await page.$$eval("[data-object]", (items) => items.map((item) => JSON.parse(item.dataset.object)));
        assert.equal(objects.length, 1);
        const [x1, y1, x2, y2] = objects[0].pixels;
        const shown = await page.$eval(
          part("canvas"),
          (canvas, x, y, right, bottom) => {
            const context = canvas.getContext("2d");
            const at = (x, y) => [...context.getImageData(x, y, 1, 1).data].join();
            return { right: at(right, y), bottom: at(x, bottom), inside: at(x, y), size: [canvas.width, canvas.height] };
          },
          Math.round((x1 + x2) / 2),
          Math.round((y1 + y2) / 2),
          x2,
          y2,
        );
        assert.deepEqual(shown.size, [288, 256]);
        assert.equal(shown.right, "230,25,75,255");
        assert.equal(shown.bottom, shown.right);
        assert.notEqual(shown.inside, shown.right);

        // A second question about the same picture, stopped, and asked again.
        await page.type(part("question"), "Again?");
        await page.click(part("ask"));
        await until(page, () => document.querySelectorAll('[data-testid="answer"]')[1]?.textContent !== "");
        await page.click(part("stop"));
        await until(page, () => document.querySelectorAll('[data-testid="timings"]')[1]?.dataset.finished);
        await page.type(part("question"), "Again?");
        await page.click(part("ask"));
        await until(page, () => document.querySelectorAll('[data-testid="timings"]')[2]?.dataset.finished === "stop");
        const answers = await page.$$eval(part("answer"), (items) => items.map((item) => item.textContent));
        assert.equal(answers[2], "This is a person.");

        await page.click(part("reset"));
        assert.deepEqual(await page.$$(part("answer")), []);
      },
      { path: "/page/?model=/checkpoints/scripted/" },
    ),
  );

  await context.test("the page says what is wrong with an address", () =>
    bed.open(
      async (page) => {
        await until(page, () => !document.querySelector('[data-testid="error"]').hidden);
        assert.equal(await textOf(page, "error-code"), "DOWNLOAD");
        assert.match(await textOf(page, "error-message"), /404/);
        assert.match(await textOf(page, "error-hint"), /address/);
        assert.equal(await textOf(page, "status"), "No model");
      },
      { path: "/page/?model=/checkpoints/nothing/", expected: /Failed to load resource/ },
    ),
  );
}
