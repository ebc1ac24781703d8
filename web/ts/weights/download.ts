/** Downloads files over HTTP. Handles broken connections, busy servers and servers without byte ranges. */

import { QwenVLError } from "../wire/errors.js";
import { excerptUrl } from "../wire/quote.js";
import { readBody } from "./body.js";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface DownloadOptions {
  fetch: Fetch;
  /** Credentials, headers and other settings of every request. */
  requestInit?: RequestInit;
  /** Consecutive attempts without progress after which the download fails. */
  retries: number;
  signal: AbortSignal;
  /** Called when a request failed and will be repeated. */
  onRetry?: (() => void) | undefined;
  /** Called with the number of bytes that were received a second time. */
  onRefetched?: ((bytes: number) => void) | undefined;
  /** Wait before the first retry, in milliseconds. Doubles with each failure. */
  backoffMs?: number;
  /** An attempt fails after this many milliseconds without a byte. */
  stallMs?: number;
  /** Size of the file's pieces, see `readBody`. */
  pieceBytes?: number | undefined;
  /** True if the file is longer than the bytes that are asked for: each request then names their end. */
  exactRange?: boolean;
}

const BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 30_000;
/** Longest `Retry-After` to wait for. After a longer one the download fails, and the user can retry later. */
const MAX_RETRY_AFTER_MS = 120_000;
const STALL_MS = 30_000;

