/** Drives the converter: fetches the bytes that it asks for, while it encodes those that have arrived. */

import { QwenVLError } from "../wire/errors.js";
import type { ConversionPlan, ConversionRequest, Need, RemoteFile } from "../wire/generated.js";
import type { ConversionSettings, FinishedShard, Supply } from "../wire/protocol.js";
import type { Listing, RangeSource } from "../weights/ranges.js";
import { collect } from "../weights/download.js";
import { nextTask } from "../weights/transfer.js";
import type { ReadHooks } from "../weights/source.js";
import type { Conversion } from "../wasm/qwen_vl_web_convert.js";
import type { ShardFile } from "./output.js";

/** The wasm module of the converter. */
export interface ConverterEdge {
  default(options?: { module_or_path: string | BufferSource }): Promise<unknown>;
  Conversion: new (request: ConversionRequest) => Conversion;
}

export interface ConverterHooks extends ReadHooks {
  /** Called with the number of bytes of the source that arrived. */
  onBytes?(bytes: number): void;
  /** Called with the number of bytes of a shard that are written, by an earlier run too. */
  onWritten?(bytes: number): void;
  /** Takes the bytes of a shard in order, those of an earlier run too. They are overwritten by the next ones. */
  pass?(bytes: Uint8Array): Promise<void>;
}

/** Stored bytes to read at a time. */
const RESTORE_BYTES = 2 << 20;
/** Largest request. A larger need is fetched in several at once, whose bytes arrive while one step is encoded. */
const REQUEST_BYTES = 2 << 20;

/** A conversion that is open. */
export class Converter {
  readonly listing: Listing;
  readonly plan: ConversionPlan;
  readonly #conversion: Conversion;
  readonly #feed: Feed;
  /** Memory of pieces of shards. */
  #memory = new Uint8Array(0);

  private constructor(listing: Listing, plan: ConversionPlan, conversion: Conversion, feed: Feed) {
    this.listing = listing;
    this.plan = plan;
    this.#conversion = conversion;
    this.#feed = feed;
  }

  /**
   * Opens a checkpoint: reads everything but its weights.
   *
   * @param supplies bytes that are known already; those that are fetched are added
   */
  static async open(
    edge: ConverterEdge,
    source: RangeSource,
    listing: Listing,
    settings: ConversionSettings,
    supplies: Supply[],
    hooks: ConverterHooks,
  ): Promise<Converter> {
    const { name, place, files } = listing;
    const conversion = new edge.Conversion({ ...settings, name, place, files });
    try {
      const feed = new Feed(conversion, source, files);
      for (const { file, start, bytes } of supplies) conversion.supply(file, start, bytes);
      for (;;) {
        const plan = conversion.open() as ConversionPlan | undefined;
        if (plan) return new Converter(listing, plan, conversion, feed);
        await feed.fill(hooks, supplies);
      }
    } catch (error) {
      conversion.free();
      throw error;
    }
  }

