// What loads are compared to: shards that are only read, as fast as the browser can (`drain`, `opfs`), bytes that are only written to the GPU
// (`upload`), and the least that a checked load can do (`drainAll`, `opfsAll`): reading, hashing and writing, without a program around it.

const SIDE_BY_SIDE = 4;
const READ_BYTES = 2 << 20;
const PIECE_BYTES = 512 << 10;

let device;
let buffers = [];

onmessage = async ({ data: { kind, shards } }) => {
  try {
    if (!["drain", "opfs"].includes(kind)) device = await makeDevice();
    const began = performance.now();
    const waiting = shards[Symbol.iterator]();
    const work = async () => {
      for (const shard of waiting) await { drain, opfs, upload, drainAll, opfsAll }[kind](shard);
    };
    await Promise.all(Array.from({ length: SIDE_BY_SIDE }, work));
    await device?.queue.onSubmittedWorkDone();
    postMessage({ ms: performance.now() - began });
    for (const buffer of buffers) buffer.destroy();
    device?.destroy();
  } catch (error) {
    postMessage({ error: String(error) });
  }
};

async function makeDevice() {
  const adapter = await navigator.gpu.requestAdapter();
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  return adapter.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });
}

/** Takes the pieces of a shard, and waits for the GPU as a load does. */
function uploader(bytes) {
  const size = Math.ceil(bytes / 4) * 4;
  const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
  buffers.push(buffer);
  let [at, undrained] = [0, 0];
  let drained;
  return async (piece) => {
    device.queue.writeBuffer(buffer, at, piece, 0, Math.floor(piece.byteLength / 4) * 4);
    at += piece.byteLength;
    undrained += piece.byteLength;
    if (undrained < READ_BYTES) return;
    undrained = 0;
    await drained;
    drained = device.queue.onSubmittedWorkDone();
  };
}

async function upload({ bytes }) {
  const write = uploader(bytes);
  const piece = new Uint8Array(PIECE_BYTES);
  for (let at = 0; at < bytes; at += PIECE_BYTES) await write(piece.subarray(0, Math.min(PIECE_BYTES, bytes - at)));
}

async function drainAll({ url, bytes }) {
  const write = uploader(bytes);
  const { body } = await fetch(url, { cache: "no-store" });
  const reader = body.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(PIECE_BYTES);
  for (let at = 0; at < bytes;) {
    let filled = 0;
    const whole = Math.min(PIECE_BYTES, bytes - at);
    while (filled < whole) {
      const { value } = await reader.read(new Uint8Array(buffer, filled, whole - filled));
      filled += value.byteLength;
      buffer = value.buffer;
    }
    const piece = new Uint8Array(buffer, 0, whole);
    await crypto.subtle.digest("SHA-256", piece);
    await write(piece);
    at += whole;
  }
}

async function opfsAll(shard) {
  const write = uploader(shard.bytes);
  await opfs(shard, async (bytes) => {
    for (let at = 0; at < bytes.byteLength; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      await crypto.subtle.digest("SHA-256", piece);
      await write(piece);
    }
  });
}

async function drain({ url, bytes }) {
  const response = await fetch(url, { cache: "no-store" });
  const reader = response.body.getReader();
  let came = 0;
  for (let next = await reader.read(); !next.done; next = await reader.read()) came += next.value.byteLength;
  if (came !== bytes) throw new Error(`${url}: ${came} bytes`);
}

async function opfs({ sha256, bytes }, take = undefined) {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
  const handle = await (await folder.getFileHandle(sha256)).createSyncAccessHandle();
  try {
    const buffer = new Uint8Array(READ_BYTES);
    let at = 0;
    for (let read = handle.read(buffer, { at }); read > 0; read = handle.read(buffer, { at })) {
      at += read;
      await take?.(buffer.subarray(0, read));
    }
    if (at !== bytes) throw new Error(`${sha256}: ${at} bytes`);
  } finally {
    handle.close();
  }
}
