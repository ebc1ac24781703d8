// Runs in pages: the operations that are interrupted, and what is stored after them. See `../suites/interruptions.mjs`.

import { QwenVL } from "qwen-vl-web";
import { runIds } from "qwen-vl-web/testing";

const WEIGHTS = "qwen-vl-web";
/** Files that a browser makes next to a file that is being written. */
const OF_THE_BROWSER = /\.crswap$/;
/** A cache of this kind is in the Cache API; all else is in the origin private file system. */
const CACHE_API = "cache-api";

const root = () => navigator.storage.getDirectory();
const folderAt = async (name) => (await root()).getDirectoryHandle(name, { create: true });
const hex = (bytes) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
const sha256 = async (bytes) => hex(await crypto.subtle.digest("SHA-256", bytes));

/** The operations. `points` are the addresses of workers with a fault, or of none. */
const OPERATIONS = {
  fill: ({ url, cache }, points) => QwenVL.cache.repair(url, { ...points, cache, retries: 1 }),
  load: async ({ url, cache, ids }, points) => {
    const model = await QwenVL.load(url, { ...points, cache, retries: 1, backend: "cpu" });
    try {
      return (await runIds(model, ids, [], 3)).tokens;
    } finally {
      await model.dispose();
    }
  },
  verify: ({ url, cache }, points) => QwenVL.cache.verify(url, { ...points, cache }),
  delete: ({ url, cache }, points) => QwenVL.cache.delete(url, { ...points, cache }),
  clear: ({ cache }, points) => QwenVL.cache.clear({ ...points, cache }),
  "delete a conversion": async ({ cache }, points) => {
    for (const { id } of await QwenVL.cache.listConversions({ cache })) await QwenVL.cache.deleteConversion(id, { ...points, cache });
  },
  import: async ({ url, cache }, points) => QwenVL.cache.importFrom(await folderAt("to import"), url, { ...points, cache }),
  export: async ({ url, cache }, points) => QwenVL.cache.exportTo(await folderAt("exported"), url, { ...points, cache }),
  convert: ({ source, url, settings, cache }, points) =>
    QwenVL.convert(source, { ...points, ...settings, url, cache, retries: 1, workers: 1 }),
  "convert a folder": async ({ url, settings, cache }, points) =>
    QwenVL.convert(await folderAt("checkpoint"), { ...points, ...settings, url, cache, workers: 1 }),
  "convert to a folder": async ({ source, settings }, points) =>
    QwenVL.convert(source, { ...points, ...settings, output: await folderAt("converted"), retries: 1, workers: 1 }),
  "convert and load": async ({ source, settings, cache, ids, hubUrl }, points) => {
    const { hubUrl: _, ...convert } = settings;
    const options = { hubUrl, cache, retries: 1, backend: "cpu", convert: { ...convert, workers: 1 } };
    const model = await QwenVL.load(source, { ...points, ...options });
    try {
      return (await runIds(model, ids, [], 3)).tokens;
    } finally {
      await model.dispose();
    }
  },
};

/** Addresses of workers with a fault: see `points.mjs`. */
function pointsOf(plan) {
  if (!plan) return {};
  const at = (file) => `/faults/${file}.mjs?plan=${encodeURIComponent(JSON.stringify(plan))}`;
  return { workerUrl: at("worker"), cpuWorkerUrl: at("worker-cpu"), convertWorkerUrl: at("worker-convert") };
}

/** Runs an operation with a fault, or with none. Returns its result or its error. */
export async function run(operation, scene, plan) {
  try {
    return { result: (await OPERATIONS[operation](scene, pointsOf(plan))) ?? null };
  } catch (error) {
    const { name, code, message, hint } = error;
    return { error: { name, code, message, hint } };
  }
}

async function filesIn(folder, prefix, into) {
  for await (const [name, handle] of folder.entries()) {
    const path = prefix + name;
    if (handle.kind === "directory") await filesIn(handle, `${path}/`, into);
    else if (!OF_THE_BROWSER.test(name)) into.set(path, new Uint8Array(await (await handle.getFile()).arrayBuffer()));
  }
  return into;
}

/** All stored files: `FOLDER/NAME`. The Cache API has the folder `cache-api`, and its files are put together from their pieces. */
async function stored() {
  const files = await filesIn(await root(), "", new Map());
  const cache = (await caches.has(WEIGHTS)) ? await caches.open(WEIGHTS) : undefined;
  const pieces = [];
  for (const request of (await cache?.keys()) ?? []) {
    const [name, begin] = new URL(request.url).pathname.slice(1).split("/").map(decodeURIComponent);
    pieces.push({ name, begin: Number(begin), bytes: new Uint8Array(await (await cache.match(request)).arrayBuffer()) });
  }
  for (const { name, begin, bytes } of pieces.sort((a, b) => a.begin - b.begin)) {
    const path = `${CACHE_API}/${name}`;
    const before = files.get(path) ?? new Uint8Array(0);
    // Pieces after a gap are not part of the file.
    if (before.length === begin) files.set(path, new Uint8Array([...before, ...bytes]));
  }
  return files;
}

