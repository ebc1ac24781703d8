/** Errors of the Prompt API: `DOMException`s by the names of the specification. */

import { QwenVLError, type ErrorCode } from "../../wire/errors.js";

/** Constructor of the browser's class. */
type QuotaErrorClass = new (message: string, options: { quota: number; requested: number }) => DOMException;

/** Returns a `DOMException`, with the error that it stands for as its `cause`. */
export function domException(name: string, message: string, cause?: unknown): DOMException {
  const error = new DOMException(message, name);
  if (cause !== undefined) Object.defineProperty(error, "cause", { value: cause, configurable: true, writable: true });
  return error;
}

/**
 * Returns a `QuotaExceededError` with the tokens that are needed and those that there are. Where the browser has no such class, it is a
 * `DOMException` with the two numbers.
 */
export function quotaExceeded(requested: number, quota: number): DOMException {
  const message = `the conversation needs ${requested} tokens and the context has ${quota}: shorten the prompt, or load with a larger contextLength`;
  const { QuotaExceededError } = globalThis as { QuotaExceededError?: QuotaErrorClass };
  if (QuotaExceededError) return new QuotaExceededError(message, { quota, requested });
  return Object.defineProperties(new DOMException(message, "QuotaExceededError"), {
    quota: { value: quota, enumerable: true },
    requested: { value: requested, enumerable: true },
  });
}

/** Loads that no retry helps, because the model cannot run here. */
const UNSUPPORTED = new Set<ErrorCode>([
  "INSECURE_CONTEXT",
  "WEBGPU_UNAVAILABLE",
  "NO_ADAPTER",
  "INSUFFICIENT_LIMITS",
  "GPU_OUT_OF_MEMORY",
  "GPU_INCORRECT",
  "UNSUPPORTED_MODEL",
  "NOT_CONVERTED",
  "MANIFEST_VERSION",
]);
const NOT_FETCHED = new Set<ErrorCode>([
  "DOWNLOAD",
  "OFFLINE_MISSING",
  "INTEGRITY",
  "ACCESS_DENIED",
  "MANIFEST_INVALID",
  "VOCABULARY_INVALID",
]);
/** As `createImageBitmap` reports a picture that cannot be decoded. */
const NO_PICTURE = new Set<ErrorCode>(["IMAGE_DECODE", "IMAGE_TOO_LARGE"]);

/** Returns a failure of a load as the error of `create`. */
export function loadFailure(error: unknown): unknown {
  if (!(error instanceof QwenVLError)) return isOwn(error) ? error : domException("OperationError", String(error), error);
  const name = UNSUPPORTED.has(error.code) ? "NotSupportedError" : NOT_FETCHED.has(error.code) ? "NetworkError" : "OperationError";
  return domException(name, withHint(error), error);
}

/** Returns a failure of the engine as the error of `prompt` and its like. `constrained` runs have a `responseConstraint`. */
export function promptFailure(error: unknown, constrained: boolean): unknown {
  if (!(error instanceof QwenVLError)) return isOwn(error) ? error : domException("UnknownError", String(error), error);
  const { code, details } = error;
  if (code === "CONTEXT_OVERFLOW") return quotaExceeded(Number(details["used"] ?? 1), Number(details["limit"] ?? 0));
  if (code === "INVALID_ARGUMENT" && constrained) {
    const message = `\`responseConstraint\` is not supported: ${error.message}`;
    return domException("NotSupportedError", message, error);
  }
  const name = NO_PICTURE.has(code) || code === "DISPOSED" ? "InvalidStateError" : code === "DOWNLOAD" ? "NetworkError" : "UnknownError";
  return domException(name, withHint(error), error);
}

/** True if an error is one of the specification already, or the reason of an abort. */
function isOwn(error: unknown): boolean {
  return error instanceof DOMException || error instanceof TypeError || error instanceof RangeError;
}

function withHint({ message, hint }: QwenVLError): string {
  return hint ? `${message}. ${hint}` : message;
}
