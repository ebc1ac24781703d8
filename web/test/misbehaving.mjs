// A server with the faults of real networks and servers. It counts the bytes that it sends.

import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";

/**
 * Fault of a response. Without any of these the response is correct.
 *
 * @typedef {object} Fault
 * @property {number} [cut] close the connection after this many bytes of the body
 * @property {number} [stall] send nothing more after this many bytes of the body
 * @property {number} [status] answer with this status and no file
 * @property {Record<string, string>} [headers] more headers
 * @property {boolean} [noRange] ignore the range
 * @property {boolean} [hideRange] leave out `Content-Range`
 * @property {number} [early] send a range that begins this many bytes earlier
 * @property {number} [declare] add to `Content-Length`
 * @property {boolean} [gzip] compress
 * @property {boolean} [html] answer with a web page
 * @property {Buffer} [body] send this instead of the file
 */

const PAGE = Buffer.from("<!doctype html><title>Not what you asked for</title>");
const CORS = {
  "access-control-allow-origin": "*",
  "access-control-allow-headers": "*",
  "access-control-expose-headers": "etag, content-range, content-encoding, retry-after",
};

/** @param {(path: string) => Promise<Buffer | undefined>} read a file of the server */
export async function misbehavingServer(read) {
  const server = {
    origin: "",
    /**
     * `nth` request for this path, from 0. A promise delays the response.
     *
     * @type {(path: string, nth: number, range: number | undefined) => Fault | undefined | Promise<Fault | undefined>}
     */
    fault: () => undefined,
    /**
     * Milliseconds before a connection is cut. Browsers drop what they have received and not yet handed out when a connection ends in an
     * error; a reader that keeps up has read it by then.
     */
    linger: 0,
    /** @type {{ path: string, range: number | undefined, sent: number, at: number }[]} */
    requests: [],
    /** Bytes of bodies, those of answers with an error too. */
    sent: (path) =>
      server.requests.filter((request) => path === undefined || request.path === path).reduce((sum, { sent }) => sum + sent, 0),
    /** Waits until nothing has been asked or answered for a while: requests of an aborted load may still be on their way. */
    async quiet() {
      while (server.active > 0 || performance.now() - server.last < 300) await sleep(50);
    },
    active: 0,
    last: 0,
    reset() {
      server.requests = [];
      server.fault = () => undefined;
    },
    close() {
      http.close();
      http.closeAllConnections();
    },
  };
  const http = createServer((request, response) => {
    server.active += 1;
    answer(request, response)
      .catch((error) => {
        console.error(error);
        response.destroy();
      })
      .finally(() => {
        server.active -= 1;
        server.last = performance.now();
      });
  });

  async function answer(request, response) {
    if (request.method === "OPTIONS") return void response.writeHead(204, CORS).end();
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1];
    const record = { path, range: range === undefined ? undefined : Number(range), sent: 0, at: performance.now() };
    const nth = server.requests.filter((earlier) => earlier.path === path).length;
    server.requests.push(record);
    const fault = (await server.fault(path, nth, record.range)) ?? {};
    const file = fault.body ?? (await read(path));
    const headers = { ...CORS, "content-type": "application/octet-stream", "cache-control": "no-cache", ...fault.headers };
    if (!file && fault.cut !== undefined) return void response.socket?.end();
    if (fault.status || !file) return void response.writeHead(fault.status ?? 404, headers).end();

    let [status, body] = [200, fault.html ? PAGE : file];
    if (fault.html) headers["content-type"] = "text/html; charset=utf-8";
    if (record.range !== undefined && !fault.noRange) {
      if (record.range >= file.length) return void response.writeHead(416, { ...headers, "content-range": `bytes */${file.length}` }).end();
      const start = record.range - (fault.early ?? 0);
      [status, body] = [206, file.subarray(start)];
      if (!fault.hideRange) headers["content-range"] = `bytes ${start}-${file.length - 1}/${file.length}`;
    }
    if (fault.gzip) {
      body = gzipSync(body);
      headers["content-encoding"] = "gzip";
    }
    headers["content-length"] = body.length + (fault.declare ?? 0);
    if (fault.declare > 0) response.strictContentLength = false;
    if (fault.declare < 0) body = body.subarray(0, headers["content-length"]);
    const end = fault.cut ?? fault.stall ?? body.length;
    response.writeHead(status, headers);
    await send(response, body.subarray(0, end), record);
    if (fault.stall !== undefined) return;
    const cut = end < body.length || fault.declare > 0;
    if (cut) await sleep(server.linger);
    if (cut) response.socket?.end();
    else response.end();
  }

  await new Promise((resolve, reject) => http.once("error", reject).listen(0, "127.0.0.1", resolve));
  server.origin = `http://127.0.0.1:${http.address().port}`;
  return server;
}

/** Writes as fast as the reader takes it, so that what it never asked for is not counted. */
async function send(response, body, record) {
  const closed = once(response, "close");
  for (let at = 0; at < body.length; at += 16384) {
    const piece = body.subarray(at, at + 16384);
    if (response.destroyed) return;
    const flushed = response.write(piece);
    record.sent += piece.length;
    if (!flushed) await Promise.race([once(response, "drain"), closed]);
  }
}
