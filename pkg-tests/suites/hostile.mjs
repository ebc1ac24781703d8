// Input of strangers: manifests, listings, configs, pictures, answers and saved chats. None of it becomes HTML, a path or an address, and none
// takes more memory than the package allows.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32, deflateSync } from "node:zlib";
import { filesOf, startHub } from "../hub.mjs";
import { ask, click, part, present, ready, serveSite, textOf, until } from "../page/site.mjs";

const HTML = `<img src=x onerror="window.hacked=true"><script>window.hacked=true</script>`;
/** Texts that are dangerous as HTML, as an address, as a path, or to a reader. */
const TEXTS = {
  html: HTML,
  script: "javascript:window.hacked=true",
  address: "https://stranger.invalid/x",
  above: "../../x",
  "above, escaped": "%2e%2e%2fx",
  absolute: "/etc/x",
  windows: "..\\..\\x",
  hidden: ".x",
  "right to left": "a\u202egnp.exe",
  "zero width": "a\u200bb",
  zero: "a\0b",
  long: "x".repeat(100_000),
  empty: "",
};
/** Most wasm memory that a refusal may take, bytes: the module starts with a few MiB. */
const MOST_WASM = 48 << 20;
/** Longest time of a refusal, on a busy machine with a software GPU. */
const PATIENCE_MS = 20_000;
/** Reports of browsers about requests that the tests let fail. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked/;
const BILLION = 1_000_000_000;
const NESTED = "[".repeat(100_000) + "]".repeat(100_000);

/** Runs before the package in a worker: reports the size of its wasm memory with each message. */
const MEASURE = `{
  const channel = new BroadcastChannel("wasm memory");
  const memories = [];
  for (const name of ["instantiate", "instantiateStreaming"]) {
    const original = WebAssembly[name];
    WebAssembly[name] = async (...values) => {
      const made = await original.apply(WebAssembly, values);
      memories.push((made.instance ?? made).exports.memory);
      return made;
    };
  }
  const { postMessage } = self;
  self.postMessage = function (...values) {
    channel.postMessage(memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0));
    return postMessage.apply(self, values);
  };
}`;
const SCRIPTS = {
  "/hostile/measure.js": MEASURE,
  ...Object.fromEntries(
    ["worker", "worker-cpu", "worker-convert"].map((name) => [
      `/hostile/${name}.js`,
      `import "/hostile/measure.js"; import "/package/dist/${name}.js";`,
    ]),
  ),
};
const WORKERS = {
  workerUrl: "/hostile/worker.js",
  cpuWorkerUrl: "/hostile/worker-cpu.js",
  convertWorkerUrl: "/hostile/worker-convert.js",
};
const MODEL_WORKERS = { workerUrl: WORKERS.workerUrl, cpuWorkerUrl: WORKERS.cpuWorkerUrl };