let base = new Map();

/** Keeps what is stored now, for `reset`. */
export async function keepBase() {
  base = await stored();
}

/** Stores what was kept, and nothing else. */
export async function reset() {
  await caches.delete(WEIGHTS);
  const top = await root();
  const files = await filesIn(top, "", new Map());
  for await (const [name, folder] of top.entries()) {
    const names = [];
    for await (const entry of folder.keys()) names.push(entry);
    for (const entry of names) if (!base.has(`${name}/${entry}`)) await folder.removeEntry(entry, { recursive: true });
  }
  for (const [path, bytes] of base) {
    const [folder, name] = path.split("/");
    if (folder === CACHE_API) {
      const address = `https://qwen-vl-web.invalid/${encodeURIComponent(name)}/0/${bytes.length}`;
      await (await caches.open(WEIGHTS)).put(address, new Response(bytes));
    } else if (!equal(files.get(path), bytes)) await write(folder, name, bytes);
  }
}

const equal = (a, b) => a?.length === b.length && a.every((byte, at) => byte === b[at]);

export async function write(folder, name, bytes) {
  const writer = await (await (await folderAt(folder)).getFileHandle(name, { create: true })).createWritable();
  await writer.write(bytes);
  await writer.close();
}

/** Damages two files of a complete model: changes one, and removes another. */
export async function damage(changed, missing) {
  const files = await stored();
  const bytes = files.get(`${WEIGHTS}/${changed}`);
  bytes[bytes.length >> 1] ^= 1;
  await write(WEIGHTS, changed, bytes);
  await (await folderAt(WEIGHTS)).removeEntry(missing);
}

/** Hash of every stored file. */
export async function hashes() {
  const all = {};
  for (const [path, bytes] of await stored()) all[path] = await sha256(bytes);
  return all;
}

/**
 * Everything that is wrong with what is stored.
 *
 * @param {{ cache: string, lists: string[], keeps: Record<string, string>, damaged: string[] }} expected `lists`: addresses of models that must
 *   be listed; `keeps`: hashes of files that must not change; `damaged`: names of files that were damaged before the operation
 */
export async function problems({ cache, lists, keeps, damaged }) {
  const found = [];
  const folder = cache === CACHE_API ? CACHE_API : WEIGHTS;
  const files = await stored();
  const hash = new Map();
  for (const [path, bytes] of files) hash.set(path, await sha256(bytes));
  for (const [path, bytes] of files) {
    const [, place, name] = /^([^/]+)\/([0-9a-f]{64})\.complete$/.exec(path) ?? [];
    if (!name || damaged.includes(name)) continue;
    const data = files.get(`${place}/${name}`);
    const size = new TextDecoder().decode(bytes);
    if (data && String(data.length) === size && hash.get(`${place}/${name}`) !== name)
      found.push(`${name} is recorded as complete, and is not`);
  }
  const listed = lists.length === 0 ? [] : await QwenVL.cache.list({ cache });
  for (const url of lists) if (!listed.some((model) => model.url === url)) found.push(`${url} is not listed any more`);
  for (const [path, digest] of Object.entries(keeps)) if (hash.get(path) !== digest) found.push(`${path} has changed or is lost`);
  for (const place of ["exported", "converted"]) {
    const manifest = files.get(`${place}/manifest.json`);
    // Browsers create a file before its content, which then appears at once. No reader takes an empty manifest.
    if (!manifest?.length) continue;
    let entries = [];
    try {
      const { shards, files } = JSON.parse(new TextDecoder().decode(manifest));
      entries = [...shards, ...files];
    } catch {
      // A conversion is not complete before its marker is gone.
      if (![...files.keys()].some((path) => path.startsWith(`${place}/.`))) found.push(`${place}/manifest.json is cut off`);
    }
    for (const { file, sha256 } of entries) {
      const own = hash.get(`${place}/${file}`);
      // Notices are exported if they are stored.
      if (own !== sha256 && !(own === undefined && place === "exported" && !/shard|tiktoken/.test(file)))
        found.push(`${place}/manifest.json is there, and ${file} is not whole`);
    }
  }
  const complete = [...files.keys()].filter((path) => path.startsWith(`${folder}/`) && path.endsWith(".complete"));
  return { found, complete: complete.map((path) => path.slice(folder.length + 1, -".complete".length)) };
}

/** Waits until no lock is held: browsers release those of a closed tab a moment later. */
export async function unlocked() {
  while ((await navigator.locks.query()).held.length > 0) await new Promise((resolve) => setTimeout(resolve, 20));
}
