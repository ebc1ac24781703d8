/** Reads the body of a response into one reused buffer. */

/** Bytes to collect at a time if the caller does not name a piece size. */
const PIECE_BYTES = 256 << 10;
/** Buffers of bodies that have ended, for the next ones: the browser collects buffers late. */
const spare: ArrayBuffer[] = [];
/**
 * A piece that took longer than this came over a slow link. After it, every chunk is passed on at once, so that progress moves and a broken
 * connection loses nothing.
 */
const FAST_MS = 250;

export interface BodyOptions {
  /** Offset in the file at which the body begins. */
  at: number;
  /** Size of the file; `Infinity` if it is not known. */
  bytes: number;
  /** Size of the file's pieces. Whole pieces are yielded where the connection is fast enough. */
  pieceBytes?: number | undefined;
  /** Waits for one read and applies the timeout for it. */
  wait: <T>(work: Promise<T>) => Promise<T>;
}

/**
 * Yields the bytes of a body in order. The next step of the iterator overwrites the bytes that the last one yielded.
 *
 * The body is read into one buffer, because the browser collects separate chunks late and they would pile up. On a fast connection a piece
 * is yielded when it is whole, so that it can be hashed in place; if the connection breaks, the bytes of the unfinished piece are lost. The
 * first piece of a body is yielded chunk by chunk, so that a body that breaks early still makes progress.
 */
export async function* readBody(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  options: BodyOptions,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { bytes, wait } = options;
  // A piece of no bytes would never be filled, and a server can send bytes for a file that should be empty.
  const pieceBytes = Math.min(options.pieceBytes ?? PIECE_BYTES, bytes) || PIECE_BYTES;
  const reader = bytesReader(stream);
  if (!reader) return yield* readChunks(stream.getReader(), wait);
  let { at } = options;
  let memory = pieceBytes === PIECE_BYTES ? (spare.pop() ?? new ArrayBuffer(PIECE_BYTES)) : new ArrayBuffer(pieceBytes);
  let fast = false;
  try {
    for (;;) {
      const began = performance.now();
      // Up to the end of the piece or of the file. The server's file can be longer than expected.
      const missing = Math.min(pieceBytes - (at % pieceBytes), at < bytes ? bytes - at : Infinity);
      let yielded = 0;
      for (let received = 0; received < missing;) {
        const { done, value } = await wait(reader.read(new Uint8Array(memory, received, missing - received)));
        // A cancelled stream returns no value.
        if (!value) return;
        // The read detaches the buffer and returns the same memory in a new one.
        memory = value.buffer;
        received += value.byteLength;
        if (received > yielded && (done || !fast || received === missing)) {
          yield new Uint8Array(memory, yielded, received - yielded);
          yielded = received;
        }
        if (done) return;
      }
      at += missing;
      fast = performance.now() - began < FAST_MS;
    }
  } finally {
    cancel(reader);
    // A read that has not ended keeps the buffer: this one has no bytes then.
    if (memory.byteLength === PIECE_BYTES) spare.push(memory);
  }
}

function bytesReader(stream: ReadableStream): ReadableStreamBYOBReader | undefined {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    // Not a byte stream: it was made by a page, or by an older browser. The caller reads it by chunks.
    return undefined;
  }
}

async function* readChunks(
  reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>,
  wait: BodyOptions["wait"],
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  try {
    for (;;) {
      const { done, value } = await wait(reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    cancel(reader);
  }
}

function cancel(reader: ReadableStreamGenericReader): void {
  // Rejects if the stream has failed already; the read has thrown that error.
  reader.cancel().catch(() => undefined);
}
