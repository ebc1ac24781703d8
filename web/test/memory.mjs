// A cache in memory, whose storage can be full or lose files, and a small model for the tests of loading.

import { createHash } from "node:crypto";

export class MemoryStore {
  kind = "memory";
  /** @type {Map<string, Buffer>} */
  files = new Map();
  /** Bytes that fit. */
  capacity = Infinity;
  /** @type {Set<string>} */
  #open = new Set();

  async open(name, create) {
    if (!this.files.has(name)) {
      if (!create) return undefined;
      this.files.set(name, Buffer.alloc(0));
    }
    if (this.#open.has(name)) throw new DOMException(name, "NoModificationAllowedError");
    this.#open.add(name);
    const store = this;
    return {
      get bytes() {
        return store.files.get(name).length;
      },
      read: async (at, length) => store.files.get(name).subarray(at, at + length),
      async append(bytes) {
        const used = [...store.files.values()].reduce((sum, { length }) => sum + length, 0);
        if (used + bytes.length > store.capacity) throw new DOMException("full", "QuotaExceededError");
        store.files.set(name, Buffer.concat([store.files.get(name), bytes]));
      },
      async truncate() {
        store.files.set(name, Buffer.alloc(0));
      },
      close: async () => void store.#open.delete(name),
    };
  }

  async list() {
    return [...this.files].map(([name, { length }]) => ({ name, bytes: length }));
  }

  async delete(name) {
    if (this.#open.has(name)) throw new DOMException(name, "NoModificationAllowedError");
    this.files.delete(name);
  }
}

/** The hashes of a shard's pieces, as the manifest has them. */
export function piecesOf(shard, bytes) {
  const pieces = Array.from({ length: Math.ceil(shard.length / bytes) }, (_, index) => shard.subarray(index * bytes, (index + 1) * bytes));
  return { bytes, sha256: pieces.map(sha256) };
}

export const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** A folder with as much of a model as loading looks at. With `pieceBytes` its shards are hashed in pieces. */
export function makeModel(seed, { shardBytes = [200_000, 150_001, 70_000, 1], pieceBytes } = {}) {
  const files = new Map();
  const add = (file, length) => {
    const bytes = Buffer.from(Uint8Array.from({ length }, (_, index) => Math.imul(index + 1, 2654435761 + 2 * seed) >>> 23));
    files.set(file, bytes);
    return { file, bytes: length, sha256: sha256(bytes) };
  };
  const manifest = {
    processor: { tokenizer_file: "qwen.tiktoken" },
    generation: { chat_format: "chatml" },
    provenance: { source: `model ${seed}`, modifications: "" },
    files: [add("qwen.tiktoken", 10_000 + seed), add("LICENSE", 100)],
    shards: shardBytes.map((bytes, index) => add(`shard-${index}`, bytes)),
  };
  if (pieceBytes) for (const shard of manifest.shards) shard.pieces = piecesOf(files.get(shard.file), pieceBytes);
  files.set("manifest.json", Buffer.from(JSON.stringify(manifest)));
  const loaded = [...manifest.shards, manifest.files[0]];
  return { files, manifest, bytes: loaded.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** Stands in for the engine: keeps the shards and checks their hashes. */
export class MemorySink {
  shards;
  /** Bytes whose hash was checked before they came here. */
  checkedBytes = 0;

  constructor(manifest) {
    this.entries = JSON.parse(manifest).shards;
    this.shards = this.entries.map(() => Buffer.alloc(0));
  }

  target(shard) {
    return {
      write: (bytes, checked) => {
        this.checkedBytes += checked ? bytes.length : 0;
        const whole = (this.shards[shard] = Buffer.concat([this.shards[shard], bytes]));
        const { bytes: expected, sha256: hash } = this.entries[shard];
        if (whole.length > expected || (whole.length === expected && sha256(whole) !== hash)) {
          throw Object.assign(new Error(`shard ${shard} is wrong`), { code: "INTEGRITY", details: { shard } });
        }
      },
      restart: () => (this.shards[shard] = Buffer.alloc(0)),
    };
  }
}
