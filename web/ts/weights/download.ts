/** Files over HTTP that arrive in spite of cut connections, busy servers and servers without byte ranges. */

import { QwenVLError } from "../wire/errors.js";
import { readBody } from "./body.js";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface DownloadOptions {
  fetch: Fetch;
  /** Credentials, headers and the like for every request. */
  requestInit?: RequestInit;
  /** Attempts in a row that may bring nothing before the download fails. */
  retries: number;
  signal: AbortSignal;
  /** A request failed and will be repeated. */
  onRetry?: (() => void) | undefined;
  /** Bytes came that had come before. */
  onRefetched?: ((bytes: number) => void) | undefined;
  /** The first wait, which doubles. */
  backoffMs?: number;
  /** An attempt ends when nothing came for so long. */
  stallMs?: number;
  /** Pieces of the file that are best handed on whole. */
  pieceBytes?: number | undefined;
}

const BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 30_000;
/** Servers may ask for more patience than this; then it is for the user to come back. */
const MAX_RETRY_AFTER_MS = 120_000;
const STALL_MS = 30_000;

/** What an attempt ended with that may go better the next time. */
class Passing extends Error {
  constructor(
    message: string,
    readonly details: { status?: number; retryAfterMs?: number } = {},
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** What the answers so far have told about a file on its server. */
interface Served {
  etag: string | null;
  /** Whether to ask for byte ranges. */
  ranges: boolean;
}

/**
 * Fetches the bytes `from..bytes` of a file, in order, each once. After a failure it goes on where the last byte came in. Neither the length
 * that a server declares nor its status alone is trusted: exactly the missing bytes are given, and it is for the caller to check their hash.
 * What is given is overwritten when the next bytes are asked for.
 */
export async function* download(
  url: string,
  bytes: number,
  from: number,
  options: DownloadOptions,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const served: Served = { etag: null, ranges: true };
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
      // A file that ends twice at the same place, without a fault of the connection, is a shorter one.
      if (at === start && endedAt === at) throw shorterFile(url, bytes, at);
      endedAt = at;
      throw new Passing(`the file ended after ${at} of ${bytes} bytes`);
    } catch (error) {
      failures = at > start ? 1 : failures + 1;
      await waitToRetry(url, error, failures, options);
    }
  }
}

function shorterFile(url: string, expected: number, found: number): QwenVLError {
  const message = `${url} has ${found} bytes on the server, the manifest says ${expected} bytes`;
  return new QwenVLError("INTEGRITY", message, { details: { shard: url, expected, found } });
}

/** Fetches a small file whose size is not known, whole. */
export async function downloadWhole(url: string, options: DownloadOptions): Promise<Uint8Array<ArrayBuffer>> {
  for (let failures = 1; ; failures++) {
    try {
      const pieces: Uint8Array<ArrayBuffer>[] = [];
      for await (const piece of openBody(url, 0, Infinity, { etag: null, ranges: false }, options)) pieces.push(piece.slice());
      return concat(pieces);
    } catch (error) {
      await waitToRetry(url, error, failures, options);
    }
  }
}

/** Waits before the next attempt, or throws what the download fails with. */
async function waitToRetry(url: string, error: unknown, failures: number, options: DownloadOptions): Promise<void> {
  options.signal.throwIfAborted();
  if (!(error instanceof Passing)) throw error;
  const { status, retryAfterMs = 0 } = error.details;
  if (failures > options.retries || retryAfterMs > MAX_RETRY_AFTER_MS) {
    const details = { url, attempts: failures, ...error.details };
    const offline = status === undefined && globalThis.navigator?.onLine === false;
    throw new QwenVLError(offline ? "OFFLINE_MISSING" : "DOWNLOAD", `${error.message}, attempt ${failures}: ${url}`, {
      details,
      cause: error.cause,
    });
  }
  options.onRetry?.();
  // Half of the wait is random, so that many clients do not come back at once.
  const longest = Math.min((options.backoffMs ?? BACKOFF_MS) * 2 ** (failures - 1), MAX_BACKOFF_MS);
  await sleep(Math.max(longest * (0.5 + Math.random() / 2), retryAfterMs), options.signal);
}

