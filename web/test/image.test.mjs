// Pictures on their way to the worker: the sizes of their files. In Node, so no picture is decoded.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { capture } from "../dist/api/image.js";

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** Largest file of a picture, bytes, as the README states it. */
const LARGEST = 257 << 20;

/** Runs `work` with the address of a server. */
async function withServer(answer, work) {
  const server = createServer(answer);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await work(`http://127.0.0.1:${server.address().port}/`);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

test("a picture of an address that never ends is not read to its end", async () => {
  const piece = Buffer.alloc(1 << 20);
  let sent = 0;
  const answer = (request, response) => {
    response.writeHead(200, { "content-type": "image/png" });
    const more = () => {
      while (!response.destroyed && sent < 2 ** 30) {
        sent += piece.length;
        if (!response.write(piece)) return void response.once("drain", more);
      }
      response.end();
    };
    more();
  };
  await withServer(answer, async (url) => {
    const message = /^the picture's file has more than 269484032 bytes, expected at most 269484032/;
    await assert.rejects(capture(url, "from-image"), { code: "IMAGE_TOO_LARGE", message });
  });
  assert.ok(sent > LARGEST && sent < LARGEST + 2 ** 27, `${sent} bytes were sent`);
});

test("a picture of an address arrives as it is", async () => {
  await withServer(
    (request, response) => {
      const type = { "/png": "image/png", "/other": "Image/X-Other; a=b", "/wrong": "a,b", "/none": undefined }[request.url];
      response.writeHead(200, type ? { "content-type": type } : {}).end(request.url === "/png" ? PNG : "bytes");
    },
    async (url) => {
      const { bytes, ...rest } = await capture(`${url}png`, "from-image");
      assert.deepEqual([Buffer.from(bytes), rest], [PNG, { kind: "encoded", type: "image/png", upright: true }]);
      for (const [path, type] of [
        ["other", "image/x-other"],
        ["wrong", "application/octet-stream"],
        ["none", "application/octet-stream"],
      ]) {
        const { bytes, ...rest } = await capture(new URL(path, url), "none");
        assert.deepEqual([String(Buffer.from(bytes)), rest], ["bytes", { kind: "encoded", type, upright: false }]);
      }
    },
  );
});

test("an abort ends the body of a picture, with the signal's reason", async () => {
  await withServer(
    (request, response) => void response.writeHead(200).write("bytes"),
    async (url) => {
      const controller = new AbortController();
      const captured = capture(url, "from-image", controller.signal);
      setTimeout(() => controller.abort(new Error("enough")), 50);
      await assert.rejects(captured, /^Error: enough$/);
    },
  );
});

test("a file that is too large is not read", async () => {
  const file = new Blob([PNG]);
  const read = () => assert.fail("the file was read");
  for (const name of ["arrayBuffer", "stream", "slice"]) Object.defineProperty(file, name, { value: read });
  Object.defineProperty(file, "size", { value: LARGEST + 1 });
  await assert.rejects(capture(file, "from-image"), {
    code: "IMAGE_TOO_LARGE",
    message: /has 269484033 bytes, expected at most 269484032/,
  });
});

test("pixels of a page that are too many are not copied", async () => {
  class ImageData {
    width = 8193;
    height = 8192;
    get data() {
      return [];
    }
  }
  globalThis.ImageData = ImageData;
  try {
    const message = /^the picture is 8193×8192, 67117056 pixels, expected at most 67108864/;
    await assert.rejects(capture(new ImageData(), "from-image"), { code: "IMAGE_TOO_LARGE", message });
  } finally {
    delete globalThis.ImageData;
  }
});

/** Captures with a browser's function that makes this bitmap. Returns the error, the calls, and the calls of its `close`. */
async function captured(image, { width, height }) {
  const found = { calls: 0, closed: 0, error: undefined };
  globalThis.createImageBitmap = async () => {
    found.calls += 1;
    return { width, height, close: () => void (found.closed += 1) };
  };
  try {
    await capture(image, "from-image");
  } catch (error) {
    found.error = error;
  } finally {
    delete globalThis.createImageBitmap;
  }
  return found;
}

test("a file that the browser decodes to too many pixels is closed at once", async () => {
  // The size of an AVIF file is not known before it is decoded.
  const file = new Blob(["    ftypavif"], { type: "image/avif" });
  const { error, closed } = await captured(file, { width: 16_384, height: 16_384 });
  assert.deepEqual([error?.code, error?.details, closed], ["IMAGE_TOO_LARGE", { width: 16_384, height: 16_384 }, 1]);
});

test("what can be drawn is refused by its size before a bitmap of it is made", async () => {
  class Drawable {
    constructor(sizes) {
      Object.assign(this, sizes);
    }
  }
  // A picture and a video can be shown smaller than they are.
  for (const sizes of [
    { width: 16_384, height: 16_384 },
    { width: 1, height: 1, naturalWidth: 16_384, naturalHeight: 16_384 },
    { width: 1, height: 1, videoWidth: 16_384, videoHeight: 16_384 },
    { displayWidth: 16_384, displayHeight: 16_384 },
  ]) {
    const { error, calls } = await captured(new Drawable(sizes), { width: 1, height: 1 });
    assert.deepEqual([error?.code, calls], ["IMAGE_TOO_LARGE", 0], JSON.stringify(sizes));
  }
  // The size that was found before can be another one.
  const { error, closed } = await captured(new Drawable({}), { width: 8193, height: 8192 });
  assert.deepEqual([error?.code, closed], ["IMAGE_TOO_LARGE", 1]);
});
