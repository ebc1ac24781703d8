// A static server for the tests and the demo: folders under prefixes, MIME types, byte ranges.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { pipeline } from "node:stream/promises";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".jpg": "image/jpeg",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json",
};

/**
 * Serves on this machine only.
 *
 * @param {Record<string, string>} folders prefix (`/model/`) to folder; the longest that fits counts
 * @param {{ port?: number, handle?: (path: string, response: import("node:http").ServerResponse) => boolean | Promise<boolean> }} options
 *   `handle` may answer a request itself and then returns true
 * @returns {Promise<{ origin: string, close(): void }>}
 */
export async function serve(folders, { port = 0, handle } = {}) {
  const prefixes = Object.keys(folders).sort((a, b) => b.length - a.length);
  const server = createServer((request, response) => {
    answer(request, response).catch((error) => {
      if (!response.headersSent) response.writeHead(500);
      // A client that disconnected is not an error.
      if (error.code !== "ERR_STREAM_PREMATURE_CLOSE") console.error(error);
      response.destroy();
    });
  });

  async function answer(request, response) {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    if (await handle?.(path, response)) return;
    const file = await find(path);
    if (!file) {
      response.writeHead(404, { "content-type": "text/plain" }).end(`not found: ${path}\n`);
      return;
    }
    const headers = {
      "content-type": TYPES[extname(file.path)] ?? "application/octet-stream",
      "cache-control": "no-cache",
      "accept-ranges": "bytes",
      etag: file.etag,
    };
    // Browsers keep the compiled code of scripts and wasm that have not changed.
    if (request.headers["if-none-match"] === file.etag) {
      response.writeHead(304, headers).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    let [start, end] = [0, file.size - 1];
    if (range) {
      start = Number(range[1]);
      end = Math.min(range[2] === "" ? end : Number(range[2]), end);
      if (start > end) {
        response.writeHead(416, { "content-range": `bytes */${file.size}` }).end();
        return;
      }
      headers["content-range"] = `bytes ${start}-${end}/${file.size}`;
    }
    response.writeHead(range ? 206 : 200, { ...headers, "content-length": end - start + 1 });
    if (request.method === "HEAD" || file.size === 0) response.end();
    else await pipeline(createReadStream(file.path, { start, end }), response);
  }

  async function find(path) {
    const prefix = prefixes.find((prefix) => path.startsWith(prefix));
    if (prefix === undefined) return undefined;
    const inside = normalize(path.slice(prefix.length) || "index.html");
    if (inside === ".." || inside.startsWith(`..${sep}`)) return undefined;
    let file = join(folders[prefix], inside);
    let info = await stat(file).catch(() => undefined);
    if (info?.isDirectory()) {
      file = join(file, "index.html");
      info = await stat(file).catch(() => undefined);
    }
    return info && { path: file, size: info.size, etag: `"${info.size}-${info.mtimeMs}"` };
  }

  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
