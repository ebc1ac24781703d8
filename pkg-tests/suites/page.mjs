import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ask, click, giveFiles, part, present, ready, serveSite, textOf, until } from "../page/site.mjs";

/** What the model of these tests says; `crates/testkit/examples/test_checkpoints/scripted.rs`. */
const ANSWER = "This is a person.";
const NORM = [12, 34, 567, 890];
const FIRST_COLOR = "230,25,75,255";

/** The demo page, as a visitor uses it. Loading takes its time, so checks share what is loaded. */
export async function pageTests(context, bed) {
  const site = join(bed.repository, "www/dist");
  const model = join(bed.checkpoints, "scripted");

  /** A server of its own is an origin of its own: nothing is stored there yet. */
  async function visit(name, body, { base = "/", path = base, expected, handle } = {}) {
    await context.test(name, async (test) => {
      let server = await serveSite(site, model, { base, handle });
      const { origin } = server;
      const port = Number(new URL(origin).port);
      const connection = {
        origin,
        close: () => server.close(),
        async open(folder = site) {
          server = await serveSite(folder, model, { base, port });
        },
      };
      try {
        await bed.open(
          async (page) => {
            const foreign = [];
            page.on("request", (request) => {
              const url = new URL(request.url());
              // The empty page before asks for its icon.
              if (/^https?:$/.test(url.protocol) && ![origin, bed.origin].includes(url.origin)) foreign.push(url.href);
            });
            await page.setViewport({ width: 1200, height: 900 });
            await page.goto(origin + path);
            await body(page, test, connection);
            assert.deepEqual(foreign, [], "requests to other hosts");
          },
          { expected },
        );
      } finally {
        server.close();
      }
    });
  }

  await visit("the page: a conversation", async (page, test) => {
    await ready(page);
    await test.test("the first visit invites, and answers", () => firstVisit(page));
    await test.test("a second picture, hostile text, objects", () => secondPicture(page, bed));
    await test.test("stop, regenerate, edit", () => corrections(page));
    await test.test("a region by pointer and by keyboard", () => regions(page));
    await test.test("a chat goes into a file and back", () => exportAndImport(page));
    await test.test("a system prompt, sampling and a longest answer", () => choices(page));
    await test.test("two pictures compared", () => comparison(page, bed));
    await test.test("pictures come from everywhere", () => pictureSources(page));
    await test.test("models that are kept", () => keptModels(page));
    await test.test("no violations of accessibility rules", () => accessible(page));
  });

  await visit("the page: models from folders", async (page) => {
    await ready(page);
    const shards = JSON.parse(await readFile(join(model, "manifest.json"), "utf8")).shards.map(({ file }) => file);
    const files = ["manifest.json", "qwen.tiktoken", ...shards].map((name) => ({ name, url: `/model/${name}`, type: "" }));
    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", files.slice(1));
    await present(page, "error");
    assert.equal(await textOf(page, "error-code"), "MANIFEST_INVALID");
    // The model in use stays.
    assert.equal(await textOf(page, "status"), "Ready");

    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", files);
    await ready(page);
    assert.equal((await page.$$(part("error"))).length, 0);
    assert.equal(await ask(page, "What is this?"), ANSWER);

    // A file of another size is told by its name.
    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", [...files.slice(0, -1), { name: shards.at(-1), url: "/icon.svg", type: "" }]);
    await present(page, "error");
    assert.equal(await textOf(page, "error-code"), "INTEGRITY");
    assert.match(await textOf(page, "error-message"), new RegExp(shards.at(-1)));
  });

  await visit(
    "the page: without a connection, and a new version",
    async (page, test, connection) => {
      await ready(page);
      assert.equal(await ask(page, "What is this?"), ANSWER);
      await present(page, "offline-ready");

      if (bed.name === "chromium") await test.test("Chromium would install it", () => installable(page));

      await test.test("offline: the history is there, and it answers", async () => {
        connection.close();
        await page.reload();
        await ready(page);
        assert.equal(await textOf(page, "answer"), ANSWER);
        assert.equal((await objects(page)).length, 1);
        assert.equal(await ask(page, "And again?"), ANSWER);
      });

      await test.test("a new version takes over when it is asked to, and the weights stay", async () => {
        const next = await mkdtemp(join(tmpdir(), "qwen-vl-page-"));
        try {
          await nextVersion(site, next);
          const fetched = [];
          page.on("request", (request) => fetched.push(new URL(request.url()).pathname));
          await connection.open(next);
          await page.reload();
          await present(page, "update");
          assert.equal(await page.title(), "Qwen-VL Web");
          await Promise.all([page.waitForNavigation(), page.$eval(`${part("update")} button`, (button) => button.click())]);
          await ready(page);
          assert.equal(await page.title(), "Qwen-VL Web, next");
          assert.equal(await textOf(page, "answer"), ANSWER);
          assert.deepEqual(
            fetched.filter((path) => /shard|tiktoken/.test(path)),
            [],
            "weights were fetched again",
          );
        } finally {
          await rm(next, { recursive: true });
        }
      });
    },
    { expected: /Failed to load resource|net::ERR|NetworkError|ServiceWorker/ },
  );

  await visit(
    "the page: in a folder of a host, also without a connection",
    async (page, test, connection) => {
      const outside = [];
      page.on("request", (request) => {
        const { protocol, pathname } = new URL(request.url());
        if (/^https?:$/.test(protocol) && !pathname.startsWith("/some/where/")) outside.push(pathname);
      });
      await ready(page);
      assert.equal(await ask(page, "What is this?"), ANSWER);
      await present(page, "offline-ready");
      connection.close();
      await page.reload();
      await ready(page);
      assert.equal(await textOf(page, "answer"), ANSWER);
      assert.equal(await ask(page, "And again?"), ANSWER);
      assert.deepEqual(outside, []);
    },
    { base: "/some/where/", expected: /Failed to load resource|net::ERR|NetworkError|ServiceWorker/ },
  );

  /** The page's own script, in a browser that has no WebGPU. */
  const withoutWebGpu = async (path, response) => {
    if (!/\/index-[^/]*\.js$/.test(path)) return false;
    const script = await readFile(join(site, path), "utf8");
    response.writeHead(200, { "content-type": "text/javascript" }).end(`delete Navigator.prototype.gpu;${script}`);
    return true;
  };

  await visit(
    "the page: without WebGPU a small model answers all the same",
    async (page) => {
      await ready(page);
      assert.equal(await ask(page, "What is this?"), ANSWER);
      assert.match(await textOf(page, "model"), /the processor computes, without WebGPU/);
      await accessible(page);
    },
    { handle: withoutWebGpu },
  );

  await visit(
    "the page: without WebGPU a large model is refused before it is fetched",
    async (page) => {
      await present(page, "statement");
      assert.equal(await page.$eval(part("statement"), (statement) => statement.dataset.status), "unsupported");
      assert.match(await textOf(page, "statement"), /no WebGPU.*only small models run/);
      assert.equal(await page.$(part("load")), null);
      await accessible(page);
    },
    {
      path: "/?model=/large/",
      async handle(path, response) {
        if (path !== "/large/manifest.json") return withoutWebGpu(path, response);
        const manifest = JSON.parse(await readFile(join(model, "manifest.json"), "utf8"));
        manifest.tensors[0].shape = [1_000_000, 1000];
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(manifest));
        return true;
      },
    },
  );

  await visit(
    "the page: an address without a model",
    async (page) => {
      await present(page, "error");
      assert.equal(await textOf(page, "error-code"), "DOWNLOAD");
      assert.match(await textOf(page, "error-message"), /404/);
      assert.match(await textOf(page, "error-hint"), /address/);
      assert.equal(await textOf(page, "status"), "No model");
    },
    { path: "/?model=/nothing/", expected: /Failed to load resource/ },
  );

  await visit(
    "the page: a large model is announced before it is fetched",
    async (page) => {
      await present(page, "statement");
      const statement = await textOf(page, "statement");
      assert.match(statement, /8\.00\s*GB will be downloaded/);
      assert.match(statement, /Nothing of it is on this machine yet/);
      assert.match(statement, /takes about .* of GPU memory/);
      await accessible(page);
    },
    {
      path: "/?model=/large/",
      async handle(path, response) {
        // Whatever else would be fetched of it is not there, which the browser would report.
        if (path !== "/large/manifest.json") return false;
        const manifest = JSON.parse(await readFile(join(model, "manifest.json"), "utf8"));
        for (const shard of manifest.shards) shard.bytes = 8e9 / manifest.shards.length;
        for (const file of manifest.files) file.bytes = 0;
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(manifest));
        return true;
      },
    },
  );
}

