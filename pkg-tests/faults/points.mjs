// Runs in a worker before the package. Counts every operation on storage and network that the worker begins, and lets one of them fail, as the
// plan in the worker's address says. Reports an operation that is not a point and not in `HARMLESS`.
//
// Kinds of faults at point `at`:
//   once     the operation fails, the later ones succeed
//   broken   it fails, and so do all later ones of its family: storage or network
//   half     a write stores half of its bytes and fails, and so do all later writes; a read of the network delivers half, and the connection ends
//   kill     the worker stops before the operation, until the page is closed
//   torn     as `half`, and the worker stops there
//   count    none

const plan = JSON.parse(new URL(self.location).searchParams.get("plan"));
const partial = plan.kind === "half" || plan.kind === "torn";
const kills = plan.kind === "kill" || plan.kind === "torn";
let count = 0;
/** Family of the operation at the point, once it is reached. */
let hit;

/** Reports an operation to the test, which knows of it before the worker continues: a message of a worker that then ends can be lost. */
function report(values) {
  const request = new XMLHttpRequest();
  request.open("GET", `/faults/point?${new URLSearchParams(values)}`, false);
  request.send();
}

/** Stops this thread: the server never answers. A page that is closed ends the request first, and then the thread. */
function stop() {
  for (;;) {
    const request = new XMLHttpRequest();
    request.open("GET", "/faults/stopped", false);
    try {
      request.send();
    } catch {
      // Nothing may run after this place.
    }
  }
}

/**
 * Counts an operation. Returns true if it is to fail.
 *
 * @param {"storage" | "network"} family
 * @param {string} name
 * @param {boolean} divisible true if half of the operation can be done
 */
function fails(family, name, divisible = false) {
  if (plan.family && plan.family !== family) return false;
  if (partial && !divisible) return false;
  count += 1;
  if (plan.kind === "count") report({ name, family, divisible });
  if (hit) return hit === family && (plan.kind === "broken" || (plan.kind === "half" && family === "storage"));
  if (plan.kind === "count" || count !== plan.at) return false;
  hit = family;
  report({ name, family, hit: true });
  if (plan.kind === "kill") stop();
  return true;
}

const storageError = (name) => new DOMException(`the disk failed in ${name}`, "UnknownError");
const full = () => new DOMException("the disk is full", "QuotaExceededError");
const half = (bytes) => new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength >> 1);

/** Handles of files that a listing has named, other than the first. */
const listed = new WeakSet();

/** Types of storage and network. Some browsers lack some. */
const TYPES = [
  "StorageManager",
  "FileSystemHandle",
  "FileSystemDirectoryHandle",
  "FileSystemFileHandle",
  "FileSystemSyncAccessHandle",
  "FileSystemWritableFileStream",
  "CacheStorage",
  "Cache",
  "Blob",
  "Response",
  "ReadableStreamDefaultReader",
  "ReadableStreamBYOBReader",
].flatMap((name) => self[name] ?? []);
/** Methods that neither fail nor change anything. The reads of a stream are points. */
const HARMLESS = ["slice", "stream", "releaseLock", "cancel"];
const methodsOf = ({ prototype }) =>
  Object.entries(Object.getOwnPropertyDescriptors(prototype)).flatMap(([name, { value }]) =>
    typeof value === "function" && name !== "constructor" ? [[name, value]] : [],
  );
const originals = new Map(TYPES.map((type) => [type, methodsOf(type)]));

/** Makes points of methods that fail by throwing (`sync`) or by rejecting. */
function points(family, type, methods, error, sync = false) {
  const { prototype } = type ?? {};
  for (const method of methods) {
    const original = prototype?.[method];
    if (!original) continue;
    const name = `${type.name}.${method}`;
    prototype[method] = function (...values) {
      if (listed.has(this) || !fails(family, name)) return original.apply(this, values);
      if (sync) throw error(name);
      return Promise.reject(error(name));
    };
  }
}