/** Manifests: `(manifest) => changed manifest, or its text`. */
const MANIFESTS = {
  ...Object.fromEntries(
    Object.entries(TEXTS).map(([name, text]) => [`the name of a shard: ${name}`, (manifest) => void (manifest.shards[0].file = text)]),
  ),
  "the name of the vocabulary": (manifest) => {
    manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file).file = TEXTS.above;
    manifest.processor.tokenizer_file = TEXTS.above;
  },
  "the name of a notice": ({ files }) => void (files.at(-1).file = TEXTS.address),
  "a hash": ({ shards }) => void (shards[0].sha256 = `../${shards[0].sha256.slice(3)}`),
  "a vocabulary of a billion tokens": ({ config }) => void (config.decoder.vocab_size = BILLION),
  "a billion layers": ({ config }) => void (config.decoder.layers = BILLION),
  "a billion layers of the tower": ({ config }) => void (config.vision.layers = BILLION),
  "a width of a billion": ({ config }) => void (config.decoder.width = BILLION),
  "a billion queries": ({ config }) => void (config.vision.resampler.queries = BILLION),
  "a picture of a billion pixels a side": ({ config }) => void (config.vision.image_size = BILLION),
  "a number past 64 bits": (manifest) => JSON.stringify(manifest).replace(/"layers":1/, `"layers":1e300`),
  "a tensor of 10^18 weights": ({ tensors }) => void (tensors[0].shape = [BILLION, BILLION]),
  "a part of a billion rows": ({ tensors }) => void (tensors[0].parts[0].rows = BILLION),
  "a hundred thousand tensors": (manifest) => void (manifest.tensors = Array(100_000).fill(manifest.tensors[0])),
  "a shard of 2^60 bytes": ({ shards }) => void (shards[0].bytes = 2 ** 60),
  "pieces of a billion bytes": ({ shards }) => void (shards[0].pieces = { bytes: BILLION, sha256: [shards[0].sha256] }),
  "nested deeply": () => NESTED,
};
/** Those that an ordinary run takes; a thorough one takes all. */
const ORDINARY = /: (html|address|above|zero|long)$|vocabulary|a billion layers$|10\^18|tensors|2\^60|pieces|nested/;

