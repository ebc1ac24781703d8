// A stand-in of the Hugging Face Hub: the Hub and its storage host, as two servers with two origins.

import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";

/** Access token of an account that may read every repository. */
export const TOKEN = "hf_of_the_tests";
/** Entries on a page of a list of files. The Hub has 1000. */
const PAGE = 3;
/** Kinds of files that the Hub keeps in Git LFS. */
const LARGE = [".bin", ".safetensors"];
const EXPOSED = "X-Repo-Commit,X-Error-Code,X-Error-Message,ETag,Link,Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag";

/**
 * @typedef {object} Repository
 * @property {Map<string, Buffer>} files content by path
 * @property {Map<string, Buffer>[]} [earlier] content at earlier commits
 * @property {string} [license] of the model card
 * @property {boolean} [gated] the facts are public, the files need the token
 * @property {boolean} [private] everything needs the token
 *
 * @typedef {object} Seen a request
 * @property {"hub" | "storage"} host
 * @property {string} method
 * @property {string} path of the address; for the storage host, of the file
 * @property {string | undefined} origin of the page
 * @property {import("node:http").IncomingHttpHeaders} headers
 * @property {number} at time of its arrival, ms
 * @property {number} sent bytes of a file that the answer had
 *
 * @typedef {object} Stall an answer that does not end
 * @property {number} bytes of the body that are sent
 * @property {() => void} whenSent called when they are sent
 */

/** Reads the files of a folder. */
export async function filesOf(folder) {
  const names = (await readdir(folder, { withFileTypes: true })).filter((entry) => entry.isFile()).map(({ name }) => name);
  return new Map(await Promise.all(names.sort().map(async (name) => [name, await readFile(join(folder, name))])));
}

