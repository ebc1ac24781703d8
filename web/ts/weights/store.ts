/** Storage for weights: a flat folder of files. `WeightCache` decides which files are complete and correct. */
export interface CacheStore {
  /** Name of the store, shown to users. */
  readonly kind: string;
  /**
   * Opens a file. If it does not exist, creates it, or returns `undefined` if `create` is false. A file has at most one open handle at a
   * time.
   */
  open(name: string, create: boolean): Promise<CacheFile | undefined>;
  list(): Promise<StoredFile[]>;
  /** Deletes a file. Does nothing if it does not exist. */
  delete(name: string): Promise<void>;
}

export interface StoredFile {
  name: string;
  bytes: number;
}

/** An open file of a {@link CacheStore}. Methods that write can reject with a `QuotaExceededError`. */
export interface CacheFile {
  /** Current size. */
  readonly bytes: number;
  /** Returns at most `length` bytes from offset `at`, none at the end of the file. The next call may overwrite the returned bytes. */
  read(at: number, length: number): Promise<Uint8Array>;
  /** Writes at the end. Must not use `bytes` after its promise has settled. */
  append(bytes: Uint8Array): Promise<void>;
  /** Removes all bytes. */
  truncate(): Promise<void>;
  /** Makes written bytes durable and releases the file. */
  close(): Promise<void>;
}
