import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32, deflateSync } from "node:zlib";
import { filesOf, startHub } from "../hub.mjs";
import { fitsScreens, SCREENS, touchScreen } from "../page/layout.mjs";
import { ask, click, giveFiles, part, present, ready, serveSite, textOf, until, write } from "../page/site.mjs";
import { recordFilm } from "../film.mjs";

/** Answer of the models of these tests: `crates/testkit/examples/test_checkpoints/scripted.rs`. */
const ANSWER = "This is a person.";
const NORM = [12, 34, 567, 890];
/** The answer of Qwen3-VL as it is written. */
const JSON_RAW = `${ANSWER}\n\n[{"bbox_2d"\n: [13,4 ,567,\n890],"label": "person"\n\n} ]`;
const JSON_NORM = [13, 4, 567, 890];
const FIRST_COLOR = "230,25,75,255";
const VIEWPORT = { width: 1200, height: 900 };

/** Tests the demo page as a visitor uses it. */
export function pageTests(bed) {
  const site = join(bed.repository, "www/dist");
  const model = join(bed.checkpoints, "scripted");
  /** Reports requests to other hosts than these. */
  function watchRequests(page, problems, origins) {
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (/^https?:$/.test(url.protocol) && !origins.includes(url.origin)) problems.push(`request to another host: ${url.href}`);
    });
  }

  /**
   * Registers a test that opens the page on a new origin, where nothing is stored yet.
   *
   * @param {{ viewport?: object, prepare?: (page) => Promise<void>, folder?: string }} options `prepare` runs before the page is opened;
   *   `folder` is that of the model; `others` returns further origins that the page may ask
   */
  function visit(name, body, options = {}) {
    const { base = "/", path = base, expected, handle, viewport = VIEWPORT, prepare, folder = model, others = () => [] } = options;
    bed.test(`the page: ${name}`, async (test) => {
      await closeShared();
      let server = await serveSite(site, folder, { base, handle });
      const { origin } = server;
      const port = Number(new URL(origin).port);
      const connection = {
        origin,
        close: () => server.close(),
        async open(files = site) {
          server = await serveSite(files, folder, { base, port });
        },
      };
      try {
        await bed.open(
          async (page) => {
            const foreign = [];
            // The blank page of `bed.open` requests its icon.
            await page.setViewport(viewport);
            await prepare?.(page);
            watchRequests(page, foreign, [origin, bed.origin, ...others()]);
            await page.goto(origin + path);
            await body(page, test, connection);
            assert.deepEqual(foreign, []);
          },
          { expected },
        );
      } finally {
        server.close();
      }
    });
  }

  /** The page that successive chat tests share, because loading a model takes seconds. */
  let shared;

  async function openShared() {
    const server = await serveSite(site, model);
    const { page, problems } = await bed.openPage("/");
    watchRequests(page, problems, [server.origin, bed.origin]);
    await page.setViewport(VIEWPORT);
    await page.goto(server.origin);
    await ready(page);
    return { server, page, problems };
  }

  async function closeShared() {
    const open = shared;
    shared = undefined;
    await open?.page.close();
    open?.server.close();
  }
  bed.cleanup(closeShared);

  /** Registers a test that starts with a new chat, on a page that is used again unless a test on it fails. */
  function chat(name, body) {
    bed.test(`the page: ${name}`, async () => {
      shared ??= await openShared();
      const { page, problems } = shared;
      let passed = false;
      try {
        await click(page, "reset");
        await until(page, () => document.querySelector('[data-testid="answer"], [data-testid="pending"]') === null);
        await body(page, bed);
        assert.deepEqual(problems.splice(0), []);
        passed = true;
      } finally {
        if (!passed) await closeShared();
      }
    });
  }

  chat("two pictures, hostile text, objects", twoPictures);
  chat("stop, regenerate, edit", corrections);
  chat("a region by pointer and by keyboard", regions);
  chat("a chat is saved and opened", exportAndImport);
  chat("a new chat stays new while an answer is being prepared", newChats);
  chat("tags in a question are text", tagsAreText);
  chat("a system prompt, sampling and a longest answer", choices);
  chat("two pictures compared", comparison);
  chat("pictures from all sources", pictureSources);
  chat("a picture that is too large or unreadable", difficultPictures);
  chat("no violations of accessibility rules", accessibleChat);
  chat("menus by keyboard and by pointer", menus);
  chat("the conversation follows its end, unless the reader has scrolled up", following);
  chat("stored models", keptModels);
  visit("the first visit invites, and answers", firstVisit);
  bed.test("the page: a visit stores one wasm file, that of WebGPU", async () => {
    const worker = await readFile(join(bed.repository, "www/dist/sw.js"), "utf8");
    const stored = worker.match(/qwen_vl_web[a-z_]*_bg(?=-[\w-]+\.wasm)/g);
    assert.deepEqual(stored, ["qwen_vl_web_bg"]);
  });

  conversion();
  fitsAllScreens();
  visit("a model of Qwen3-VL: pictures of any size, objects in JSON", laterModel, { folder: join(bed.checkpoints, "scripted-q3") });

  /** From published checkpoints to answers. */
  function conversion() {
    const checkpoint = join(bed.repository, "tests/fixtures/family/checkpoints/q3-a");
    let hub;
    const prepare = async (page) => {
      const started = await startHub({ "test/q3-a": { files: await filesOf(checkpoint), license: "apache-2.0" } });
      bed.cleanup(() => started.close());
      hub = started;
      const settings = { hubUrl: hub.origin, sampling: "greedy", maxTokens: 8 };
      await page.evaluateOnNewDocument((text) => {
        // Firefox runs this in its blank page, too, which has no storage.
        if (location.protocol === "http:") localStorage.setItem("qwen-vl-web-settings", text);
      }, JSON.stringify(settings));
      await page.evaluateOnNewDocument(holdWorkers);
    };
    const options = { prepare, others: () => [hub.origin, hub.storageOrigin] };
    const run = (body) => (page, test, connection) => body(page, { bed, hub, connection });
    visit("a model by its name: plan, conversion, answer, offline", run(byName), options);
    visit("a conversion that a reload interrupts is listed and resumed", run(resumedAfterReload), options);
    visit("a conversion that a reload interrupts is deleted without a connection", run(deletedAfterReload), {
      ...options,
      expected: /Failed to load resource|net::ERR|NetworkError|ServiceWorker/,
    });
    visit("a conversion of a folder is resumed with the same folder only", (page) => resumedFolder(page, checkpoint), {
      prepare,
      async handle(path, response) {
        if (!path.startsWith("/checkpoint/")) return false;
        response.writeHead(200).end(await readFile(join(checkpoint, path.slice("/checkpoint/".length))));
        return true;
      },
    });
    visit("a converted model is saved to a folder", run(savedToFolder), options);
  }

  /** A visit on a touch screen, through the main states of the page. */
  function fitsAllScreens() {
    let release;
    const held = new Promise((resolve) => (release = resolve));
    const body = async (page) => {
      await present(page, "loading");
      await fitsScreens(page, "loading");
      release();
      await ready(page);
      await present(page, "offline-ready");
      await fitsScreens(page, "a picture and a notice");
      await page.$eval(`${part("pending")} button`, (button) => button.click());
      await until(page, () => document.querySelector('[data-testid="pending"]') === null);
      await fitsScreens(page, "empty");

      await click(page, "gallery");
      await click(page, "gallery-rocket");
      await present(page, "pending");
      const long = "a-word-that-does-not-fit-into-a-line-".repeat(4);
      assert.equal(await ask(page, `What is ${long}?`), ANSWER);
      await until(page, () => {
        const [pane, answer] = ["talk", "answer"].map((id) => {
          return [...document.querySelectorAll(`[data-testid="${id}"]`)].at(-1).getBoundingClientRect();
        });
        return answer.top >= pane.top && answer.bottom <= pane.bottom;
      });
      await page.$eval(part("panel"), (panel) => (panel.open = true));
      await fitsScreens(page, "an answer with a box");

      await click(page, "gallery");
      await click(page, "gallery-menu");
      await present(page, "pending");
      await click(page, "task-region");
      await present(page, "region");
      await fitsScreens(page, "the choice of a region");
      await page.focus(part("region"));
      await page.keyboard.press("Enter");
      await present(page, "region-chip");
      await fitsScreens(page, "a region and two pictures");
      for (const name of ["attach", "tasks", "chat"]) {
        await click(page, `menu-${name}`);
        await fitsScreens(page, `the menu ${name}`);
        await click(page, `menu-${name}`);
      }

      await page.evaluate(() => {
        window.dialogs = [];
        const look = () => window.dialogs.push(...[...document.querySelectorAll("dialog")].map((dialog) => dialog.open));
        new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
      });
      for (const name of ["models", "settings", "gallery", "scene", "camera"]) {
        await click(page, name);
        await present(page, `dialog-${name}`);
        if (name === "models") await until(page, () => document.querySelector("[data-testid=stored] li") !== null);
        if (name === "settings") await set(page, part("sampling"), "own");
        if (name === "scene") await page.$eval(".board .item", (item) => item.focus());
        await fitsScreens(page, `the dialog ${name}`);
        await click(page, "close");
        await until(page, () => document.querySelector("dialog") === null);
      }
      // A dialog is open as soon as it exists: it takes the focus before the visitor can type.
      const dialogs = await page.evaluate(() => window.dialogs);
      assert.ok(dialogs.length >= 5 && dialogs.every(Boolean), dialogs.join());

      await give(page, "drop", `${long}.heic`, "", "icon.svg");
      await present(page, "error");
      await fitsScreens(page, "an error");
      await page.evaluate(() => {
        Object.defineProperty(navigator, "onLine", { value: false });
        dispatchEvent(new Event("offline"));
      });
      await present(page, "offline");
      await fitsScreens(page, "offline");
    };
    visit("fits on phones, tablets and laptops", body, {
      viewport: touchScreen(SCREENS[0]),
      async handle(path) {
        if (path.startsWith("/model/shard-")) await held;
        return false;
      },
    });
  }

  visit("models from folders", async (page) => {
    await ready(page);
    const shards = JSON.parse(await readFile(join(model, "manifest.json"), "utf8")).shards.map(({ file }) => file);
    const files = ["manifest.json", "qwen.tiktoken", ...shards].map((name) => ({ name, url: `/model/${name}`, type: "" }));
    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", files.slice(1));
    await present(page, "error");
    assert.equal(await textOf(page, "error-title"), "This folder has neither manifest.json nor config.json.");
    // The model in use stays.
    assert.equal(await textOf(page, "status"), "Ready");

    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", files);
    await ready(page);
    assert.equal((await page.$$(part("error"))).length, 0);
    assert.equal(await ask(page, "What is this?"), ANSWER);

    // The error names a file of the wrong size.
    await click(page, "models");
    await present(page, "folder");
    await giveFiles(page, "folder", [...files.slice(0, -1), { name: shards.at(-1), url: "/icon.svg", type: "" }]);
    await present(page, "error");
    assert.equal(await textOf(page, "error-code"), "INTEGRITY");
    assert.match(await textOf(page, "error-message"), new RegExp(shards.at(-1)));
    assert.equal(await textOf(page, "error-title"), "A model file is damaged");
    await click(page, "language");
    await until(page, () => document.querySelector('[data-testid="error-title"]').textContent === "模型文件已损坏");
  });

  visit(
    "without a connection, and a new version",
    async (page, test, connection) => {
      await ready(page);
      assert.equal(await ask(page, "What is this?"), ANSWER);
      await present(page, "offline-ready");

      if (bed.name === "chromium") await test.test("Chromium can install it", () => installable(page));

      await test.test("offline: the history is restored, and the model answers", async () => {
        connection.close();
        await page.reload();
        await ready(page);
        assert.equal(await textOf(page, "answer"), ANSWER);
        assert.equal((await objects(page)).length, 1);
        assert.equal(await ask(page, "And again?"), ANSWER);
      });

      await test.test("a new version takes over on request, and the weights stay", async () => {
        const next = await mkdtemp(join(tmpdir(), "qwen-vl-page-"));
        try {
          await nextVersion(site, next);
          const fetched = [];
          page.on("request", (request) => fetched.push(new URL(request.url()).pathname));
          await connection.open(next);
          await page.reload();
          await present(page, "update");
          await fitsScreens(page, "an update");
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

  visit(
    "in a folder of a host, also without a connection",
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

  /** Serves the page's script so that it finds no WebGPU. */
  const withoutWebGpu = async (path, response) => {
    if (!/\/index-[^/]*\.js$/.test(path)) return false;
    const script = await readFile(join(site, path), "utf8");
    response.writeHead(200, { "content-type": "text/javascript" }).end(`delete Navigator.prototype.gpu;${script}`);
    return true;
  };

  visit(
    "without WebGPU a small model still answers",
    async (page) => {
      await ready(page);
      assert.equal(await ask(page, "What is this?"), ANSWER);
      assert.match(await textOf(page, "model"), /without WebGPU, the model runs on the CPU/);
      await accessible(page);
    },
    { handle: withoutWebGpu },
  );

  visit(
    "without WebGPU a large model is refused before it is fetched",
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
        enlarge(manifest, 1_000_000);
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(manifest));
        return true;
      },
    },
  );

  visit(
    "an address without a model",
    async (page) => {
      await present(page, "error");
      assert.equal(await textOf(page, "error-code"), "DOWNLOAD");
      assert.match(await textOf(page, "error-message"), /404/);
      assert.equal(await textOf(page, "error-title"), "The download failed");
      assert.match(await textOf(page, "error-step"), /Check the address/);
      assert.equal(await textOf(page, "status"), "No model");
    },
    { path: "/?model=/nothing/", expected: /Failed to load resource/ },
  );

  visit(
    "an address with a broken manifest",
    async (page) => {
      await present(page, "statement");
      assert.match(await textOf(page, "statement"), /No model was found here.*converted model/);
      assert.equal(await page.$(part("load")), null);
      await click(page, "language");
      await until(page, () => document.querySelector('[data-testid="statement"]').textContent.includes("这里没有模型"));
    },
    {
      path: "/?model=/broken/",
      async handle(path, response) {
        if (path !== "/broken/manifest.json") return false;
        response.writeHead(200, { "content-type": "application/json" }).end("{}");
        return true;
      },
    },
  );

  visit(
    "stored settings that are out of range",
    async (page) => {
      await ready(page);
      assert.equal(await page.$eval("html", (html) => html.lang), "en");
      assert.match(await textOf(page, "model"), /2048 tokens/);
      await click(page, "settings");
      await present(page, "system");
      assert.deepEqual(await page.$$eval(".number input", (fields) => fields.map(({ value }) => value)), ["0.5", "0.3", "0", "", ""]);
      await click(page, "close");
      assert.equal(await ask(page, "What is this?"), ANSWER);
    },
    {
      prepare: (page) =>
        page.evaluateOnNewDocument(() => {
          const settings = {
            language: "xx",
            sampling: "own",
            temperature: 0.5,
            topP: -1,
            topK: 1.5,
            seed: 2 ** 32,
            maxTokens: 0,
            contextLength: 0,
          };
          // The first blank page has no storage.
          if (location.protocol === "http:") localStorage.setItem("qwen-vl-web-settings", JSON.stringify(settings));
        }),
    },
  );

  visit(
    "a large model is announced before it is fetched",
    async (page) => {
      await present(page, "statement");
      const statement = await textOf(page, "statement");
      assert.match(statement, /8\.00\s*GB will be downloaded/);
      assert.match(statement, /Nothing of it is on this device yet/);
      assert.match(statement, /needs about .* of GPU memory/);
      await accessible(page);
      await fitsScreens(page, "a large model");
    },
    {
      path: "/?model=/large/",
      async handle(path, response) {
        // No other file of the model exists, so a request for one would be reported as an error.
        if (path !== "/large/manifest.json") return false;
        const manifest = JSON.parse(await readFile(join(model, "manifest.json"), "utf8"));
        // The weights are the beginning of a larger file.
        Object.assign(manifest.shards[0], { bytes: 8e9, pieces: undefined });
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(manifest));
        return true;
      },
    },
  );
}

/** Gives a model of one shard, in f32, more tokens. The manifest stays valid; the weights do not exist. */
function enlarge(manifest, tokens) {
  const MOST_ROWS = 200_000;
  const before = manifest.config.decoder.vocab_size;
  let end = 0;
  for (const tensor of manifest.tensors) {
    const [{ rows, data }] = tensor.parts;
    const rowBytes = (data[1] - data[0]) / rows;
    if (tensor.shape[0] === before) tensor.shape[0] = tokens;
    tensor.parts = [];
    for (let row = 0; row < tensor.shape[0]; row += MOST_ROWS) {
      const rows = Math.min(MOST_ROWS, tensor.shape[0] - row);
      tensor.parts.push({ rows, shard: 0, data: [end, end + rows * rowBytes] });
      end += rows * rowBytes;
    }
  }
  manifest.config.decoder.vocab_size = tokens;
  Object.assign(manifest.shards[0], { bytes: end, pieces: undefined });
}

const objects = (page) => page.$$eval("[data-object]", (items) => items.map((item) => JSON.parse(item.dataset.object)));

/** Waits until the picture on the stage shows the box, and compares pixels of the border and of the inside. */
async function boxIsDrawn(page, width, height, norm = NORM) {
  const [x1, y1, x2, y2] = norm.map((value, at) => Math.trunc((value / 1000) * (at % 2 === 0 ? width : height)));
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
  await ready(page);
  assert.equal(await textOf(page, "status"), "Ready");
  assert.equal((await page.$$(part("pending"))).length, 1);
  assert.equal(await page.$eval(part("question"), (field) => field.value), "What is in the picture?");
  await click(page, "ask");
  await until(page, () => document.querySelector('[data-testid="timings"]')?.dataset.finished);
  assert.equal(await textOf(page, "answer"), ANSWER);
  assert.match(await textOf(page, "timings"), /tokens per second/);
  await boxIsDrawn(page, 448, 448);
  // Pictures have one size.
  assert.equal(await page.$(part("resolution")), null);
}

/** Attaches pictures: the name of one of the gallery, or files of `tests/fixtures/images`. */
async function attach(page, bed, ...names) {
  const before = (await page.$$(part("pending"))).length;
  if (names[0].endsWith(".png")) {
    const input = await page.$(part("picture"));
    await input.uploadFile(...names.map((name) => join(bed.repository, "tests/fixtures/images", name)));
  } else {
    await click(page, "gallery");
    await click(page, `gallery-${names[0]}`);
  }
  await pendingPictures(page, before + names.length);
}

async function twoPictures(page, bed) {
  await attach(page, bed, "scene");
  assert.equal(await ask(page, "What is in the picture?"), ANSWER);
  await attach(page, bed, "photo_cat.png");
  assert.equal((await page.$$(".thumbs button")).length, 2);
  assert.equal(await ask(page, "Who is <b>this</b>?"), ANSWER);
  assert.deepEqual(await page.$$eval(part("asked"), (asked) => asked.map((item) => item.textContent)), [
    "What is in the picture?",
    "Who is <b>this</b>?",
  ]);
  await boxIsDrawn(page, 288, 256);

  // A phrase highlights its object in the list and on the picture.
  await page.$$eval(".phrase", (phrases) => phrases.at(-1).dispatchEvent(new PointerEvent("pointerenter")));
  await until(page, () => document.querySelector(".object.on") !== null && document.querySelector(".shapes .on") !== null);
  await page.$$eval(".phrase", (phrases) => phrases.at(-1).dispatchEvent(new PointerEvent("pointerleave")));
  await until(page, () => document.querySelector(".object.on") === null);

  // The first picture, with the objects of its answer.
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

/** Returns the file that a click saves, with its content as `read` returns it in the page. */
async function saved(page, id, read) {
  return page.evaluate(
    async (selector, source) => {
      const link = await new Promise((resolve) => {
        const click = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = function () {
          HTMLAnchorElement.prototype.click = click;
          resolve({ name: this.download, url: this.href });
        };
        const element = document.querySelector(selector);
        element.closest("details.menu")?.querySelector("summary").click();
        element.click();
      });
      const blob = await (await fetch(link.url)).blob();
      const content = source === "text" ? await blob.text() : await window[source](blob);
      return { name: link.name, content };
    },
    part(id),
    read === "text" ? "text" : await expose(page, read),
  );
}

/** Defines a function in the page, whose security policy forbids it to compile text. */
async function expose(page, body) {
  await page.evaluate(`window.exposed = ${body}`);
  return "exposed";
}

async function corrections(page, bed) {
  await attach(page, bed, "scene");
  assert.equal(await ask(page, "First?"), ANSWER);
  const finished = () => page.$$eval(part("timings"), (items) => items.map((item) => item.dataset.finished));
  // Press the stop button at the first word.
  await page.evaluate(() => {
    new MutationObserver((_, observer) => {
      const answers = [...document.querySelectorAll('[data-testid="answer"]')];
      const stop = document.querySelector('[data-testid="stop"]');
      if (answers.length < 2 || answers[1].textContent === "" || !stop) return;
      observer.disconnect();
      stop.click();
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  });
  const cut = await ask(page, "Again?");
  assert.deepEqual(await finished(), ["stop", "cancelled"]);
  assert.ok(cut.length > 0 && cut.length < ANSWER.length, cut);

  await click(page, "regenerate");
  await until(page, () => document.querySelectorAll('[data-testid="timings"][data-finished="stop"]').length === 2);
  assert.equal(await page.$$eval(part("answer"), (answers) => answers.at(-1).textContent), ANSWER);

  await click(page, "edit");
  assert.equal(await page.$eval(part("question"), (field) => field.value), "Again?");
  assert.equal((await page.$$(part("answer"))).length, 1);
  assert.equal(await ask(page, "Edited?"), ANSWER);
  assert.equal(await page.$$eval(part("asked"), (asked) => asked.at(-1).textContent), "Edited?");
}

/** Sets a field as a visitor does. */
const set = (page, selector, value) =>
  page.$eval(
    selector,
    (field, value) => {
      field.value = value;
      for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
    },
    value,
  );

/**
 * Lets the page keep the requests to the model in `window.asked`, because the models of these tests give one answer to every question, and the
 * limits of encodings ahead in `window.encoded`.
 */
const recordRequests = (page) =>
  page.evaluate(() => {
    const { prototype } = Worker;
    const { postMessage } = prototype;
    window.asked = [];
    window.encoded = [];
    prototype.postMessage = function (message, ...rest) {
      if (message.kind === "ask") window.asked.push(message.request);
      if (message.kind === "encode") window.encoded.push(message.limits);
      return postMessage.call(this, message, ...rest);
    };
  });

async function choices(page) {
  await recordRequests(page);
  await click(page, "settings");
  await present(page, "system");
  for (const theme of ["dark", "light"]) {
    await set(page, part("theme"), theme);
    await hasTheme(page, theme);
  }
  await set(page, part("theme"), "system");
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

async function laterModel(page) {
  await ready(page);
  await recordRequests(page);
  const question = () => page.$eval(part("question"), (field) => field.value);
  const panel = (text) => until(page, (text) => document.querySelector('[data-testid="model"]').textContent.includes(text), text);
  const seen = (text) => until(page, (text) => document.querySelector('[data-testid="seen"]').textContent === text, text);

  await page.$eval(part("panel"), (panel) => (panel.open = true));
  await panel("Qwen3-VL");
  for (const [task, words] of [
    ["captionEn", "Describe this image in English."],
    ["captionZh", "用中文描述这张图片。"],
    ["read", "Spotting all the text in the image with line-level, and output in JSON format"],
    ["find", "Report bbox coordinates in JSON format."],
  ]) {
    await click(page, `task-${task}`);
    const written = await question();
    assert.ok(written.includes(words) && !/[<>]|grounding/.test(written), written);
  }

  // 300 tokens of 32×32 pixels.
  await give(page, "drop", "wide.png", "image/png", [...blackPng(640, 480)]);
  await seen("The model sees 640×480: 300 tokens");
  assert.equal(await ask(page, "What is in the picture?"), ANSWER);
  await boxIsDrawn(page, 640, 480, JSON_NORM);
  const [{ ref, image, range }] = await objects(page);
  // The object has no name in the text: its place is where the list was.
  assert.deepEqual([ref, image, range], ["person", 0, [ANSWER.length + 2, ANSWER.length + 2]]);
  await panel("300 of them from pictures");
  await fitsScreens(page, "an answer of Qwen3-VL");

  // The next question has the limits in which its pictures are encoded already.
  for (const { resolution, size, tokens, limits } of [
    { resolution: "low", size: "576×416", tokens: 234, limits: { max_tokens: 256 } },
    { resolution: "medium", size: "928×672", tokens: 609, limits: { min_tokens: 640, max_tokens: 640 } },
    { resolution: "auto", size: "640×480", tokens: 300, limits: {} },
  ]) {
    await page.evaluate(() => (window.encoded = []));
    await page.select(part("resolution"), resolution);
    await seen(`The model sees ${size}: ${tokens} tokens`);
    assert.equal(await ask(page, "What is in the picture?"), ANSWER);
    await panel(`${tokens} of them from pictures`);
    const [encoded, { pictures }] = await page.evaluate(() => [window.encoded, window.asked.at(-1)]);
    assert.deepEqual([encoded, pictures], [[limits], limits]);
    await click(page, "edit");
    await write(page, "");
  }

  await click(page, "settings");
  await present(page, "system");
  assert.equal(await page.$eval(part("system"), (field) => field.placeholder), "");
  const [penalty] = (await page.$$(".number input")).slice(-1);
  await penalty.evaluate((field) => {
    field.value = "0";
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
  await page.keyboard.press("Escape");
  await until(page, () => document.querySelector("dialog") === null);

  // Smaller pictures from the next load. The conversation stays.
  await click(page, "models");
  await present(page, "picture-tokens");
  assert.match(await textOf(page, "generation"), /Qwen3-VL/);
  await set(page, part("picture-tokens"), "256");
  await fitsScreens(page, "the dialog models with a model of Qwen3-VL");
  await click(page, "load-embedded");
  await until(page, () => document.querySelector('[data-testid="ask"]')?.disabled === true);
  await ready(page);
  await seen("The model sees 576×416: 234 tokens");
  assert.equal(await ask(page, "Where?"), ANSWER);
  await panel("234 of them from pictures");
  const { prompt, generation } = await page.evaluate(() => window.asked.at(-1));
  assert.deepEqual([prompt.history.length, prompt.history[0][1], generation.presence_penalty], [1, JSON_RAW, 0]);
  assert.equal((await page.$$(part("answer"))).length, 2);
  await boxIsDrawn(page, 640, 480, JSON_NORM);

  // A video stays one, and its next question reads it from the model's memory.
  await click(page, "reset");
  await addFilm(page);
  await until(page, () => document.querySelectorAll('[data-testid="pending"][data-video]').length === 1);
  for (const question of ["What happens?", "And then?"]) assert.equal(await ask(page, question), ANSWER);
  const { prompt: asked } = await page.evaluate(() => window.asked.at(-1));
  assert.deepEqual([Object.keys(asked.history[0][0][0]), asked.query.length], [["video"], 1]);
}

/** Attaches a film by the picker of files. */
async function addFilm(page) {
  await recordFilm(page, 64, 64);
  await page.evaluate(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([window.film], "film.webm", { type: "video/webm" }));
    const input = document.querySelector('[data-testid="picture"]');
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

async function comparison(page, bed) {
  await attach(page, bed, "photo_rocket.png", "photo_cat.png");
  await click(page, "task-compare");
  const question = await page.$eval(part("question"), (field) => field.value);
  const pictures = (await page.$$(".thumbs button")).length;
  assert.equal(question, `What is different between Picture ${pictures - 1} and Picture ${pictures}?`);
  assert.equal(await ask(page, question), ANSWER);
  assert.equal((await page.$$(part("pending"))).length, 0);
  // The question names both pictures, so the object can be on either. It is drawn on the one that is shown, and the list says so.
  assert.equal((await objects(page))[0].image, undefined);
  assert.match(await page.$eval(".object span", (span) => span.textContent), /^box .*\(the answer does not name the picture\)$/);
  await boxIsDrawn(page, 288, 256);
  await page.$$eval(".thumbs button", (buttons) => buttons.at(-2).click());
  await until(page, () => document.querySelector('[data-testid="canvas"]').width !== 288);
  const { width, height } = await page.$eval(part("canvas"), ({ width, height }) => ({ width, height }));
  await boxIsDrawn(page, width, height);
}

async function regions(page, bed) {
  await attach(page, bed, "scene");
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

async function exportAndImport(page, bed) {
  await attach(page, bed, "scene");
  await ask(page, "First?");
  await attach(page, bed, "photo_cat.png");
  await ask(page, "Second?");
  const before = await page.$$eval(".turns > li", (turns) => turns.map((turn) => turn.textContent));
  const { name, content } = await saved(page, "export", "text");
  assert.equal(name, "chat.json");
  const chat = JSON.parse(content);
  assert.equal(chat.turns.length, 2);
  assert.match(chat.pictures[0].data, /^data:image\/png;base64,/);

  await click(page, "reset");
  await until(page, () => document.querySelectorAll('[data-testid="answer"]').length === 0);
  // A file that is not a chat changes nothing.
  await openChat(page, JSON.stringify({ ...chat, pictures: [{ id: "1", name: "", data: "https://example.org/spy.png" }] }));
  await present(page, "error");
  assert.equal(await textOf(page, "error-title"), "This file is not a saved chat.");
  await openChat(page, content);
  await until(page, () => document.querySelectorAll('[data-testid="answer"]').length === 2);
  const after = await page.$$eval(".turns > li", (turns) => turns.map((turn) => turn.textContent));
  // Measurements are not imported.
  const words = (texts) => texts.map((text) => text.slice(0, text.indexOf(ANSWER) + ANSWER.length));
  assert.deepEqual(words(after), words(before));
  await page.$$eval(".answered", (answers) => answers[1].dispatchEvent(new PointerEvent("pointerenter")));
  await boxIsDrawn(page, 288, 256);
}

/** Opens a chat from a file. */
const openChat = (page, text) =>
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

/** Closes a conversation, by "New chat" and by opening another one, while its first answer is being prepared. */
async function newChats(page, bed) {
  const count = (id) => page.evaluate((selector) => document.querySelectorAll(selector).length, part(id));
  const other = {
    format: "qwen-vl-web-chat",
    version: 1,
    system: "",
    pictures: [],
    turns: [{ text: "Other?", pictures: [], raw: "Yes." }],
  };
  const closings = [
    { close: () => click(page, "reset"), asked: [] },
    { close: () => openChat(page, JSON.stringify(other)), asked: ["Other?"] },
  ];
  for (const { close, asked } of closings) {
    await attach(page, bed, "cat");
    await write(page, "Old question?");
    // The worker gets the question, and what follows it, only when the conversation is closed.
    await page.evaluate(() => {
      const { prototype } = Worker;
      const { postMessage } = prototype;
      const held = [];
      prototype.postMessage = function (...message) {
        if (held.length > 0 || message[0].kind === "ask") held.push([this, message]);
        else postMessage.apply(this, message);
      };
      window.waiting = held;
      window.release = () => {
        prototype.postMessage = postMessage;
        for (const [worker, message] of held) worker.postMessage(...message);
        return held.length;
      };
    });
    await click(page, "ask");
    await present(page, "stop");
    await until(page, () => window.waiting.length > 0);
    await close();
    await until(
      page,
      (asked) => JSON.stringify([...document.querySelectorAll('[data-testid="asked"]')].map((item) => item.textContent)) === asked,
      JSON.stringify(asked),
    );
    assert.ok((await page.evaluate(() => window.release())) >= 2, "neither question nor cancellation reached the worker");
    await present(page, "ask");
    assert.deepEqual(await page.$$eval(part("asked"), (items) => items.map((item) => item.textContent)), asked);
    assert.equal(await page.$eval(part("question"), (field) => field.value), "");
    assert.deepEqual([await count("pending"), await count("error")], [0, 0]);
    await click(page, "reset");
  }
}

async function tagsAreText(page, bed) {
  await attach(page, bed, "scene");
  const question = "What do <img>, <box> and <|im_start|> mean?";
  assert.equal(await ask(page, question), ANSWER);
  assert.equal(await page.$$eval(part("asked"), (asked) => asked.at(-1).textContent), question);
}

const pendingPictures = (page, count) =>
  until(page, (count) => document.querySelectorAll('[data-testid="pending"]').length === count, count);

/** Drops or pastes a file that the page fetches from an address, or whose bytes are given. */
const give = (page, kind, name, type, source) =>
  page.evaluate(
    async (kind, name, type, source) => {
      const transfer = new DataTransfer();
      const content = typeof source === "string" ? await (await fetch(source)).blob() : new Uint8Array(source);
      transfer.items.add(new File([content], name, { type }));
      // Not every browser lets a page make these events with files.
      const event = new Event(kind, { bubbles: true, cancelable: true });
      Object.defineProperty(event, kind === "paste" ? "clipboardData" : "dataTransfer", { value: transfer });
      document.body.dispatchEvent(event);
    },
    kind,
    name,
    type,
    source,
  );

/** Returns a PNG in one bit per pixel, all black. */
function blackPng(width, height) {
  const chunk = (name, content) => {
    const bytes = Buffer.concat([Buffer.from(name), content]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(content.length);
    sum.writeUInt32BE(crc32(bytes));
    return Buffer.concat([length, bytes, sum]);
  };
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  const pixels = deflateSync(Buffer.alloc(height * (1 + Math.ceil(width / 8))));
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", pixels), chunk("IEND", Buffer.alloc(0))]);
}

async function difficultPictures(page) {
  // More pixels than the package decodes: the page scales the picture down.
  await give(page, "drop", "huge.png", "image/png", [...blackPng(12_000, 6000)]);
  await pendingPictures(page, 1);
  assert.equal(await ask(page, "What is this?"), ANSWER);
  const { width, height } = await page.$eval(part("canvas"), ({ width, height }) => ({ width, height }));
  assert.ok(width < 12_000 && Math.abs(width / height - 2) < 0.01, `${width} × ${height}`);

  await give(page, "drop", "IMG_0001.HEIC", "", "manifest.webmanifest");
  await present(page, "error");
  assert.match(await textOf(page, "error-title"), /IMG_0001\.HEIC.*HEIC photo/);
  assert.match(await textOf(page, "error-step"), /JPEG/);
}

async function pictureSources(page) {
  const pending = (count) => pendingPictures(page, count);
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

  await give(page, "drop", "dropped.png", "image/png", "gallery/menu.png");
  await pending(3);
  await give(page, "paste", "pasted.png", "image/png", "gallery/street.png");
  await pending(4);
  // The file's name is shown as text.
  await give(page, "drop", "<img src=x onerror=alert(1)>.png", "image/png", "manifest.webmanifest");
  await until(page, () => document.querySelector('[data-testid="error"]')?.textContent.includes("<img src=x onerror=alert(1)>.png"));

  // Four frames of a video.
  await addFilm(page);
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
}

async function keptModels(page) {
  await click(page, "models");
  await until(page, () => document.querySelector("[data-testid=stored] li") !== null);
  assert.match(await textOf(page, "stored"), /random.*complete/s);
  await click(page, "verify");
  await until(page, () => document.querySelector('[data-testid="outcome"]').textContent !== "");
  assert.equal(await textOf(page, "outcome"), "All files are intact.");
  await until(page, () => document.querySelector('[data-testid="delete"]')?.disabled === false);
  await click(page, "delete");
  await until(page, () => document.querySelector("[data-testid=stored] li") === null);
  await click(page, "close");
  await until(page, () => document.querySelector("dialog") === null);
}

/** Names a model of the Hub and waits for the plan of its conversion. */
async function lookUp(page) {
  await ready(page);
  await click(page, "models");
  await present(page, "known");
  await page.type(part("url"), "test/q3-a");
  await click(page, "look");
  await present(page, "offer");
}

/** Waits until a conversion is complete and its model loaded. */
async function converted(page) {
  await until(page, () => document.querySelector("dialog") === null);
  await until(page, () => document.querySelector('[data-testid="models"]').textContent.includes("q3-a"));
  await ready(page);
}

async function askAnew(page) {
  await click(page, "reset");
  await until(page, () => document.querySelector('[data-testid="answer"], [data-testid="pending"]') === null);
  return ask(page, "What is this?");
}

/** Converts a model of the Hub, with a pause, and asks it with and without a connection. */
async function byName(page, { hub, connection }) {
  await lookUp(page);
  const offer = await textOf(page, "offer");
  assert.match(offer, /test\/q3-a.*will be fetched.*stay on this device.*apache-2\.0/s);
  await fitsScreens(page, "the plan of a conversion");

  let release;
  const held = new Promise((resolve) => (release = resolve));
  // The list of tensors passes, the weights wait.
  hub.beforeStorage = (path, nth) => (path === "model.safetensors" && nth > 1 ? held : undefined);
  await click(page, "convert");
  await present(page, "pause");
  await fitsScreens(page, "a conversion");
  await click(page, "pause");
  await present(page, "resume");
  assert.match(await textOf(page, "conversion"), /The conversion of test\/q3-a is paused/);
  // The dialog has it once.
  assert.equal(await page.$(part("unfinished")), null);
  release();
  await click(page, "resume");
  await converted(page);
  const answer = await askAnew(page);
  assert.notEqual(answer, "");

  await present(page, "offline-ready");
  hub.close();
  connection.close();
  await page.reload();
  await ready(page);
  await click(page, "models");
  await until(page, () => [...document.querySelectorAll("[data-testid=stored] li")].some((item) => item.textContent.includes("q3-a")));
  await page.$$eval("[data-testid=stored] li", (items) => {
    items
      .find((item) => item.textContent.includes("q3-a"))
      .querySelector("[data-testid=load-stored]")
      .click();
  });
  await converted(page);
  assert.equal(await askAnew(page), answer);
}

/** Converts a model except for the last step, and reloads the page. */
async function interrupted(page, beforeReload = () => undefined) {
  await lookUp(page);
  await page.evaluate(() => (window.held = "convertFinish"));
  await click(page, "convert");
  await until(page, () => document.querySelector('[data-testid="conversion-progress"]').textContent.includes("1 of 1 file"));
  await present(page, "offline-ready");
  beforeReload();
  await page.reload();
  await ready(page);
  await click(page, "models");
  await present(page, "unfinished");
}

/** Runs in the page. Returns the names of files of conversions, and the records in them. */
async function conversionFiles() {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
  const files = {};
  for await (const [name, handle] of folder.entries())
    if (name.startsWith("convert-")) files[name] = name.endsWith(".conversion") ? await (await handle.getFile()).text() : "";
  return files;
}

async function resumedAfterReload(page, { hub }) {
  await interrupted(page);
  assert.match(
    await textOf(page, "unfinished"),
    /Not finished.*test\/q3-a.*[1-9][\d.]*\s*MB of [\d.]+\s*MB.*hf:test\/q3-a@[0-9a-f]{7}Go on/s,
  );
  await accessible(page);
  await fitsScreens(page, "an unfinished conversion");
  const files = await page.evaluate(conversionFiles);
  const [[name, text]] = Object.entries(files).filter(([name]) => name.endsWith(".conversion"));
  const { bytes, source, ...record } = JSON.parse(text);
  assert.deepEqual(record, { name: "test/q3-a", url: "hf:test/q3-a", settings: {} }, name);
  assert.ok(bytes > 1_000_000 && /^hf:test\/q3-a@[0-9a-f]{40}$/.test(source), text);

  // The offer of the same conversion says that it has begun.
  await page.type(part("url"), "test/q3-a");
  await click(page, "look");
  await present(page, "offer");
  assert.match(await textOf(page, "offer"), /MB are done already.*Go on/s);

  // The commit of the first run is converted, although the repository has moved on.
  const moved = new Map(hub.repositories["test/q3-a"].files);
  moved.set("README.md", Buffer.from("# Changed\n"));
  hub.push("test/q3-a", moved);
  hub.requests = [];
  await click(page, "resume-unfinished");
  await converted(page);
  const commits = new Set(hub.requests.flatMap(({ path }) => /\/resolve\/([0-9a-f]{40})\//.exec(path)?.[1] ?? []));
  assert.deepEqual([...commits], [source.split("@")[1]]);
  assert.notEqual(await askAnew(page), "");
  assert.deepEqual(await page.evaluate(conversionFiles), {});
  await click(page, "models");
  await until(page, () => document.querySelector("[data-testid=stored]").textContent.includes("hf:test/q3-a"));
  assert.equal(await page.$(part("unfinished")), null);
}

async function deletedAfterReload(page, { hub, connection }) {
  await interrupted(page, () => {
    hub.close();
    connection.close();
  });
  await click(page, "delete-unfinished");
  await until(page, () => document.querySelector("[data-testid=unfinished]") === null);
  assert.equal(await page.$(part("error")), null);
  assert.deepEqual(await page.evaluate(conversionFiles), {});
  // The other model stays.
  await until(page, () => document.querySelector("[data-testid=stored] li") !== null);
}

/** Runs in the page before its scripts: calls to workers of the kind `window.held` get no answer. */
function holdWorkers() {
  const { postMessage } = Worker.prototype;
  Worker.prototype.postMessage = function (message, transfer) {
    const held = message.kind === window.held || (window.held !== undefined && message.operation?.kind === window.held);
    if (!held) postMessage.call(this, message, transfer);
  };
}

async function resumedFolder(page, checkpoint) {
  const files = [...(await filesOf(checkpoint)).keys()].map((name) => ({ name, url: `/checkpoint/${name}`, type: "" }));
  const folder = (lastModified) => files.map((file) => ({ ...file, lastModified }));
  await ready(page);
  await click(page, "models");
  await present(page, "folder");
  await giveFiles(page, "folder", folder(1_700_000_000_000));
  await present(page, "offer");
  await page.evaluate(() => (window.held = "convertShard"));
  await click(page, "convert");
  while (Object.keys(await page.evaluate(conversionFiles)).length === 0) await present(page, "pause");
  await page.reload();
  await ready(page);
  await click(page, "models");
  await present(page, "unfinished");
  assert.match(await textOf(page, "unfinished"), /checkpoint.*from a folder of this device/s);
  await fitsScreens(page, "an unfinished conversion of a folder");
  // Files with other times are other files.
  await giveFiles(page, "resume-folder", folder(1_800_000_000_000));
  await present(page, "error");
  assert.match(await textOf(page, "error-title"), /not the folder of checkpoint/);
  await giveFiles(page, "resume-folder", folder(1_700_000_000_000));
  await until(page, () => document.querySelector("dialog") === null);
  await until(page, () => document.querySelector('[data-testid="models"]').textContent.includes("checkpoint"));
  await ready(page);
  assert.deepEqual(await page.evaluate(conversionFiles), {});
}

/** Saves a converted model to a folder, where the browser can: with the bytes that the package's command makes. */
async function savedToFolder(page, { bed, hub }) {
  await lookUp(page);
  await click(page, "convert");
  await converted(page);
  const openModels = async () => {
    await click(page, "models");
    await until(page, () => [...document.querySelectorAll("[data-testid=stored] li")].some((item) => item.textContent.includes("q3-a")));
  };
  const item = '[data-testid=stored] li[data-url="hf:test/q3-a"]';
  const save = () => click(page, `${item} [data-testid=save]`);
  await openModels();
  if (bed.name === "firefox") {
    await save();
    await present(page, "cannot-save");
    assert.match(await textOf(page, "cannot-save"), /cannot write to a folder.*npx qwen-vl-web quantize hf:test\/q3-a q3-a/s);
    await fitsScreens(page, "a browser that cannot save");
    return;
  }
  const outcome = (words) => until(page, (words) => document.querySelector("[data-testid=outcome]").textContent.includes(words), words);
  await page.evaluate(async () => {
    const root = await navigator.storage.getDirectory();
    window.picked = await root.getDirectoryHandle("chosen", { create: true });
    window.showDirectoryPicker = () => Promise.resolve(window.picked);
  });
  // Stopped.
  await page.evaluate(() => (window.held = "export"));
  await save();
  await present(page, "saving");
  await fitsScreens(page, "a model that is being saved");
  await click(page, "stop-saving");
  await outcome("Saving was stopped");
  // A folder that does not exist any more.
  await page.evaluate(async () => {
    window.held = undefined;
    await (await navigator.storage.getDirectory()).removeEntry("chosen", { recursive: true });
  });
  await save();
  await present(page, "error");
  assert.match(await textOf(page, "error-title"), /folder “q3-a” could not be written/);
  // A visitor who closes the picker.
  await page.evaluate(() => {
    window.showDirectoryPicker = () => Promise.reject(new DOMException("The user aborted a request.", "AbortError"));
  });
  await save();
  await until(page, () => document.querySelector("[data-testid=error]") === null);
  await until(page, (button) => document.querySelector(button).disabled === false, `${item} [data-testid=save]`);
  assert.equal(await textOf(page, "outcome"), "");
  // Saved.
  await page.evaluate(async () => {
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle("chosen", { create: true });
    window.showDirectoryPicker = () => Promise.resolve(folder);
  });
  await save();
  await outcome("Saved as the folder “q3-a” in “chosen”");
  const saved = await page.evaluate(async () => {
    const root = await navigator.storage.getDirectory();
    const folder = await (await root.getDirectoryHandle("chosen")).getDirectoryHandle("q3-a");
    const found = {};
    for await (const [name, handle] of folder.entries()) {
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await (await handle.getFile()).arrayBuffer()));
      found[name] = [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    }
    return found;
  });
  const root = await mkdtemp(join(tmpdir(), "qwen-vl-save-"));
  try {
    const command = [join(bed.packageFolder, "dist/node/cli.js"), "quantize", "hf:test/q3-a", join(root, "out")];
    await promisify(execFile)(process.execPath, command, { env: { ...process.env, HF_ENDPOINT: hub.origin } });
    const files = await filesOf(join(root, "out"));
    const wanted = Object.fromEntries([...files].map(([name, bytes]) => [name, createHash("sha256").update(bytes).digest("hex")]));
    assert.deepEqual(saved, wanted);
  } finally {
    await rm(root, { recursive: true });
  }
}

/** Asserts that the page has light or dark colours. */
async function hasTheme(page, theme) {
  const channels = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  assert.ok(
    channels.every((value) => (theme === "dark" ? value < 64 : value > 192)),
    `${theme}: the background is ${channels}`,
  );
}

async function menus(page) {
  const focused = (id) => until(page, (id) => document.activeElement.dataset.testid === id, id);
  const open = () => page.$$eval("details.menu[open] summary", (buttons) => buttons.map((button) => button.dataset.testid));
  await page.focus(part("menu-tasks"));
  await page.keyboard.press("Enter");
  assert.deepEqual(await open(), ["menu-tasks"]);
  await page.keyboard.press("ArrowDown");
  await focused("task-captionEn");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  await focused("task-compare");
  await page.keyboard.press("Escape");
  await focused("menu-tasks");
  assert.deepEqual(await open(), []);

  // The item closes the menu, and the focus returns to the button after the dialog.
  await page.click(part("menu-attach"));
  await page.click(part("gallery"));
  await until(page, () => document.querySelector("dialog[open]") !== null);
  assert.deepEqual(await open(), []);
  await page.keyboard.press("Escape");
  await until(page, () => document.querySelector("dialog") === null);
  await focused("menu-attach");

  await page.click(part("menu-chat"));
  assert.deepEqual(await open(), ["menu-chat"]);
  assert.ok(await page.$eval(part("export"), (item) => item.disabled));
  await page.click(part("question"));
  assert.deepEqual(await open(), []);

  await ask(page, "What is this?");
  const copied = page.evaluate(() => new Promise((resolve) => (navigator.clipboard.writeText = async (text) => resolve(text))));
  await click(page, "copy-answer");
  assert.equal(await copied, ANSWER);
  await click(page, "details");
  assert.ok(await page.$eval(part("panel"), (panel) => panel.open));
  await page.$eval(part("panel"), (panel) => (panel.open = false));
}

async function following(page) {
  await page.setViewport({ ...VIEWPORT, height: 480 });
  for (const question of ["One?", "Two?", "Three?"]) await ask(page, question);
  /** Scrolls the pane, lets the latest answer or the technical details grow, and returns the distances from its start and from its end. */
  const after = (move, grow) =>
    page.$eval(
      part("talk"),
      async (pane, move, grow) => {
        const drawn = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
        if (move !== undefined) pane.scrollTop = move;
        await drawn();
        const panel = document.querySelector('[data-testid="panel"]');
        const answer = [...document.querySelectorAll('[data-testid="answer"]')].at(-1);
        if (grow === "panel") panel.open = true;
        if (grow === "answer") answer.style.height = "20rem";
        for (let frame = 0; frame < 3; frame++) await drawn();
        const distances = { start: pane.scrollTop, end: pane.scrollHeight - pane.clientHeight - pane.scrollTop };
        panel.open = false;
        answer.style.height = "";
        return distances;
      },
      move,
      grow,
    );
  const newest = await after();
  assert.ok(newest.start > 0 && newest.end < 2, JSON.stringify(newest));
  assert.equal((await after(0, "answer")).start, 0);
  assert.equal((await after(0, "panel")).start, 0);
  assert.ok((await after(1e6, "answer")).end < 2);
  await after(0);
  await ask(page, "Four?");
  assert.ok((await after()).end < 2);
  await page.setViewport(VIEWPORT);
}

/** Checks a page with pictures, an answer and its objects. */
async function accessibleChat(page, bed) {
  await attach(page, bed, "scene");
  await ask(page, "Where?");
  await attach(page, bed, "photo_cat.png");
  await accessible(page);
}

/** Runs axe-core on the page and on each dialog, in both colour schemes and languages. */
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
    // Not by emulation, which Firefox lacks.
    await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
    await hasTheme(page, theme);
    await check(`page, ${theme}`);
    if ((await page.$("dialog")) !== null) continue;
    for (const name of ["attach", "tasks", "chat"]) {
      await click(page, `menu-${name}`);
      await check(`${name}, ${theme}`);
      await click(page, `menu-${name}`);
    }
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

/** Asks Chromium whether manifest, icons and service worker allow the installation. */
async function installable(page) {
  const client = await page.createCDPSession();
  const { errors, data } = await client.send("Page.getAppManifest");
  assert.deepEqual(errors, []);
  assert.equal(JSON.parse(data).display, "standalone");
  const { installabilityErrors } = await client.send("Page.getInstallabilityErrors");
  // The windows of tests have no profile, so they cannot install anything.
  assert.deepEqual(
    installabilityErrors.filter(({ errorId }) => errorId !== "in-incognito"),
    [],
  );
  await until(page, async () => (await navigator.serviceWorker.getRegistration())?.active?.state === "activated");
}

/** Copies the site as a later build would write it: a changed page, and a service worker that lists it. */
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
