import { QwenVLError } from "./errors.js";

/** Fetches a file whole. */
export async function download(url: string, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  for await (const piece of openBody(url, signal)) pieces.push(piece);
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.byteLength;
  }
  return bytes;
}

/** Fetches a file piece by piece, as the network delivers it; nothing is kept. */
export async function* openBody(url: string, signal: AbortSignal): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const failed = (problem: string, details: Record<string, unknown>, cause?: unknown) =>
    new QwenVLError("DOWNLOAD", `${problem}: ${url}`, { details: { url, ...details }, cause });
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (cause) {
    signal.throwIfAborted();
    throw failed("no answer from the server", {}, cause);
  }
  const { status } = response;
  if (!response.ok || !response.body) throw failed(`the server answered with status ${status}`, { status });
  const reader = response.body.getReader();
  try {
    for (;;) {
      let next: ReadableStreamReadResult<Uint8Array<ArrayBuffer>>;
      try {
        next = await reader.read();
      } catch (cause) {
        signal.throwIfAborted();
        throw failed("the connection broke", { status }, cause);
      }
      if (next.done) return;
      yield next.value;
    }
  } finally {
    // Where the caller stopped early, the rest need not come.
    reader.cancel().catch(() => undefined);
  }
}