points("storage", self.StorageManager, ["getDirectory", "estimate"], storageError);
points("storage", self.FileSystemDirectoryHandle, ["getDirectoryHandle", "getFileHandle", "removeEntry"], storageError);
points("storage", self.FileSystemFileHandle, ["createSyncAccessHandle", "createWritable", "getFile", "move"], storageError);
points("storage", self.FileSystemSyncAccessHandle, ["read", "truncate", "flush", "getSize"], storageError, true);
points("storage", self.FileSystemWritableFileStream, ["seek", "truncate", "close", "abort"], storageError);
points("storage", self.CacheStorage, ["open"], storageError);
points("storage", self.Cache, ["keys", "match", "delete"], storageError);
points("storage", self.Blob, ["arrayBuffer", "text"], (name) => new DOMException(`the disk failed in ${name}`, "NotReadableError"));
points("storage", self.Response, ["blob"], storageError);

// Listing a folder. Its first entry stands for all: the package does the same with each.
for (const method of ["entries", "keys", "values"]) {
  const { prototype } = self.FileSystemDirectoryHandle;
  const original = prototype[method];
  prototype[method] = function () {
    const entries = original.call(this);
    let first = true;
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      async next() {
        if (first && fails("storage", `FileSystemDirectoryHandle.${method}`)) throw storageError(method);
        const { done, value } = await entries.next();
        if (!first && method === "entries" && !done) listed.add(value[1]);
        first = false;
        return { done, value };
      },
    };
  };
}

// Writes can store a part.
{
  const { prototype } = self.FileSystemSyncAccessHandle;
  const { write, flush, close } = prototype;
  prototype.write = function (bytes, options) {
    if (!fails("storage", "FileSystemSyncAccessHandle.write", true)) return write.call(this, bytes, options);
    if (!partial) throw full();
    // Some browsers write what fits instead of throwing.
    const written = write.call(this, half(bytes), options);
    flush.call(this);
    if (kills) stop();
    return written;
  };
  // It cannot fail, but a worker can stop before it.
  prototype.close = function () {
    if (kills) fails("storage", "FileSystemSyncAccessHandle.close");
    close.call(this);
  };
}
{
  const { prototype } = self.FileSystemWritableFileStream;
  const { write } = prototype;
  prototype.write = async function (data) {
    if (!fails("storage", "FileSystemWritableFileStream.write", true)) return write.call(this, data);
    if (partial && typeof data !== "string") await write.call(this, half(data));
    if (kills) stop();
    throw full();
  };
}
{
  const { prototype } = self.Cache;
  const { put } = prototype;
  prototype.put = async function (...values) {
    if (fails("storage", "Cache.put")) throw full();
    return put.apply(this, values);
  };
}

// The network.
{
  const { fetch } = self;
  self.fetch = async (...values) => {
    if (fails("network", "fetch")) throw new TypeError("Failed to fetch");
    return fetch(...values);
  };
}
for (const type of [self.ReadableStreamDefaultReader, self.ReadableStreamBYOBReader]) {
  const { prototype } = type;
  const { read } = prototype;
  const broken = new WeakSet();
  prototype.read = async function (...values) {
    if (broken.has(this)) throw new TypeError("network error");
    if (!fails("network", `${type.name}.read`, true)) return read.apply(this, values);
    broken.add(this);
    if (kills && !partial) stop();
    if (!partial) throw new TypeError("network error");
    const { done, value } = await read.apply(this, values);
    // The worker stops at the next read.
    if (kills) prototype.read = stop;
    return done || !value ? { done, value } : { done: false, value: half(value) };
  };
}

// The package must use no operation that is not a point.
for (const [{ name: type, prototype }, methods] of originals) {
  for (const [method, original] of methods) {
    const name = `${type}.${method}`;
    if (prototype[method] !== original || HARMLESS.includes(method)) continue;
    prototype[method] = function (...values) {
      report({ name, unknown: true });
      return original.apply(this, values);
    };
  }
}
