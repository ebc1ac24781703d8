/** What loading reads of `manifest.json`; the engine checks all of it before its names and sizes are used. */

/** A file of a web checkpoint. */
export interface FileEntry {
  /** Name in the checkpoint's folder. */
  file: string;
  bytes: number;
  /** Lower-case hexadecimal. */
  sha256: string;
  /** Of its pieces of `bytes` bytes each, the last perhaps shorter: what is checked instead where it is there. */
  pieces?: { bytes: number; sha256: string[] };
}

export interface Manifest {
  config: { visual: { n_queries: number } };
  processor: { tokenizer_file: string };
  generation: { chat_format: string };
  provenance: { source: string; modifications: string };
  /** Tokenizer and licence files. */
  files: FileEntry[];
  /** The weights, in load order. */
  shards: FileEntry[];
}
