/** Passes files from the workers of a conversion to a load in another worker, while they are made. */

import { QwenVLError } from "../wire/errors.js";
import { untilAborted } from "../wire/abort.js";
import type { FileEntry } from "./manifest.js";
import type { ReadHooks, Source } from "./source.js";

/** The next bytes of a file; without bytes, the file starts over. */
interface PieceMessage {
  file: string;
  bytes?: Uint8Array<ArrayBuffer>;
}

/** Bytes that may be on their way to the load, so that they do not pile up there. */
const IN_FLIGHT_BYTES = 2 << 20;
/** Least size of a buffer. */
const BUFFER_BYTES = 256 << 10;

/** The converter's end of a pipe. */
export class PipeSender {
  readonly #port: MessagePort;
  /** Buffers that have come back: the browser collects them late. */
  readonly #spare: ArrayBuffer[] = [];
  #inFlight = 0;
  #onTaken: () => void = () => undefined;

  constructor(port: MessagePort) {
    this.#port = port;
    port.onmessage = ({ data: taken }: MessageEvent<Uint8Array<ArrayBuffer>>) => {
      this.#inFlight -= taken.byteLength;
      this.#spare.push(taken.buffer);
      this.#onTaken();
    };
  }

  /** Sends a copy of the next bytes of a file. Waits until the load has taken enough of those before them. */
  async send(file: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const spare = this.#spare.pop();
    const fits = spare && spare.byteLength >= bytes.byteLength;
    const copy = new Uint8Array(fits ? spare : new ArrayBuffer(Math.max(bytes.byteLength, BUFFER_BYTES)), 0, bytes.byteLength);
    copy.set(bytes);
    this.#inFlight += copy.byteLength;
    this.#port.postMessage({ file, bytes: copy } satisfies PieceMessage, [copy.buffer]);
    while (this.#inFlight > IN_FLIGHT_BYTES) await untilAborted(signal, new Promise<void>((resolve) => (this.#onTaken = resolve)));
  }

  /** Discards what was sent of a file. */
  restart(file: string): void {
    this.#port.postMessage({ file } satisfies PieceMessage);
  }
}

/** The load's end of the pipes of all workers of a conversion: the files that they make. */
export class PipedSource implements Source {
  readonly url: string;
  readonly trusted = true;
  readonly #manifest: string;
  readonly #files = new Map<string, Queue>();

  /** @param manifest manifest whose shards have no hashes yet */
  constructor(url: string, manifest: string, ports: readonly MessagePort[]) {
    this.url = url;
    this.#manifest = manifest;
    for (const port of ports) {
      port.onmessage = ({ data: { file, bytes } }: MessageEvent<PieceMessage>) => {
        this.#queue(file).push({ bytes, taken: () => bytes && port.postMessage(bytes, [bytes.buffer]) });
      };
    }
  }

  manifest(): Promise<string> {
    return Promise.resolve(this.#manifest);
  }

  async *read(entry: FileEntry, _from: number, { signal }: ReadHooks): AsyncGenerator<Uint8Array> {
    const queue = this.#queue(entry.file);
    for (let at = 0; at < entry.bytes;) {
      const { bytes, taken } = await untilAborted(signal, queue.next());
      if (!bytes) throw new QwenVLError("INTEGRITY", `\`${entry.file}\` is made again`);
      at += bytes.byteLength;
      yield bytes;
      taken();
    }
  }

  #queue(file: string): Queue {
    const queue = this.#files.get(file) ?? new Queue();
    this.#files.set(file, queue);
    return queue;
  }
}

interface Piece {
  /** Absent if the file starts over. */
  bytes: Uint8Array<ArrayBuffer> | undefined;
  /** Gives the sender its buffer back. */
  taken(): void;
}

/** Pieces of one file that have arrived. */
class Queue {
  readonly #pieces: Piece[] = [];
  #onPiece: ((piece: Piece) => void) | undefined;

  push(piece: Piece): void {
    if (!this.#onPiece) return void this.#pieces.push(piece);
    this.#onPiece(piece);
    this.#onPiece = undefined;
  }

  next(): Promise<Piece> {
    const piece = this.#pieces.shift();
    return piece ? Promise.resolve(piece) : new Promise((resolve) => (this.#onPiece = resolve));
  }
}
