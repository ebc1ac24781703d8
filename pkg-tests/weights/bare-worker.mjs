// Reads shards as fast as the browser can, and does nothing with them: what loads are compared to.

const SIDE_BY_SIDE = 4;
const READ_BYTES = 2 << 20;

onmessage = async ({ data: { kind, shards } }) => {
  try {
    const began = performance.now();
    const waiting = shards[Symbol.iterator]();
    const work = async () => {
      for (const shard of waiting) await { drain, opfs }[kind](shard);
    };
    await Promise.all(Array.from({ length: SIDE_BY_SIDE }, work));
    postMessage({ ms: performance.now() - began });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};

async function drain({ url, bytes }) {
  const response = await fetch(url, { cache: "no-store" });
  const reader = response.body.getReader();
  let came = 0;
  for (let next = await reader.read(); !next.done; next = await reader.read()) came += next.value.byteLength;
  if (came !== bytes) throw new Error(`${url}: ${came} bytes`);
}

async function opfs({ sha256, bytes }) {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("qwen-vl-web");
  const handle = await (await folder.getFileHandle(sha256)).createSyncAccessHandle();
  try {
    const buffer = new Uint8Array(READ_BYTES);
    let at = 0;
    for (let read = handle.read(buffer, { at }); read > 0; read = handle.read(buffer, { at })) at += read;
    if (at !== bytes) throw new Error(`${sha256}: ${at} bytes`);
  } finally {
    handle.close();
  }
}