const objects = (page) => page.$$eval("[data-object]", (items) => items.map((item) => JSON.parse(item.dataset.object)));

/** Waits until the big picture shows the box, and compares pixels of its border and of its inside. */
async function boxIsDrawn(page, width, height) {
  const [x1, y1, x2, y2] = NORM.map((value, at) => Math.trunc((value / 1000) * (at % 2 === 0 ? width : height)));
  const places = [Math.round((x1 + x2) / 2), Math.round((y1 + y2) / 2), x2, y2, x1];
  const read = (x, y, right, bottom, left) => {
    const canvas = document.querySelector('[data-testid="canvas"]');
    const context = canvas.getContext("2d");
    const at = (x, y) => [...context.getImageData(x, y, 1, 1).data].join();
    return { right: at(right, y), bottom: at(x, bottom), left: at(left, y), inside: at(x, y), size: [canvas.width, canvas.height] };
  };
  await until(
    page,
    (color, x, y) => {
      const context = document.querySelector('[data-testid="canvas"]').getContext("2d");
      return [...context.getImageData(x, y, 1, 1).data].join() === color;
    },
    FIRST_COLOR,
    x2,
    places[1],
  );
  const shown = await page.evaluate(read, ...places);
  assert.deepEqual(shown.size, [width, height]);
  assert.deepEqual([shown.right, shown.bottom, shown.left], [FIRST_COLOR, FIRST_COLOR, FIRST_COLOR]);
  assert.notEqual(shown.inside, FIRST_COLOR);
  assert.deepEqual((await objects(page))[0].pixels, [x1, y1, x2, y2]);
}