export async function hostileTests(bed) {
  const folder = join(bed.checkpoints, "mini-a-q4");
  const manifest = JSON.parse(await readFile(join(folder, "manifest.json"), "utf8"));
  const set = bed.sets.find(({ name }) => name === "mini-a");
  const checkpoint = await filesOf(join(set.root, "checkpoints", "mini-a"));
  const hub = await startHub({});
  bed.cleanup(() => hub.close());
  /** Paths that the current test was asked for, and the manifest that it serves. */
  let asked = [];
  let served = "";
  const handle = (path, response) => {
    asked.push(path);
    if (path === "/hostile/model/manifest.json") {
      response.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" }).end(served);
      return true;
    }
    if (!(path in SCRIPTS)) return false;
    response.writeHead(200, { "content-type": "text/javascript" }).end(SCRIPTS[path]);
    return true;
  };
  const hostileTest = (name, body, { expected = FAILED_REQUEST, ...options } = {}) =>
    bed.pageTest(
      `hostile: ${name}`,
      async (page) => {
        await bed.closeShared();
        hub.reset();
        bed.handle = handle;
        await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.clear());
        await page.evaluate(watchMemory);
        asked = [];
        await body(page);
      },
      { expected, ...options },
    );
  /** Runs a call of the package, and checks its time and its memory. Returns its error. */
  const refused = async (page, label, call, ...values) => {
    const { error, wasm, millis } = await page.evaluate(call, ...values);
    assert.ok(wasm > 0, `${label}: no memory was measured`);
    assert.ok(wasm <= MOST_WASM, `${label}: ${wasm} bytes of wasm memory`);
    assert.ok(millis < PATIENCE_MS, `${label}: ${millis} ms`);
    return error;
  };

  hostileTest("manifests are refused before anything is fetched or allocated", async (page) => {
    const manifests = Object.entries(MANIFESTS).filter(([name]) => bed.thorough || ORDINARY.test(name));
    assert.ok(manifests.length >= 12, `${manifests.length} manifests`);
    for (const [at, [name, change]] of manifests.entries()) {
      const changed = structuredClone(manifest);
      const text = change(changed);
      served = text ?? JSON.stringify(changed);
      asked = [];
      // Both validate the same, so each second one is enough for the check.
      for (const operation of at % 2 === 0 ? ["check", "load"] : ["load"]) {
        const error = await refused(page, `${name}, ${operation}`, operate, operation, "/hostile/model/", { ...MODEL_WORKERS });
        assert.equal(error?.code, "MANIFEST_INVALID", `${name}, ${operation}: ${JSON.stringify(error)}`);
        assert.ok(error.message.length < 2100, `${name}: a message of ${error.message.length} characters`);
      }
      const others = asked.filter((path) => path !== "/hostile/model/manifest.json" && !path.startsWith("/package/") && !(path in SCRIPTS));
      assert.deepEqual(others, [], name);
    }
    // Nothing is stored.
    assert.deepEqual(await page.evaluate(async () => (await import("qwen-vl-web")).QwenVL.cache.list()), []);
  });

  hostileTest("a text that never ends is not read to its end", async (page) => {
    // It is longer than any manifest, and arrives as fast as it is read.
    const piece = Buffer.alloc(1 << 20, " ");
    let sent = 0;
    bed.handle = (path, response) => {
      if (path !== "/hostile/endless/manifest.json") return handle(path, response);
      response.writeHead(200, { "content-type": "application/json" });
      const more = () => {
        while (!response.destroyed && sent < 2 ** 30) {
          sent += piece.length;
          if (!response.write(piece)) return void response.once("drain", more);
        }
        response.end();
      };
      more();
      return true;
    };
    const { error } = await page.evaluate(operate, "load", "/hostile/endless/", { ...MODEL_WORKERS, retries: 0 });
    assert.equal(error?.code, "DOWNLOAD", JSON.stringify(error));
    assert.match(error.message, /longer than/);
    assert.ok(sent < 2 ** 28, `${sent} bytes were sent`);
  });

  hostileTest("names of a repository's files lead nowhere", async (page) => {
    const leaves = (text) => text.split("/").some((part) => /^\.{0,2}$/.test(part));
    const plan = async (names) => {
      const files = new Map(checkpoint);
      for (const name of names)
        for (const ending of ["", ".safetensors", ".bin", "/config.json"]) files.set(name + ending, Buffer.from("{}"));
      hub.repositories = { "test/hostile": { files, license: HTML } };
      hub.requests = [];
      const found = await page.evaluate(planInPage, "hf:test/hostile", { hubUrl: hub.origin, retries: 0 });
      const paths = hub.requests.filter(({ host }) => host === "hub").map(({ path }) => path);
      assert.ok(paths.length > 0);
      for (const path of paths) assert.match(path, /^(\/api\/models)?\/test\/hostile\/(revision|tree|resolve)\//);
      return found;
    };
    const texts = Object.values(TEXTS).filter((text) => text !== "");
    const harmless = await plan(texts.filter((text) => !leaves(text)));
    assert.deepEqual([harmless.error, harmless.plan?.licence], [undefined, HTML]);
    for (const text of texts.filter(leaves)) assert.equal((await plan([text])).error?.code, "DOWNLOAD", text);
  });

  hostileTest("a repository's list of files stays at its host", async (page) => {
    const { error, asked } = await page.evaluate(planElsewhereInPage, "hf:test/hostile");
    assert.equal(error?.code, "DOWNLOAD", JSON.stringify(error));
    assert.deepEqual(
      asked.filter((url) => !url.startsWith("https://hub.invalid/")),
      [],
    );
  });

  hostileTest("an index of weights and an address of a folder lead nowhere", async (page) => {
    const index = { weight_map: { a: "..", b: ".", c: "../secret", d: "", e: 7, f: "javascript:x", g: "https://stranger.invalid/y" } };
    const many = { weight_map: Object.fromEntries(Array.from({ length: 5000 }, (_, at) => [`t${at}`, `f${at}.safetensors`])) };
    for (const [folder, { content, code }] of Object.entries({
      index: { content: index, code: /CHECKPOINT_INVALID|UNSUPPORTED_MODEL|DOWNLOAD/ },
      many: { content: many, code: /CHECKPOINT_INVALID/ },
    })) {
      const base = `/hostile/${folder}/`;
      bed.handle = (path, response) => {
        if (path.startsWith("/package/")) return false;
        asked.push(path);
        const files = {
          [`${base}config.json`]: checkpoint.get("config.json"),
          [`${base}model.safetensors.index.json`]: JSON.stringify(content),
        };
        const name = path in files ? path : undefined;
        if (name) {
          const bytes = Buffer.from(files[name]);
          // One answer of a whole file is an answer to every range.
          response.writeHead(200, { "content-type": "application/json", "content-length": bytes.length }).end(bytes);
        } else response.writeHead(404).end();
        return true;
      };
      await page.evaluate(() => import("qwen-vl-web"));
      asked = [];
      const { error } = await page.evaluate(planInPage, base, { retries: 0 });
      assert.match(String(error?.code), code, `${folder}: ${JSON.stringify(error)}`);
      for (const path of asked.filter((path) => path.startsWith("/hostile") && folder === "index"))
        assert.ok(path.startsWith(base) && path !== base, path);
      assert.ok(asked.length < 100, `${folder}: ${asked.length} requests`);
    }
    // The escape in this address is none.
    const { error } = await page.evaluate(planFolderInPage, "https://models.invalid/%zz/");
    assert.match(String(error?.code), /CHECKPOINT_INVALID|UNSUPPORTED_MODEL/, JSON.stringify(error));
  });

  hostileTest("configs of a checkpoint are refused before anything is allocated", async (page) => {
    const config = JSON.parse(checkpoint.get("config.json").toString());
    const changes = {
      "a billion layers": { num_hidden_layers: BILLION },
      "a vocabulary of a billion tokens": { vocab_size: BILLION },
      "a width of a billion": { hidden_size: BILLION },
      "a tower of a billion layers": { visual: { ...config.visual, layers: BILLION } },
      "a tower of a billion columns": { visual: { ...config.visual, width: BILLION } },
      "a picture of a billion pixels a side": { visual: { ...config.visual, image_size: BILLION } },
      "a negative number": { num_hidden_layers: -1 },
      "a number past 64 bits": { num_hidden_layers: 1e300 },
      "a text as a number": { num_hidden_layers: HTML },
    };
    const texts = Object.entries(changes).map(([name, change]) => [name, JSON.stringify({ ...config, ...change })]);
    texts.push(["nested deeply", NESTED], ["nested deeply in a key", JSON.stringify(config).replace("{", `{"x":${NESTED},`)]);
    for (const [name, text] of texts) {
      const files = new Map([...checkpoint, ["config.json", Buffer.from(text)]]);
      hub.repositories = { "test/hostile": { files } };
      const options = { hubUrl: hub.origin, retries: 0, convertWorkerUrl: WORKERS.convertWorkerUrl };
      const error = await refused(page, name, operate, "plan", "hf:test/hostile", options);
      assert.match(String(error?.code), /^(CHECKPOINT_INVALID|UNSUPPORTED_MODEL)$/, `${name}: ${JSON.stringify(error)}`);
      assert.ok(error.message.length < 2100, `${name}: a message of ${error.message.length} characters`);
    }
  });

  hostileTest("pictures that are small files and large pictures", async (page) => {
    const pictures = {
      "PNG, 900 million pixels": [png(30_000, 30_000), /^IMAGE_/],
      "PNG, 2^31 pixels a side": [png(2 ** 31 - 1, 2 ** 31 - 1), /^IMAGE_/],
      "PNG, data that inflates to a gigabyte": [png(8, 8, deflateSync(Buffer.alloc(1 << 28), { level: 9 })), /^(IMAGE_DECODE|right)$/],
      "PNG, a colour profile that inflates to a quarter of a gigabyte": [
        png(8, 8, undefined, chunk("iCCP", Buffer.concat([Buffer.from("x\0\0"), deflateSync(Buffer.alloc(1 << 28), { level: 9 })]))),
        /^(IMAGE_DECODE|right)$/,
      ],
      "GIF, 65535 pixels a side": [gif(65_535, 65_535), /^IMAGE_/],
      "JPEG, 65535 pixels a side": [jpeg(65_535, 65_535), /^IMAGE_/],
      "WebP, 16384 pixels a side": [webp(16_384, 16_384), /^IMAGE_/],
      "BMP, 2^31 pixels a side": [bmp(2 ** 31 - 1, 2 ** 31 - 1), /^IMAGE_/],
      "no pixels": [png(0, 0), /^IMAGE_/],
    };
    const error = await page.evaluate(loadInPage, "/checkpoints/mini-a-q4/", { ...MODEL_WORKERS, backend: "cpu", cache: "none" });
    assert.equal(error, undefined, JSON.stringify(error));
    const before = await page.evaluate(() => window.wasmBytes);
    assert.ok(before > 0);
    for (const [name, [bytes, wanted]] of Object.entries(pictures)) {
      const { code, wasm, millis } = await page.evaluate(encodeInPage, bytes.toString("base64"));
      assert.match(code, wanted, name);
      assert.ok(wasm - before < 32 << 20, `${name}: ${wasm - before} bytes of wasm memory`);
      assert.ok(millis < PATIENCE_MS, `${name}: ${millis} ms`);
    }
    await page.evaluate(() => window.model.dispose());
  });

  hostileTest("pictures that the browser draws are refused before their pixels take memory", async (page) => {
    const error = await page.evaluate(loadInPage, "/checkpoints/mini-a-q4/", { ...MODEL_WORKERS, backend: "cpu", cache: "none" });
    assert.equal(error, undefined, JSON.stringify(error));
    for (const form of ["file", "address", "element"]) {
      const small = await page.evaluate(encodeVectorInPage, form, 60, 40);
      assert.deepEqual([small.code, small.largest], ["right", 2400], form);
      for (const [width, height] of [
        [16_384, 16_384],
        [8193, 8192],
        [2 ** 27, 1],
        [BILLION, BILLION],
      ]) {
        const { code, largest, millis } = await page.evaluate(encodeVectorInPage, form, width, height);
        const label = `${form}, ${width}×${height}`;
        // Browsers cut off longer sides, so that the picture can be small enough.
        const isExact = Math.max(width, height) <= 16_384;
        assert.match(code, isExact ? /^IMAGE_TOO_LARGE$/ : /^(IMAGE_\w+|right)$/, `${label}: ${code}`);
        assert.ok(largest <= (isExact ? 0 : 2 ** 26), `${label}: ${largest} pixels were drawn`);
        assert.ok(millis < PATIENCE_MS, `${label}: ${millis} ms`);
      }
    }
    await page.evaluate(() => window.model.dispose());
  });

  demoPage(bed);
}