/** One request: the pieces of its body from byte `at` of the file on, which has `bytes`. */
async function* openBody(
  url: string,
  at: number,
  bytes: number,
  served: Served,
  options: DownloadOptions,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  const { signal, stallMs = STALL_MS } = options;
  const attempt = new AbortController();
  const abort = () => attempt.abort(signal.reason);
  signal.addEventListener("abort", abort);
  // Not every stream ends when its request is aborted, so waiting is ended here too.
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
      throw error instanceof Passing ? error : new Passing(failure, {}, error);
    } finally {
      waitingSince = undefined;
    }
  };
  // One timer for all reads: to set one takes as long as some of them.
  let waitingSince: number | undefined;
  const watch = () => {
    const waited = waitingSince === undefined ? 0 : performance.now() - waitingSince;
    if (waited >= stallMs) attempt.abort(new Passing(`nothing came for ${stallMs} ms`));
    else timer = setTimeout(watch, stallMs - waited);
  };
  let timer = setTimeout(watch, stallMs);
  let response: Response | undefined;
  try {
    signal.throwIfAborted();
    const headers = new Headers(options.requestInit?.headers);
    const ranged = at > 0 && served.ranges;
    if (ranged) headers.set("range", `bytes=${at}-`);
    const request = options.fetch(url, { ...options.requestInit, headers, signal: attempt.signal });
    response = await waited(request, "no answer from the server");
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
    // Where it ended early, the rest need not come.
    attempt.abort();
    // Where nobody has begun to read.
    response?.body?.cancel().catch(() => undefined);
  }
}

/** Judges an answer: how many bytes of its body lie before byte `at` of the file. */
function bytesToSkip(url: string, response: Response, at: number, ranged: boolean, served: Served): number {
  const { status, headers } = response;
  if (status === 416) {
    // The server knows ranges, but not this one: what it has can only be seen from the start.
    served.ranges = false;
    throw new Passing("the server does not have the rest of the file (status 416)", { status });
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const retryAfterMs = retryAfter(headers.get("retry-after"));
    throw new Passing(`the server answered with status ${status}`, { status, ...(retryAfterMs ? { retryAfterMs } : {}) });
  }
  const failed = (problem: string, details: Record<string, unknown>) =>
    new QwenVLError("DOWNLOAD", `${problem}: ${url}`, { details: { url, status, attempts: 1, ...details } });
  if (!response.ok) throw failed(`the server answered with status ${status}`, {});
  const contentType = headers.get("content-type");
  // Servers of web applications answer with their page to whatever they do not have.
  if (contentType?.startsWith("text/html")) throw failed("the server answered with a web page", { contentType });

  // A weak tag does not promise the same bytes, and other sites need not show any.
  const etag = headers.get("etag");
  if (etag && !etag.startsWith("W/")) {
    if (served.etag && etag !== served.etag) {
      const details = { shard: url, expected: served.etag, found: etag };
      throw new QwenVLError("INTEGRITY", `the file changed on the server while it was being loaded: ${url}`, { details });
    }
    served.etag = etag;
  }
  const encoding = headers.get("content-encoding");
  if (encoding && encoding !== "identity") {
    // A range would be one of the compressed bytes.
    served.ranges = false;
    if (status === 206) throw new Passing("the server sent a range of compressed bytes", { status });
  }
  if (!ranged || status !== 206) {
    if (ranged) served.ranges = false;
    return at;
  }
  const begin = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
  // Other sites may hide the header; then the hash will tell.
  const skip = begin === undefined ? 0 : at - Number(begin);
  if (skip < 0) {
    served.ranges = false;
    throw new Passing("the server sent another range than asked for", { status });
  }
  return skip;
}

/** `Retry-After` in milliseconds: it holds seconds or a date. */
function retryAfter(value: string | null): number {
  if (value === null) return 0;
  const millis = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(millis) ? Math.max(millis, 0) : 0;
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

/** Puts pieces together. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}