async function firstVisit(page) {
  assert.equal(await textOf(page, "status"), "Ready");
  assert.equal((await page.$$(part("pending"))).length, 1);
  assert.equal(await page.$eval(part("question"), (field) => field.value), "What is in the picture?");
  await click(page, "ask");
  await until(page, () => document.querySelector('[data-testid="timings"]')?.dataset.finished);
  assert.equal(await textOf(page, "answer"), ANSWER);
  assert.match(await textOf(page, "timings"), /tokens a second/);
  await boxIsDrawn(page, 448, 448);
}

async function secondPicture(page, bed) {
  const input = await page.$(part("picture"));
  await input.uploadFile(join(bed.repository, "tests/fixtures/images/photo_cat.png"));
  await present(page, "pending");
  assert.equal((await page.$$(".thumbs button")).length, 2);
  assert.equal(await ask(page, "Who is <b>this</b>?"), ANSWER);
  assert.deepEqual(await page.$$eval(part("asked"), (asked) => asked.map((item) => item.textContent)), [
    "What is in the picture?",
    "Who is <b>this</b>?",
  ]);
  await boxIsDrawn(page, 288, 256);

  // A phrase lights up its box, and the other way round.
  await page.$$eval(".phrase", (phrases) => phrases.at(-1).dispatchEvent(new PointerEvent("pointerenter")));
  await until(page, () => document.querySelector(".object.on") !== null && document.querySelector(".shapes .on") !== null);
  await page.$$eval(".phrase", (phrases) => phrases.at(-1).dispatchEvent(new PointerEvent("pointerleave")));
  await until(page, () => document.querySelector(".object.on") === null);

  // The first picture, with what was said of it.
  await page.$$eval(".answered", (answers) => answers[0].dispatchEvent(new PointerEvent("pointerenter")));
  await boxIsDrawn(page, 448, 448);

  // The picture as a file.
  const file = await saved(page, "download", async (blob) => {
    const bitmap = await createImageBitmap(blob);
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return { type: blob.type, pixel: [...context.getImageData(Math.trunc(bitmap.width * 0.567), bitmap.height / 2, 1, 1).data].join() };
  });
  assert.deepEqual(file, { name: "A scene-boxes.png", content: { type: "image/png", pixel: FIRST_COLOR } });

  const copied = page.evaluate(() => new Promise((resolve) => (navigator.clipboard.writeText = async (text) => resolve(text))));
  await click(page, "copy-json");
  assert.deepEqual(JSON.parse(await copied), await objects(page));
}

/** What a click offers as a file; `read` runs in the page. */
async function saved(page, id, read) {
  return page.evaluate(
    async (selector, source) => {
      const link = await new Promise((resolve) => {
        const click = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = function () {
          HTMLAnchorElement.prototype.click = click;
          resolve({ name: this.download, url: this.href });
        };
        document.querySelector(selector).click();
      });
      const blob = await (await fetch(link.url)).blob();
      const content = source === "text" ? await blob.text() : await window[source](blob);
      return { name: link.name, content };
    },
    part(id),
    read === "text" ? "text" : await expose(page, read),
  );
}