/** The demo page, with every text of strangers that it shows. */
function demoPage(bed) {
  const site = join(bed.repository, "www/dist");
  const folder = join(bed.checkpoints, "scripted");
  /** Registers a visit under the page's policy as a header too, so that its workers have it. */
  const visit = (name, body, { path = "/", handle = async () => false, prepare } = {}) =>
    bed.test(`hostile: the page: ${name}`, async () => {
      await bed.closeShared();
      const html = await readFile(join(site, "index.html"), "utf8");
      const [, policy] = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(html);
      const violations = [];
      const server = await serveSite(site, folder, {
        async handle(path, response) {
          response.setHeader("content-security-policy", `${policy}; report-uri /violations`);
          if (path === "/violations") {
            response.req.on("data", (piece) => violations.push(String(piece)));
            response.writeHead(204).end();
            return true;
          }
          if (/\/index-[^/]*\.js$/.test(path)) {
            const script = await readFile(join(site, path), "utf8");
            // The CPU fallback: no kernels have to be compiled.
            response.writeHead(200, { "content-type": "text/javascript" }).end(`delete Navigator.prototype.gpu;${script}`);
            return true;
          }
          return handle(path, response);
        },
      });
      try {
        await bed.open(
          async (page) => {
            const foreign = [];
            page.on("request", (request) => {
              const { protocol, origin, href } = new URL(request.url());
              if (/^https?:$/.test(protocol) && ![server.origin, bed.origin].includes(origin)) foreign.push(href);
            });
            await prepare?.(page);
            await page.goto(server.origin + path);
            await body(page, server);
            await unharmed(page);
            assert.deepEqual(foreign, []);
          },
          { expected: /Failed to load resource/ },
        );
        assert.deepEqual(violations, []);
      } finally {
        server.close();
      }
    });

  visit(
    "an answer is text",
    async (page) => {
      await ready(page);
      await ask(page, "What is this?");
      const shown = await page.$$eval(part("answer"), (answers) => answers.at(-1).textContent);
      assert.ok(shown.includes(HTML), shown);
    },
    {
      async handle(path, response) {
        // The worker writes this in place of a word of the model.
        if (!/\/worker-cpu-[^/]*\.js$/.test(path)) return false;
        const script = await readFile(join(site, path), "utf8");
        const change = `{
        const { postMessage } = self;
        const swap = (value) =>
          typeof value === "string" ? value.replaceAll("person", ${JSON.stringify(HTML)})
          : Array.isArray(value) ? value.map(swap)
          : value?.constructor === Object ? Object.fromEntries(Object.entries(value).map(([key, value]) => [key, swap(value)]))
          : value;
        self.postMessage = (message, ...rest) => postMessage.call(self, swap(message), ...rest);
      }`;
        response.writeHead(200, { "content-type": "text/javascript" }).end(change + script);
        return true;
      },
    },
  );

  visit("a saved chat is text", async (page) => {
    await ready(page);
    const range = [0, 4];
    const object = { ref: HTML, image: 0, range, kind: "box", norm: [1, 2, 30, 40] };
    const data = `data:image/png;base64,${png(8, 8, deflateSync(Buffer.alloc(8 * 25))).toString("base64")}`;
    const chat = {
      format: "qwen-vl-web-chat",
      version: 1,
      system: HTML,
      pictures: [{ id: "1", name: `../../${HTML}`, data }],
      turns: [{ text: HTML, pictures: ["1"], raw: HTML, answer: { text: HTML, objects: [object] } }],
    };
    await openChat(page, JSON.stringify(chat), `${HTML}.json`);
    await present(page, "answer");
    assert.equal(await textOf(page, "asked"), HTML);
    assert.ok((await textOf(page, "answer")).includes(HTML.slice(4)), await textOf(page, "answer"));
    // Pictures come from the file alone.
    for (const data of [
      "javascript:window.hacked=true",
      "https://stranger.invalid/x.png",
      "data:text/html,x",
      "data:image/svg+xml,<svg onload='window.hacked=true'/>",
      "blob:x",
    ]) {
      const turns = [{ text: "It was opened.", pictures: ["1"], raw: "It was opened." }];
      await openChat(page, JSON.stringify({ ...chat, pictures: [{ id: "1", name: "x", data }], turns }), "chat.json");
      await present(page, "error");
      assert.equal(await textOf(page, "error-title"), "This file is not a saved chat.", data);
      assert.equal(await textOf(page, "asked"), HTML, data);
    }
    await openChat(page, NESTED, `${HTML}.json`);
    await present(page, "error");
  });

  visit(
    "the facts of a model are text",
    async (page) => {
      await ready(page);
      await page.$eval(part("panel"), (panel) => (panel.open = true));
      assert.ok((await textOf(page, "model")).includes(HTML));
      await click(page, "models");
      await until(page, () => document.querySelector("[data-testid=stored] li") !== null);
      assert.ok((await textOf(page, "stored")).includes(HTML));
    },
    {
      async handle(path, response) {
        if (path !== "/model/manifest.json") return false;
        const manifest = JSON.parse(await readFile(join(folder, "manifest.json"), "utf8"));
        Object.assign(manifest.provenance, { source: HTML, modifications: HTML });
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(manifest));
        return true;
      },
    },
  );

  for (const [name, address] of Object.entries({
    "that is HTML": `/${HTML}/`,
    "that is a script": "javascript:window.hacked=true",
    "that is data": `data:application/json,${HTML}`,
    "that leads out of the folder": "../../../x",
  })) {
    visit(
      `an address of a model ${name}`,
      async (page) => {
        await until(page, () => document.querySelector('[data-testid="error"], [data-testid="statement"]') !== null);
      },
      { path: `/?model=${encodeURIComponent(address)}` },
    );
  }
}