  /** Makes a shard, from where an earlier run ended, and appends it to a file. */
  async shard(index: number, file: ShardFile, hooks: ConverterHooks): Promise<FinishedShard> {
    await this.#restore(index, file, hooks);
    try {
      for (;;) {
        hooks.signal.throwIfAborted();
        // Bytes of later steps are fetched while this one is encoded.
        this.#feed.fetchAhead(hooks);
        const length = this.#conversion.nextPiece();
        if (length === null) return JSON.parse(this.#conversion.finish()) as FinishedShard;
        if (length === undefined) await this.#feed.arrival(hooks);
        else {
          const bytes = this.#piece(length);
          await file.append(bytes);
          hooks.onWritten?.(bytes.byteLength);
          await hooks.pass?.(bytes);
          const progress = this.#conversion.progress();
          if (progress !== undefined) await file.commit(progress);
        }
        // Bytes and messages arrive between tasks only.
        await nextTask();
      }
    } finally {
      await this.#feed.settle();
    }
  }

  /** The piece of a shard that was made last. The next one overwrites it: the browser collects buffers late. */
  #piece(length: number): Uint8Array<ArrayBuffer> {
    if (length > this.#memory.byteLength) this.#memory = new Uint8Array(length);
    const bytes = this.#memory.subarray(0, length);
    this.#conversion.takePiece(bytes);
    return bytes;
  }

  /** True if a record is whole and of that finished shard. */
  isFinished(index: number, record: string): boolean {
    return this.#conversion.isFinished(index, record);
  }

  /** Reads a shard that an earlier run has finished. Returns false if it is not what its record says. */
  async reread(index: number, file: Pick<ShardFile, "read">, shard: FinishedShard, hooks: ConverterHooks): Promise<boolean> {
    const bytes = this.#conversion.begin(index, shard.bytes, JSON.stringify(shard));
    if (bytes !== shard.bytes) return false;
    await this.#read(bytes, file, hooks);
    const found = JSON.parse(this.#conversion.finish()) as FinishedShard;
    if (found.sha256 !== shard.sha256) hooks.onWritten?.(-bytes);
    return found.sha256 === shard.sha256;
  }

  /** Begins a shard with the whole parts of tensors that an earlier run has stored of it. */
  async #restore(index: number, file: ShardFile, hooks: ConverterHooks): Promise<void> {
    const usable = await file.keep(this.#conversion.begin(index, file.stored, file.record));
    await this.#read(this.#conversion.begin(index, usable, file.record), file, hooks);
  }

  /** Reads the first bytes of a stored shard. */
  async #read(bytes: number, file: Pick<ShardFile, "read">, { signal, onWritten, pass }: ConverterHooks): Promise<void> {
    for (let at = 0; at < bytes;) {
      signal.throwIfAborted();
      const piece = await file.read(at, Math.min(RESTORE_BYTES, bytes - at));
      if (piece.byteLength === 0) throw new QwenVLError("INTERNAL", `a stored shard ends at byte ${at} of ${bytes}`);
      this.#conversion.restore(piece);
      at += piece.byteLength;
      onWritten?.(piece.byteLength);
      await pass?.(piece);
    }
  }

  /** The files that are neither shards nor the manifest. Without all shards in order, the model card has blanks in place of errors. */
  smallFiles(shards: readonly FinishedShard[] = []): [string, Uint8Array<ArrayBuffer>][] {
    return this.#conversion.smallFiles(records(shards)) as [string, Uint8Array<ArrayBuffer>][];
  }

  /** The manifest, given all shards in order. */
  manifest(shards: readonly FinishedShard[]): string {
    return this.#conversion.manifest(records(shards));
  }

  /** Frees the memory. */
  free(): void {
    this.#conversion.free();
  }
}

const records = (shards: readonly FinishedShard[]): string[] => shards.map((shard) => JSON.stringify(shard));

/** Fetches what a conversion needs. */
class Feed {
  readonly #conversion: Conversion;
  readonly #source: RangeSource;
  readonly #files: readonly RemoteFile[];
  readonly #running = new Set<Promise<void>>();
  /** Ends the other requests when one fails. */
  #failure = new AbortController();

  constructor(conversion: Conversion, source: RangeSource, files: readonly RemoteFile[]) {
    this.#conversion = conversion;
    this.#source = source;
    this.#files = files;
  }

  /** Fetches everything that is needed now, and adds it to `supplies`. */
  async fill(hooks: ConverterHooks, supplies: Supply[]): Promise<void> {
    this.#start(hooks, supplies);
    this.#expectRequests();
    await Promise.all(this.#running);
    this.#check();
  }

  /** Begins to fetch what is needed. */
  fetchAhead(hooks: ConverterHooks): void {
    this.#start(hooks);
    this.#check();
  }

  /** Waits until more bytes have arrived. */
  async arrival({ signal }: ConverterHooks): Promise<void> {
    this.#expectRequests();
    await Promise.race(this.#running);
    this.#check();
    signal.throwIfAborted();
  }

  /** Ends the requests that run, and waits for them. */
  async settle(): Promise<void> {
    this.#failure.abort();
    await Promise.all(this.#running);
    this.#failure = new AbortController();
  }

  /** A converter that needs bytes and asks for none would wait for ever. */
  #expectRequests(): void {
    if (this.#running.size === 0) throw new QwenVLError("INTERNAL", "the converter lacks bytes that it does not ask for");
  }

  #check(): void {
    this.#failure.signal.throwIfAborted();
  }

  #start(hooks: ConverterHooks, supplies?: Supply[]): void {
    const needs = this.#conversion.needs() as Need[];
    if (needs.length === 0) return;
    const failure = this.#failure;
    const ending = { ...hooks, signal: AbortSignal.any([hooks.signal, failure.signal]) };
    for (const { file, start, end } of needs) {
      for (let at = start; at < end; at += REQUEST_BYTES) {
        const request = this.#fetch(file, at, Math.min(at + REQUEST_BYTES, end), ending, supplies)
          .catch((error: unknown) => failure.abort(error))
          .finally(() => this.#running.delete(request));
        this.#running.add(request);
      }
    }
  }

  async #fetch(index: number, start: number, end: number, hooks: ConverterHooks, supplies: Supply[] | undefined): Promise<void> {
    const supply = (at: number, bytes: Uint8Array<ArrayBuffer>) => {
      hooks.onBytes?.(bytes.byteLength);
      // The converter makes a copy.
      this.#conversion.supply(index, at, bytes);
    };
    const body = this.#source.read(this.#files[index] as RemoteFile, start, end, hooks);
    if (supplies) {
      const bytes = await collect(body);
      supply(start, bytes);
      supplies.push({ file: index, start, bytes });
      return;
    }
    let at = start;
    for await (const piece of body) {
      supply(at, piece);
      at += piece.byteLength;
    }
  }
}
