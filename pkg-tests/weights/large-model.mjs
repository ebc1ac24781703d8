// A small model made large: many more words, of which nobody knows the meaning. Its shards are real bytes but for their variety, so that
// neither this process nor the network has to hold them.

import { createHash } from "node:crypto";
import { piecesOf } from "./memory.mjs";

const PART_BYTES = 16 << 20;
const PIECE_BYTES = 2 << 20;

/**
 * @param {{ files: Map<string, Buffer>, manifest: object }} model of f32 weights, as `reshard` gives it
 * @param {number} bytes that it takes at least
 */
export async function largeModel(model, bytes) {
  const manifest = structuredClone(model.manifest);
  const files = new Map(model.files);
  const cols = manifest.config.hidden_size;
  const partRows = PART_BYTES / (cols * 4);
  const parts = Math.ceil(bytes / 2 / PART_BYTES);
  manifest.config.vocab_size = partRows * parts;
  const entries = Array.from({ length: 2 * parts }, (_, index) => {
    // Another byte for each, so that their hashes differ; all are finite numbers.
    const shard = Buffer.alloc(PART_BYTES, index + 1);
    const file = `words-${index}.safetensors`;
    files.set(file, shard);
    return { file, bytes: PART_BYTES, sha256: createHash("sha256").update(shard).digest("hex"), pieces: piecesOf(shard, PIECE_BYTES) };
  });
  const first = manifest.shards.length;
  manifest.shards.push(...entries);
  for (const [at, name] of ["decoder.embedding.weight", "head.weight"].entries()) {
    const tensor = manifest.tensors.find((tensor) => tensor.name === name);
    tensor.shape[0] = manifest.config.vocab_size;
    tensor.parts = Array.from({ length: parts }, (_, index) => ({ rows: partRows, shard: first + at * parts + index, data: [0, PART_BYTES] }));
  }
  // A shard whose only tensors were these is not used any more.
  const used = new Set(manifest.tensors.flatMap(({ parts }) => parts.map(({ shard }) => shard)));
  const kept = manifest.shards.filter((_, index) => used.has(index));
  for (const { parts } of manifest.tensors) for (const part of parts) part.shard = kept.indexOf(manifest.shards[part.shard]);
  manifest.shards = kept;
  files.set("manifest.json", Buffer.from(JSON.stringify(manifest)));
  const tokenizer = manifest.files.find(({ file }) => file === manifest.processor.tokenizer_file);
  return { files, manifest, bytes: [tokenizer, ...manifest.shards].reduce((sum, { bytes }) => sum + bytes, 0) };
}