/** Asserts that no text became an element or a script. */
async function unharmed(page) {
  // Events of elements come after the elements.
  await new Promise((resolve) => setTimeout(resolve, 100));
  const found = await page.evaluate(() => ({
    hacked: window.hacked ?? false,
    scripts: [...document.scripts].filter(({ src, text }) => !src || text).map(({ outerHTML }) => outerHTML),
    elements: [...document.querySelectorAll('img[src="x"], [onerror], [onload], iframe, object, embed, base')].map(
      ({ outerHTML }) => outerHTML,
    ),
    links: [...document.querySelectorAll("[href], [src]")]
      .map((element) => element.getAttribute("href") ?? element.getAttribute("src"))
      .filter((address) => /^\s*(javascript|data:text)/i.test(address)),
  }));
  assert.deepEqual(found, { hacked: false, scripts: [], elements: [], links: [] });
}

const openChat = (page, text, name) =>
  page.$eval(
    part("import"),
    (input, text, name) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([text], name, { type: "application/json" }));
      input.files = transfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    },
    text,
    name,
  );

// Pictures whose headers promise more than their files have.

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}

/** RGB, 8 bits. */
function png(width, height, data = deflateSync(Buffer.alloc(1000)), more = Buffer.alloc(0)) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk("IHDR", header), more, chunk("IDAT", data), chunk("IEND", Buffer.alloc(0))]);
}