/** Brings a function into the page, whose policy forbids to compile text there. */
async function expose(page, body) {
  await page.evaluate(`window.exposed = ${body}`);
  return "exposed";
}

async function corrections(page) {
  const finished = () => page.$$eval(part("timings"), (items) => items.map((item) => item.dataset.finished));
  // Stopped at the first word by the page's own button.
  await page.evaluate(() => {
    new MutationObserver((_, observer) => {
      const answers = [...document.querySelectorAll('[data-testid="answer"]')];
      const stop = document.querySelector('[data-testid="stop"]');
      if (answers.length < 3 || answers[2].textContent === "" || !stop) return;
      observer.disconnect();
      stop.click();
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  });
  const cut = await ask(page, "Again?");
  assert.deepEqual(await finished(), ["stop", "stop", "cancelled"]);
  assert.ok(cut.length > 0 && cut.length < ANSWER.length, cut);

  await click(page, "regenerate");
  await until(page, () => document.querySelectorAll('[data-testid="timings"][data-finished="stop"]').length === 3);
  assert.equal(await page.$$eval(part("answer"), (answers) => answers.at(-1).textContent), ANSWER);

  await click(page, "edit");
  assert.equal(await page.$eval(part("question"), (field) => field.value), "Again?");
  assert.equal((await page.$$(part("answer"))).length, 2);
  assert.equal(await ask(page, "Edited?"), ANSWER);
  assert.equal(await page.$$eval(part("asked"), (asked) => asked.at(-1).textContent), "Edited?");
}

/** Sets a field as a user does. */
const set = (page, selector, value) =>
  page.$eval(
    selector,
    (field, value) => {
      field.value = value;
      for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
    },
    value,
  );

async function choices(page) {
  // What the package is asked shows what the settings do; the model of these tests says the same to everything.
  await page.evaluate(() => {
    const { prototype } = Worker;
    const { postMessage } = prototype;
    window.asked = [];
    prototype.postMessage = function (message, ...rest) {
      if (message.kind === "ask") window.asked.push(message.request);
      return postMessage.call(this, message, ...rest);
    };
  });
  await click(page, "settings");
  await present(page, "system");
  await set(page, part("system"), "You answer in one word.");
  await set(page, part("sampling"), "own");
  await until(page, () => document.querySelectorAll(".number input").length === 5);
  for (const [index, value] of [0.55, 0.45, 7, 1234, 2].entries()) {
    const field = (await page.$$(".number input"))[index];
    await field.evaluate((field, value) => {
      field.value = value;
      field.dispatchEvent(new Event("change", { bubbles: true }));
    }, value);
  }
  await page.keyboard.press("Escape");
  const cut = await ask(page, "With settings?");
  assert.ok(cut.length > 0 && cut.length < ANSWER.length, cut);
  assert.equal(await page.$$eval(part("timings"), (items) => items.at(-1).dataset.finished), "length");
  const asked = await page.evaluate(() => window.asked.at(-1));
  assert.equal(asked.prompt.system, "You answer in one word.");
  const { max_new_tokens, greedy, temperature, top_p, top_k, seed } = asked.generation;
  assert.deepEqual([greedy, temperature, top_p, top_k, seed, max_new_tokens], [false, 0.55, 0.45, 7, 1234, 2]);

  await click(page, "settings");
  await present(page, "system");
  await set(page, part("system"), "");
  await set(page, part("sampling"), "model");
  await until(page, () => document.querySelectorAll(".number input").length === 2);
  for (const field of await page.$$(".number input")) {
    await field.evaluate((field) => {
      field.value = "";
      field.dispatchEvent(new Event("change", { bubbles: true }));
    });
  }
  await page.keyboard.press("Escape");
  assert.equal(await ask(page, "Without settings?"), ANSWER);
  const { prompt, generation } = await page.evaluate(() => window.asked.at(-1));
  assert.equal(prompt.system, undefined);
  assert.deepEqual([generation.temperature, generation.seed, generation.max_new_tokens], [undefined, undefined, undefined]);
}

async function comparison(page, bed) {
  const input = await page.$(part("picture"));
  await input.uploadFile(...["photo_rocket.png", "photo_cat.png"].map((name) => join(bed.repository, "tests/fixtures/images", name)));
  await until(page, () => document.querySelectorAll('[data-testid="pending"]').length === 2);
  await click(page, "task-compare");
  const question = await page.$eval(part("question"), (field) => field.value);
  const pictures = (await page.$$(".thumbs button")).length;
  assert.equal(question, `What is different between Picture ${pictures - 1} and Picture ${pictures}?`);
  assert.equal(await ask(page, question), ANSWER);
  assert.equal((await page.$$(part("pending"))).length, 0);
}

async function regions(page) {
  await click(page, "task-region");
  await present(page, "region");
  const area = await (await page.$(part("region"))).boundingBox();
  const at = (x, y) => [area.x + area.width * x, area.y + area.height * y];
  await page.mouse.move(...at(0.25, 0.25));
  await page.mouse.down();
  await page.mouse.move(...at(0.5, 0.5));
  await page.mouse.move(...at(0.75, 0.5));
  await page.mouse.up();
  await present(page, "region-chip");
  const numbers = (await textOf(page, "region-chip")).match(/\d+/g).map(Number);
  [250, 250, 750, 500].forEach((expected, at) => assert.ok(Math.abs(numbers[at] - expected) <= 5, `${numbers}`));
  await page.$eval(`${part("region-chip")} button`, (button) => button.click());

  await click(page, "task-region");
  await present(page, "region");
  await page.focus(part("region"));
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.down("Shift");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.up("Shift");
  await page.keyboard.press("Enter");
  await present(page, "region-chip");
  assert.deepEqual((await textOf(page, "region-chip")).match(/\d+/g).map(Number), [280, 300, 680, 720]);
  assert.equal(await ask(page, "What is ▢?"), ANSWER);
  assert.deepEqual(await page.$$eval(".asked .chip", (chips) => chips.map((chip) => chip.textContent)), ["Region 280, 300, 680, 720"]);
}

async function exportAndImport(page) {
  const before = await page.$$eval(".turns > li", (turns) => turns.map((turn) => turn.textContent));
  const { name, content } = await saved(page, "export", "text");
  assert.equal(name, "chat.json");
  const chat = JSON.parse(content);
  assert.equal(chat.turns.length, 4);
  assert.match(chat.pictures[0].data, /^data:image\/png;base64,/);

  await click(page, "reset");
  await until(page, () => document.querySelectorAll('[data-testid="answer"]').length === 0);
  const give = (text) =>
    page.$eval(
      part("import"),
      (input, text) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([text], "<i>chat</i>.json", { type: "application/json" }));
        input.files = transfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
      },
      text,
    );
  // What is no chat changes nothing.
  await give(JSON.stringify({ ...chat, pictures: [{ id: "1", name: "", data: "https://example.org/spy.png" }] }));
  await present(page, "error");
  await give(content);
  await until(page, () => document.querySelectorAll('[data-testid="answer"]').length === 4);
  const after = await page.$$eval(".turns > li", (turns) => turns.map((turn) => turn.textContent));
  // Measurements of other machines are left out.
  const words = (texts) => texts.map((text) => text.slice(0, text.indexOf(ANSWER) + ANSWER.length));
  assert.deepEqual(words(after), words(before));
  await page.$$eval(".answered", (answers) => answers[1].dispatchEvent(new PointerEvent("pointerenter")));
  await boxIsDrawn(page, 288, 256);
  await click(page, "reset");
}

