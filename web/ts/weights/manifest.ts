/**
 * The parts of `manifest.json` that loading reads. The engine validates the whole manifest before its names and sizes are used.
 *
 * The types are not generated from `crates/format/src/manifest.rs`: the manifest crosses the edge as text, and its Rust type refers to all of
 * the model's config and tensors, which TypeScript does not use.
 */

/** A file of a web checkpoint. */
export interface FileEntry {
  /** Name in the checkpoint's folder. */
  file: string;
  bytes: number;
  /** SHA-256 of the file, lower-case hexadecimal. */
  sha256: string;
  /** SHA-256 of each piece of `bytes` bytes; the last piece can be shorter. If present, the pieces are verified instead of the file. */
  pieces?: { bytes: number; sha256: string[] };
}

export interface Manifest {
  processor: { tokenizer_file: string };
  generation: { chat_format: string };
  provenance: { source: string; modifications: string };
  /** Tokenizer and licence files. */
  files: FileEntry[];
  /** Weight files in the order of loading. */
  shards: FileEntry[];
}