function gif(width, height) {
  const size = Buffer.alloc(4);
  size.writeUInt16LE(width, 0);
  size.writeUInt16LE(height, 2);
  const frame = Buffer.concat([Buffer.from([0x2c, 0, 0, 0, 0]), size, Buffer.from([0, 2, 2, 0x4c, 0x01, 0, 0x3b])]);
  return Buffer.concat([Buffer.from("GIF89a"), size, Buffer.from([0x80, 0, 0, 0, 0, 0, 255, 255, 255]), frame]);
}

function jpeg(width, height) {
  const frame = Buffer.from([0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, 0, 0, 0, 0, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
  frame.writeUInt16BE(height, 7);
  frame.writeUInt16BE(width, 9);
  return Buffer.concat([frame, Buffer.from([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0, 0xff, 0xd9])]);
}

function webp(width, height) {
  const extended = Buffer.alloc(18);
  extended.write("VP8X");
  extended.writeUInt32LE(10, 4);
  extended.writeUIntLE(width - 1, 12, 3);
  extended.writeUIntLE(height - 1, 15, 3);
  const head = Buffer.alloc(12);
  head.write("RIFF");
  head.writeUInt32LE(4 + extended.length, 4);
  head.write("WEBP", 8);
  return Buffer.concat([head, extended]);
}

function bmp(width, height) {
  const file = Buffer.alloc(54);
  file.write("BM");
  file.writeUInt32LE(54, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width, 18);
  file.writeInt32LE(height, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  return file;
}

// The functions below run in the page.

/** Keeps the most wasm memory that a worker has reported in `window.wasmBytes`. */
function watchMemory() {
  window.wasmBytes = 0;
  new BroadcastChannel("wasm memory").onmessage = ({ data }) => (window.wasmBytes = Math.max(window.wasmBytes, data));
}

/** Runs a call that is to be refused. */
async function operate(operation, source, options) {
  const { QwenVL } = await import("qwen-vl-web");
  const began = performance.now();
  window.wasmBytes = 0;
  let error;
  try {
    if (operation === "check") {
      const { reasons } = await QwenVL.check(source, options);
      error = reasons.find(({ code }) => !["NO_ADAPTER", "WEBGPU_UNAVAILABLE"].includes(code));
    } else if (operation === "plan") await QwenVL.plan(source, options);
    else await (await QwenVL.load(source, { ...options, backend: "cpu" })).dispose();
  } catch ({ code, message }) {
    error = { code, message };
  }
  const millis = performance.now() - began;
  // The report of the memory comes on another way than the error.
  for (let wait = 0; wait < 50 && window.wasmBytes === 0; wait += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  return { error, wasm: window.wasmBytes, millis };
}

async function planInPage(source, options) {
  const { QwenVL } = await import("qwen-vl-web");
  try {
    return { plan: await QwenVL.plan(source, options) };
  } catch ({ code, message }) {
    return { error: { code, message } };
  }
}

/** Plans with a folder whose only file is an empty config. */
async function planFolderInPage(source) {
  const { QwenVL } = await import("qwen-vl-web");
  const fetch = async (url) =>
    url.endsWith("/config.json") ? new Response("{}", { headers: { "content-length": "2" } }) : new Response("", { status: 404 });
  try {
    return { plan: await QwenVL.plan(source, { fetch, retries: 0 }) };
  } catch ({ code, message }) {
    return { error: { code, message } };
  }
}

/** Plans with a Hub that names another host for the rest of its list. */
async function planElsewhereInPage(source) {
  const { QwenVL } = await import("qwen-vl-web");
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    if (url.includes("/revision/")) return Response.json({ sha: "0".repeat(40) });
    return Response.json([], { headers: { link: '<https://stranger.invalid/list>; rel="next"' } });
  };
  try {
    await QwenVL.plan(source, { hubUrl: "https://hub.invalid", fetch, retries: 0, accessToken: "secret" });
    return { asked };
  } catch ({ code, message }) {
    return { error: { code, message }, asked };
  }
}

async function loadInPage(url, options) {
  const { QwenVL } = await import("qwen-vl-web");
  try {
    window.model = await QwenVL.load(url, options);
    return undefined;
  } catch ({ code, message }) {
    return { code, message };
  }
}

async function encodeInPage(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const began = performance.now();
  const code = await window.model.encodeImage(new Blob([bytes])).then(
    () => "right",
    ({ code, message }) => code ?? message,
  );
  const millis = performance.now() - began;
  await new Promise((resolve) => setTimeout(resolve, 20));
  return { code, wasm: window.wasmBytes, millis };
}

/** Encodes an SVG of this size. Returns the pixels of the largest canvas or bitmap that the page made for it, too. */
async function encodeVectorInPage(form, width, height) {
  const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="9" height="9"/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(text)}`;
  const forms = {
    file: () => new Blob([text]),
    address: () => address,
    element: async () => {
      const image = new Image();
      const loaded = new Promise((resolve) => Object.assign(image, { onload: resolve, onerror: resolve }));
      image.src = address;
      await loaded;
      return image;
    },
  };
  const image = await forms[form]();
  const { OffscreenCanvas, createImageBitmap } = window;
  let largest = 0;
  const see = ({ width, height }) => (largest = Math.max(largest, width * height));
  window.OffscreenCanvas = class extends OffscreenCanvas {
    constructor(...values) {
      super(...values);
      see(this);
    }
  };
  window.createImageBitmap = async (...values) => {
    const bitmap = await createImageBitmap.apply(window, values);
    see(bitmap);
    return bitmap;
  };
  const began = performance.now();
  try {
    const code = await window.model.encodeImage(image).then(
      () => "right",
      ({ code, message }) => code ?? message,
    );
    return { code, largest, millis: performance.now() - began };
  } finally {
    Object.assign(window, { OffscreenCanvas, createImageBitmap });
  }
}