async function pictureSources(page) {
  const pending = (count) => until(page, (count) => document.querySelectorAll('[data-testid="pending"]').length === count, count);
  await click(page, "gallery");
  await click(page, "gallery-rocket");
  await pending(1);

  await click(page, "scene");
  await present(page, "board");
  await click(page, "shuffle");
  await page.focus(".board .item");
  const left = () => page.$eval(".board .item", (item) => item.style.left);
  const before = await left();
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await left(), before);
  await click(page, "scene-use");
  await pending(2);
  // The picture of the scene is the one that is shown.
  await until(page, () => {
    const { width, height } = document.querySelector('[data-testid="canvas"]');
    return width === 448 && height === 448;
  });

  const dispatch = (kind, name, type, url) =>
    page.evaluate(
      async (kind, name, type, url) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([await (await fetch(url)).blob()], name, { type }));
        // Not every browser lets a page make these events with files.
        const event = new Event(kind, { bubbles: true, cancelable: true });
        Object.defineProperty(event, kind === "paste" ? "clipboardData" : "dataTransfer", { value: transfer });
        document.body.dispatchEvent(event);
      },
      kind,
      name,
      type,
      url,
    );
  await dispatch("drop", "dropped.png", "image/png", "gallery/menu.png");
  await pending(3);
  await dispatch("paste", "pasted.png", "image/png", "gallery/street.png");
  await pending(4);
  // The name of a file is text.
  await dispatch("drop", "<img src=x onerror=alert(1)>.png", "image/png", "manifest.webmanifest");
  await until(page, () => document.querySelector('[data-testid="error"]')?.textContent.includes("<img src=x onerror=alert(1)>.png"));

  // Four frames of a video.
  await page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    const context = canvas.getContext("2d");
    const recorder = new MediaRecorder(canvas.captureStream(25));
    const pieces = [];
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    const ended = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.start();
    for (let frame = 0; frame < 25; frame++) {
      context.fillStyle = `rgb(${frame * 10} 100 50)`;
      context.fillRect(0, 0, 64, 64);
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
    recorder.stop();
    await ended;
    const transfer = new DataTransfer();
    transfer.items.add(new File(pieces, "film.webm", { type: "video/webm" }));
    const input = document.querySelector('[data-testid="picture"]');
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  await pending(8);

  // A camera that shows a canvas.
  await page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = 320;
    canvas.height = 240;
    const context = canvas.getContext("2d");
    setInterval(() => context.fillRect(0, 0, 320, 240), 50);
    navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(10);
  });
  await click(page, "camera");
  await until(page, () => document.querySelector('[data-testid="shoot"]')?.disabled === false);
  await click(page, "shoot");
  await pending(9);
  await click(page, "reset");
  await pending(0);
}

