/** Where weights are kept: a flat folder of files. Whether a file is complete and right is for `WeightCache` to know. */
export interface CacheBackend {
  /** Shown to users. */
  readonly kind: string;
  /** Opens a file. If there is none, it is made or, without `create`, the result is `undefined`. A file is open once at a time. */
  open(name: string, create: boolean): Promise<CacheFile | undefined>;
  list(): Promise<StoredFile[]>;
  /** Deletes a file; nothing happens if there is none. */
  delete(name: string): Promise<void>;
}

export interface StoredFile {
  name: string;
  bytes: number;
}

/** A file of a {@link CacheBackend}. Writing may fail with a `QuotaExceededError`. */
export interface CacheFile {
  /** Its size now. */
  readonly bytes: number;
  /** At most `length` bytes from byte `at` on; none at the end. What is returned is overwritten by the next call. */
  read(at: number, length: number): Promise<Uint8Array>;
  /** Keeps no hold of `bytes`. */
  append(bytes: Uint8Array): Promise<void>;
  /** Empties the file. */
  truncate(): Promise<void>;
  /** Makes what was written durable. */
  close(): Promise<void>;
}
