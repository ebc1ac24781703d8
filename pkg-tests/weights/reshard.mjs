// Splits the shard of a checkpoint into several, in memory, and changes the manifest's ranges accordingly.

import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { piecesOf } from "../../web/test/memory.mjs";

/**
 * @param {number} pieceBytes if given, shards are hashed in pieces of this size
 * @returns {Promise<{ files: Map<string, Buffer>, manifest: object, bytes: number }>} `bytes` of what a load fetches
 */
export async function reshard(folder, count, pieceBytes) {
  const names = (await readdir(folder)).filter((name) => !name.endsWith(".safetensors"));
  const files = new Map(await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name))])));
  const manifest = JSON.parse(files.get("manifest.json").toString());
  const [{ file }] = manifest.shards;
  const whole = await readFile(join(folder, file));
  const target = whole.length / count;
  const cuts = [0];
  const parts = manifest.tensors.flatMap(({ parts }) => parts);
  for (const part of parts) {
    const begin = part.data[0];
    if (begin - cuts.at(-1) >= target) cuts.push(begin);
    part.shard = cuts.length - 1;
    for (const range of [part.data, part.scales]) if (range) range.forEach((at, index) => (range[index] = at - cuts.at(-1)));
  }
  manifest.shards = cuts.map((begin, index) => {
    const bytes = whole.subarray(begin, cuts[index + 1]);
    const name = `shard-${index}.safetensors`;
    files.set(name, bytes);
    return {
      file: name,
      bytes: bytes.length,
      sha256: createHash("sha256").update(bytes).digest("hex"),
      ...(pieceBytes && { pieces: piecesOf(bytes, pieceBytes) }),
    };
  });
  files.set("manifest.json", Buffer.from(JSON.stringify(manifest)));
  const tokenizer = manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file);
  return { files, manifest, bytes: [tokenizer, ...manifest.shards].reduce((sum, { bytes }) => sum + bytes, 0) };
}