async function keptModels(page) {
  await click(page, "models");
  await until(page, () => document.querySelector("[data-testid=stored] li") !== null);
  assert.match(await textOf(page, "stored"), /random.*complete/s);
  await click(page, "verify");
  await until(page, () => document.querySelector('[data-testid="outcome"]').textContent !== "");
  assert.equal(await textOf(page, "outcome"), "All bytes are right.");
  await until(page, () => document.querySelector('[data-testid="delete"]')?.disabled === false);
  await click(page, "delete");
  await until(page, () => document.querySelector("[data-testid=stored] li") === null);
  await click(page, "close");
  await until(page, () => document.querySelector("dialog") === null);
}

/** axe-core on the page and on each dialog, in both colour schemes and languages. */
async function accessible(page) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(axe);
  const check = async (state) => {
    const violations = await page.evaluate(async () => {
      const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
      return violations.map(
        ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(" | ")}`,
      );
    });
    assert.deepEqual(violations, [], state);
  };
  for (const theme of ["light", "dark"]) {
    // By the page's own setting, which works in every browser.
    await page.evaluate((theme) => (document.documentElement.style.colorScheme = theme), theme);
    await check(`page, ${theme}`);
    if ((await page.$("dialog")) !== null) continue;
    for (const name of ["models", "settings", "gallery", "scene"]) {
      await click(page, name);
      await present(page, `dialog-${name}`);
      await check(`${name}, ${theme}`);
      await click(page, "close");
      await until(page, () => document.querySelector("dialog") === null);
    }
  }
  if ((await page.$("dialog")) === null) {
    await click(page, "language");
    await until(page, () => document.documentElement.lang === "zh-CN");
    await check("page, Chinese");
    await click(page, "language");
  }
}

/** Chromium's own opinion: manifest, icons and service worker. */
async function installable(page) {
  const client = await page.createCDPSession();
  const { errors, data } = await client.send("Page.getAppManifest");
  assert.deepEqual(errors, []);
  assert.equal(JSON.parse(data).display, "standalone");
  const { installabilityErrors } = await client.send("Page.getInstallabilityErrors");
  // Windows without a profile, as those of tests, can not install anything.
  assert.deepEqual(
    installabilityErrors.filter(({ errorId }) => errorId !== "in-incognito"),
    [],
  );
  await until(page, async () => (await navigator.serviceWorker.getRegistration())?.active?.state === "activated");
}

/** The site as a later build would leave it: another page, and a service worker that knows it. */
async function nextVersion(site, folder) {
  await cp(site, folder, { recursive: true });
  const html = join(folder, "index.html");
  await writeFile(html, (await readFile(html, "utf8")).replace("<title>Qwen-VL Web</title>", "<title>Qwen-VL Web, next</title>"));
  const worker = join(folder, "sw.js");
  const before = await readFile(worker, "utf8");
  const after = before.replace(/(?<=url:"index\.html",revision:")[0-9a-f]+/, "next");
  assert.notEqual(after, before, "the service worker does not name index.html as expected");
  await writeFile(worker, after);
}