/** A transient error: the download is retried. */
class RetryableError extends Error {
  constructor(
    message: string,
    readonly details: { status?: number; retryAfterMs?: number } = {},
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** Properties of the file on its server, as seen in the responses so far. */
export interface ServedFile {
  etag: string | null;
  /** False once the server has ignored a byte range. */
  ranges: boolean;
}

/**
 * Yields the bytes `from..bytes` of a file in order, each once. After a failure it resumes behind the last byte received. The length that a
 * server declares is not trusted: exactly the missing bytes are yielded, and the caller verifies their hash. The next step of the iterator
 * overwrites the bytes that the last one yielded.
 */
export async function* download(
  url: string,
  bytes: number,
  from: number,
  options: DownloadOptions,
  served: ServedFile = { etag: null, ranges: true },
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  let at = from;
  let failures = 0;
  let endedAt: number | undefined;
  while (at < bytes) {
    const start = at;
    try {
      for await (const piece of openBody(url, at, bytes, served, options)) {
        const wanted = piece.subarray(0, bytes - at);
        at += wanted.byteLength;
        yield wanted;
        if (at === bytes) return;
      }
      // The file ended twice at the same offset without a connection error: it is shorter on the server.
      if (at === start && endedAt === at) throw shorterFile(url, bytes, at);
      endedAt = at;
      throw new RetryableError(`the file ended after ${at} of ${bytes} bytes`);
    } catch (error) {
      failures = at > start ? 1 : failures + 1;
      await waitToRetry(url, error, failures, options);
    }
  }
}

function shorterFile(url: string, expected: number, found: number): QwenVLError {
  const message = `${excerptUrl(url)}: expected ${expected} bytes as in the manifest, the server has ${found}`;
  return new QwenVLError("INTEGRITY", message, { details: { shard: url, expected, found } });
}

/** Largest small file of unknown size, bytes. Those of published models have less than 1 MiB. */
export const MAX_WHOLE_BYTES = 64 << 20;

/** Downloads a small file of unknown size. */
export async function downloadWhole(url: string, options: DownloadOptions): Promise<Uint8Array<ArrayBuffer>> {
  for (let failures = 1; ; failures++) {
    try {
      const problem = () =>
        new QwenVLError("DOWNLOAD", `a text file is longer than ${MAX_WHOLE_BYTES} bytes: ${excerptUrl(url)}`, { details: { url } });
      return await collect(upTo(MAX_WHOLE_BYTES, openBody(url, 0, Infinity, { etag: null, ranges: false }, options), problem));
    } catch (error) {
      await waitToRetry(url, error, failures, options);
    }
  }
}

/** Waits before the next attempt, or throws the error with which the download fails. */
async function waitToRetry(url: string, error: unknown, failures: number, options: DownloadOptions): Promise<void> {
  options.signal.throwIfAborted();
  if (!(error instanceof RetryableError)) throw error;
  const { status, retryAfterMs = 0 } = error.details;
  if (failures > options.retries || retryAfterMs > MAX_RETRY_AFTER_MS) {
    const details = { url, attempts: failures, ...error.details };
    const offline = status === undefined && globalThis.navigator?.onLine === false;
    throw new QwenVLError(offline ? "OFFLINE_MISSING" : "DOWNLOAD", `${error.message}, attempt ${failures}: ${excerptUrl(url)}`, {
      details,
      cause: error.cause,
    });
  }
  options.onRetry?.();
  // Half of the wait is random, so that many clients do not retry at the same moment.
  const longest = Math.min((options.backoffMs ?? BACKOFF_MS) * 2 ** (failures - 1), MAX_BACKOFF_MS);
  await sleep(Math.max(longest * (0.5 + Math.random() / 2), retryAfterMs), options.signal);
}

/** Sends one request and yields its body from offset `at` of the file, whose size is `bytes`. */
async function* openBody(
  url: string,
  at: number,
  bytes: number,
  served: ServedFile,
  options: DownloadOptions,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { signal, stallMs = STALL_MS } = options;
  const attempt = new AbortController();
  const abort = () => attempt.abort(signal.reason);
  signal.addEventListener("abort", abort);
  // Not every stream ends when its request is aborted, so an abort also ends the wait itself.
  let endWait: (reason: unknown) => void = () => undefined;
  attempt.signal.addEventListener("abort", () => endWait(attempt.signal.reason));
  const waited = async <T>(work: Promise<T>, failure: string) => {
    waitingSince = performance.now();
    try {
      return await new Promise<T>((resolve, reject) => {
        endWait = reject;
        work.then(resolve, reject);
        if (attempt.signal.aborted) reject(attempt.signal.reason);
      });
    } catch (error) {
      throw error instanceof RetryableError ? error : new RetryableError(failure, {}, error);
    } finally {
      waitingSince = undefined;
    }
  };
  // One timer for all reads: setting a timer takes as long as a fast read.
  let waitingSince: number | undefined;
  const watch = () => {
    const waited = waitingSince === undefined ? 0 : performance.now() - waitingSince;
    if (waited >= stallMs) attempt.abort(new RetryableError(`no data for ${stallMs} ms`));
    else timer = setTimeout(watch, stallMs - waited);
  };
  let timer = setTimeout(watch, stallMs);
  let response: Response | undefined;
  try {
    signal.throwIfAborted();
    const headers = new Headers(options.requestInit?.headers);
    const ranged = (at > 0 || options.exactRange === true) && served.ranges;
    if (ranged) headers.set("range", options.exactRange ? `bytes=${at}-${bytes - 1}` : `bytes=${at}-`);
    const request = options.fetch(url, { ...options.requestInit, headers, signal: attempt.signal });
    response = await waited(request, "no response from the server");
    let skip = bytesToSkip(url, response, at, ranged, served);
    if (!response.body) return;
    const wait = <T>(work: Promise<T>) => waited(work, "the connection broke");
    for await (const piece of readBody(response.body, { at: at - skip, bytes, pieceBytes: options.pieceBytes, wait })) {
      const skipped = Math.min(skip, piece.byteLength);
      skip -= skipped;
      if (skipped > 0) options.onRefetched?.(skipped);
      if (skipped < piece.byteLength) yield piece.subarray(skipped);
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    // Ends the transfer if the caller stopped early.
    attempt.abort();
    // Releases a body that was not read. Rejects if it was: then its reader has released it.
    response?.body?.cancel().catch(() => undefined);
  }
}

/** Checks a response. Returns how many bytes of its body lie before offset `at` of the file. */
function bytesToSkip(url: string, response: Response, at: number, ranged: boolean, served: ServedFile): number {
  const { status, headers } = response;
  if (status === 416) {
    // The file seems to be shorter on the server. A request without a range shows its size.
    served.ranges = false;
    throw new RetryableError("the server does not have the rest of the file (status 416)", { status });
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const retryAfterMs = retryAfter(headers);
    throw new RetryableError(`the server answered with status ${status}`, { status, ...(retryAfterMs ? { retryAfterMs } : {}) });
  }
  const failed = (problem: string, details: Record<string, unknown>) =>
    new QwenVLError("DOWNLOAD", `${problem}: ${excerptUrl(url)}`, { details: { url, status, attempts: 1, ...details } });
  if (!response.ok) throw failed(`the server answered with status ${status}`, {});
  const contentType = headers.get("content-type");
  // Servers of web applications send their page for every unknown address.
  if (contentType?.startsWith("text/html")) throw failed("the server answered with a web page", { contentType });

  // A weak tag does not guarantee the same bytes, and other origins can hide the tag.
  const etag = headers.get("etag");
  if (etag && !etag.startsWith("W/")) {
    if (served.etag && etag !== served.etag) {
      const details = { shard: url, expected: served.etag, found: etag };
      throw new QwenVLError("INTEGRITY", `the file changed on the server during the download: ${excerptUrl(url)}`, { details });
    }
    served.etag = etag;
  }
  const encoding = headers.get("content-encoding");
  if (encoding && encoding !== "identity") {
    // A range would count compressed bytes.
    served.ranges = false;
    if (status === 206) throw new RetryableError("the server sent a range of compressed bytes", { status });
  }
  if (!ranged || status !== 206) {
    if (ranged) served.ranges = false;
    return at;
  }
  const begin = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
  // Other origins can hide the header. The hash then detects a wrong range.
  const skip = begin === undefined ? 0 : at - Number(begin);
  if (skip < 0) {
    served.ranges = false;
    throw new RetryableError("the server sent another range than requested", { status });
  }
  return skip;
}

/** Returns `Retry-After`, which holds seconds or a date, in milliseconds. */
function retryAfter(headers: Headers): number {
  const value = headers.get("retry-after");
  if (value === null) return 0;
  // A date is one of the server's clock. That of this machine can be wrong by years.
  const sent = Date.parse(headers.get("date") ?? "");
  const now = Number.isNaN(sent) ? Date.now() : sent;
  const millis = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now;
  // More digits than a number has are infinite.
  return Number.isNaN(millis) ? 0 : Math.max(millis, 0);
}

function sleep(millis: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, millis);
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** Passes a body on, and throws at the first byte after `limit`: what a server sends without end would fill the memory. */
export async function* upTo(
  limit: number,
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  problem: () => Error,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0;
  for await (const piece of body) {
    bytes += piece.byteLength;
    if (bytes > limit) throw problem();
    yield piece;
  }
}

/** Joins the pieces of a body, whose memory is used again. */
export async function collect(body: AsyncIterable<Uint8Array>): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(piece.slice());
  return concat(pieces);
}

/** Joins pieces. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}