/** The text that Git has in place of a large file. */
export const lfsPointer = (bytes) =>
  Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${hash("sha256", bytes)}\nsize ${bytes.length}\n`);

const hash = (algorithm, bytes) => createHash(algorithm).update(bytes).digest("hex");

/** @param {Record<string, Repository>} repositories by `OWNER/NAME` */
export async function startHub(repositories) {
  /** Of each signed address: its file, and how often it was used. */
  const signatures = new Map();
  /** State that a test changes. */
  const calm = () => ({
    /** @type {Seen[]} */
    requests: [],
    /** True if pages of other origins may read the answers. */
    cors: true,
    /**
     * True if the storage host answers preflights. That of the Hub did not in January 2026. Chromium sends none, and Firefox sends one if the
     * request to the Hub had a token.
     */
    preflights: false,
    /** Requests after which a signed address expires. */
    expireAfter: Infinity,
    /** Requests to the Hub that it still answers with status 429. */
    busy: 0,
    /** True if pages may read how long to wait then. Those of the real Hub may not. */
    exposesRetryAfter: false,
    /** Content that the storage host sends in place of a file, with another ETag. @type {Map<string, Buffer>} */
    replaced: new Map(),
    /** Called before the storage host answers. @type {(path: string, nth: number) => Stall | void | Promise<Stall | void>} */
    beforeStorage: () => undefined,
  });
  const hub = {
    ...calm(),
    origin: "",
    storageOrigin: "",
    /** @type {Record<string, Repository>} */
    repositories,
    /** Changes a repository. Its earlier commits stay readable. */
    push(name, files) {
      const repository = hub.repositories[name];
      Object.assign(repository, { files, earlier: [repository.files, ...(repository.earlier ?? [])] });
    },
    /** Requests whose answers carry the bytes of files. */
    reads: (path) => hub.requests.filter((seen) => seen.host === "storage" && seen.method === "GET" && (!path || seen.path === path)),
    reset() {
      signatures.clear();
      Object.assign(hub, calm());
    },
    /** After this the Hub cannot be reached. */
    close() {
      for (const server of servers) {
        server.close();
        server.closeAllConnections();
      }
    },
  };

  const authorized = ({ headers }) => headers.authorization === `Bearer ${TOKEN}`;
  const see = (host, { method, headers }, path) => {
    const seen = { host, method, path, origin: headers.origin, headers, at: performance.now(), sent: 0 };
    hub.requests.push(seen);
    return seen;
  };
  const refuse = (response, status, code, message) =>
    response.writeHead(status, { "x-error-code": code, "content-type": "application/json" }).end(JSON.stringify({ error: message }));

  async function answerHub(request, response) {
    const url = new URL(request.url, hub.origin);
    see("hub", request, decodeURIComponent(url.pathname));
    if (hub.cors) {
      response.setHeader("access-control-allow-origin", request.headers.origin ?? hub.origin);
      response.setHeader("access-control-expose-headers", hub.exposesRetryAfter ? `${EXPOSED},Retry-After` : EXPOSED);
      response.setHeader("vary", "Origin");
    }
    if (request.method === "OPTIONS") {
      const allowed = { "access-control-allow-methods": "GET,HEAD", "access-control-allow-headers": "authorization,content-type,range" };
      return response.writeHead(hub.cors ? 204 : 403, hub.cors ? allowed : {}).end();
    }
    if (hub.busy > 0) {
      hub.busy -= 1;
      return response.writeHead(429, { "retry-after": "1" }).end();
    }
    const [, api, owner, name, kind, revision, rest] =
      /^(\/api\/models)?\/([^/]+)\/([^/]+)\/(revision|tree|resolve)\/([^/]+)(?:\/(.*))?$/.exec(url.pathname) ?? [];
    const repository = hub.repositories[`${owner}/${name}`];
    if (!repository || (repository.private && !authorized(request))) {
      // The Hub does not reveal whether a private repository exists.
      return authorized(request)
        ? refuse(response, 404, "RepoNotFound", "Repository not found")
        : refuse(response, 401, "RepoNotFound", "Invalid username or password.");
    }
    const versions = new Map([repository.files, ...(repository.earlier ?? [])].map((files) => [commitOf(files), files]));
    const commit = revision === "main" ? commitOf(repository.files) : revision;
    const files = versions.get(commit);
    if (!files) return refuse(response, 404, "RevisionNotFound", `Invalid rev id: ${revision}`);
    const json = (value, headers = {}) =>
      response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
    const cardData = repository.license ? { license: repository.license } : {};
    if (api && kind === "revision") {
      const gated = repository.gated ? "auto" : false;
      return json({ id: `${owner}/${name}`, sha: commit, gated, cardData, siblings: siblings(files) });
    }
    if (api && kind === "tree") return tree(url, files, json);
    if (repository.gated && !authorized(request)) {
      const status = request.headers.authorization ? 403 : 401;
      return refuse(response, status, "GatedRepo", "Access to model is restricted.");
    }
    const path = decodeURIComponent(rest ?? "");
    const bytes = files.get(path);
    if (!bytes) return refuse(response, 404, "EntryNotFound", "Entry not found");
    response.setHeader("x-repo-commit", commit);
    if (!isLarge(path, bytes)) return send(request, response, bytes, `"${hash("sha1", bytes)}"`);
    const signature = hash("sha1", `${path} ${signatures.size}`);
    signatures.set(signature, { bytes, uses: 0 });
    const location = `${hub.storageOrigin}/${owner}/${name}/${encodeURIComponent(path)}?Expires=1&Signature=${signature}`;
    const linked = { "x-linked-size": bytes.length, "x-linked-etag": `"${hash("sha256", bytes)}"` };
    return response.writeHead(302, { location, ...linked }).end();
  }

  /** The files as the native client asks for them. */
  const siblings = (files) =>
    [...files].map(([rfilename, bytes]) => {
      const lfs = isLarge(rfilename, bytes) ? { lfs: { sha256: hash("sha256", bytes), size: bytes.length } } : {};
      return { rfilename, size: bytes.length, blobId: hash("sha1", bytes), ...lfs };
    });

  function tree(url, files, json) {
    const page = Number(url.searchParams.get("cursor") ?? 0);
    const entries = [...files].map(([path, bytes]) => {
      const lfs = isLarge(path, bytes)
        ? { lfs: { oid: hash("sha256", bytes), size: bytes.length, pointerSize: lfsPointer(bytes).length } }
        : {};
      return { type: "file", oid: hash("sha1", bytes), size: bytes.length, path, ...lfs };
    });
    entries.unshift({ type: "directory", oid: hash("sha1", "figures"), size: 0, path: "figures" });
    const last = (page + 1) * PAGE >= entries.length;
    url.searchParams.set("cursor", String(page + 1));
    return json(entries.slice(page * PAGE, (page + 1) * PAGE), last ? {} : { link: `<${url.href}>; rel="next"` });
  }

  async function answerStorage(request, response) {
    const url = new URL(request.url, hub.storageOrigin);
    const path = decodeURIComponent(url.pathname.split("/").at(-1));
    const nth = hub.reads(path).length;
    const seen = see("storage", request, path);
    if (request.method === "OPTIONS") {
      const allowed = { "access-control-allow-origin": "*", "access-control-allow-methods": "GET,HEAD" };
      return response.writeHead(hub.preflights ? 204 : 403, hub.preflights ? allowed : {}).end();
    }
    const stall = await hub.beforeStorage(path, nth);
    const signed = signatures.get(url.searchParams.get("Signature"));
    // Refusals have no CORS headers: a page sees a failure of the network.
    if (!signed || request.headers.authorization) return response.writeHead(400).end();
    signed.uses += 1;
    if (signed.uses > hub.expireAfter) return response.writeHead(403, { "content-type": "application/xml" }).end("<Error>Expired</Error>");
    if (hub.cors) {
      response.setHeader("access-control-allow-origin", "*");
      response.setHeader("access-control-expose-headers", "*");
    }
    const content = hub.replaced.get(path) ?? signed.bytes;
    seen.sent = send(request, response, content, `"${hash("md5", content)}"`, stall);
  }

  const listen = async (answer) => {
    const server = createServer((request, response) => {
      answer(request, response).catch((error) => {
        console.error(error);
        response.destroy();
      });
    });
    await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
    return server;
  };
  const servers = [await listen(answerHub), await listen(answerStorage)];
  [hub.origin, hub.storageOrigin] = servers.map((server) => `http://127.0.0.1:${server.address().port}`);
  return hub;
}

const commitOf = (files) => hash("sha1", [...files].map(([path, bytes]) => path + hash("sha1", bytes)).join());

function isLarge(path, bytes) {
  // A pointer that was uploaded as an ordinary file.
  return LARGE.includes(extname(path)) && !bytes.subarray(0, 8).equals(Buffer.from("version "));
}

/** Sends a file, or the range of it that is asked for. Returns the number of bytes. */
function send(request, response, bytes, etag, stall) {
  const headers = { etag, "accept-ranges": "bytes", "content-type": "application/octet-stream" };
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = Number(range?.[1] ?? 0);
  const end = Math.min(Number(range?.[2] || Infinity), bytes.length - 1);
  if (range && start > end) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return 0;
  }
  if (range) headers["content-range"] = `bytes ${start}-${end}/${bytes.length}`;
  const body = bytes.subarray(start, end + 1);
  response.writeHead(range ? 206 : 200, { ...headers, "content-length": body.length });
  if (!stall) response.end(body);
  else response.write(body.subarray(0, stall.bytes), stall.whenSent);
  return Math.min(body.length, stall?.bytes ?? Infinity);
}
