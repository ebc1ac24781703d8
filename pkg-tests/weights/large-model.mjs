// Enlarges a small model with many unused vocabulary rows. A shard of these rows repeats one byte.

import { createHash } from "node:crypto";
import { piecesOf } from "../../web/test/memory.mjs";

const PART_BYTES = 16 << 20;
const PIECE_BYTES = 512 << 10;

/**
 * @param {{ files: Map<string, Buffer>, manifest: object }} model in f32, as `reshard` returns it
 * @param {number} bytes least size of the enlarged model
 */
export async function largeModel(model, bytes) {
  const manifest = structuredClone(model.manifest);
  const files = new Map(model.files);
  const cols = manifest.config.decoder.width;
  const partRows = PART_BYTES / (cols * 4);
  const parts = Math.ceil(bytes / 2 / PART_BYTES);
  manifest.config.decoder.vocab_size = partRows * parts;
  const entries = Array.from({ length: 2 * parts }, (_, index) => {
    // Each shard has another byte, so their hashes differ. All of them are finite numbers.
    const shard = Buffer.alloc(PART_BYTES, index + 1);
    const file = `words-${index}.safetensors`;
    files.set(file, shard);
    return { file, bytes: PART_BYTES, sha256: createHash("sha256").update(shard).digest("hex"), pieces: piecesOf(shard, PIECE_BYTES) };
  });
  // Shards are loaded in the order of their tensors. A shard with tensors before and after the vocabulary is listed twice.
  const shards = [];
  let kept = new Map();
  for (const tensor of manifest.tensors) {
    if (["decoder.embedding.weight", "head.weight"].includes(tensor.name)) {
      tensor.shape[0] = manifest.config.decoder.vocab_size;
      tensor.parts = entries.splice(0, parts).map((entry) => ({ rows: partRows, shard: shards.push(entry) - 1, data: [0, PART_BYTES] }));
      kept = new Map();
      continue;
    }
    for (const part of tensor.parts) {
      if (!kept.has(part.shard)) {
        const { file, ...entry } = manifest.shards[part.shard];
        const name = `${shards.length}-${file}`;
        files.set(name, files.get(file));
        kept.set(part.shard, shards.push({ file: name, ...entry }) - 1);
      }
      part.shard = kept.get(part.shard);
    }
  }
  manifest.shards = shards;
  files.set("manifest.json", Buffer.from(JSON.stringify(manifest)));
  const tokenizer = manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file);
  return { files, manifest, bytes: [tokenizer, ...manifest.shards].reduce((sum, { bytes }) => sum + bytes, 0) };
}
