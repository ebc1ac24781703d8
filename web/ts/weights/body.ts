/** Reading the body of an answer, without garbage and without copies. */

/** Bytes that are gathered where nothing is said. */
const PIECE_BYTES = 256 << 10;
/** A piece that took longer than this came over a slow connection: whoever waits wants to see every byte, and none may come twice. */
const FAST_MS = 250;

export interface BodyOptions {
  /** Where in its file the body begins. */
  at: number;
  /** Of the file; `Infinity` where that is not known. */
  bytes: number;
  /** Pieces of the file that are best handed on whole. */
  pieceBytes?: number | undefined;
  /** Waits for a read, for as long as one may take. */
  wait: <T>(work: Promise<T>) => Promise<T>;
}

/**
 * The bytes of a body, in order. What is given is overwritten when the next bytes are asked for.
 *
 * They are read into one buffer, again and again: pieces of their own would pile up until the browser collects its garbage. While they come
 * fast they are read on until a piece of the file is whole, so that it can be hashed where it lies; if the connection breaks, what had come
 * of that piece is lost. So the first piece of a body is handed on as it comes: a body that breaks early has brought something all the same.
 */
export async function* readBody(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  options: BodyOptions,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { bytes, wait } = options;
  const pieceBytes = Math.min(options.pieceBytes ?? PIECE_BYTES, bytes);
  const reader = bytesReader(stream);
  if (!reader) return yield* readChunks(stream.getReader(), wait);
  let { at } = options;
  let memory = new ArrayBuffer(pieceBytes);
  let fast = false;
  try {
    for (;;) {
      const began = performance.now();
      // To the end of the piece, or of the file; a server's file may be longer.
      const missing = Math.min(pieceBytes - (at % pieceBytes), at < bytes ? bytes - at : Infinity);
      let given = 0;
      for (let came = 0; came < missing;) {
        const { done, value } = await wait(reader.read(new Uint8Array(memory, came, missing - came)));
        // Of a stream that was cancelled.
        if (!value) return;
        // It is the same memory, in another object.
        memory = value.buffer;
        came += value.byteLength;
        if (came > given && (done || !fast || came === missing)) {
          yield new Uint8Array(memory, given, came - given);
          given = came;
        }
        if (done) return;
      }
      at += missing;
      fast = performance.now() - began < FAST_MS;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function bytesReader(stream: ReadableStream): ReadableStreamBYOBReader | undefined {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    // Not a stream of bytes: one that a page made, or an older browser's.
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
    reader.cancel().catch(() => undefined);
  }
}
