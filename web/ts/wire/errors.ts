import type { EdgeErrorCode } from "./generated.js";
import { shortMessage } from "./quote.js";

/** Kind of an error, for programs. Stable. */
export type ErrorCode =
  | "INSECURE_CONTEXT"
  | "WEBGPU_UNAVAILABLE"
  | "NO_ADAPTER"
  | "INSUFFICIENT_LIMITS"
  | "GPU_OUT_OF_MEMORY"
  | "GPU_INCORRECT"
  | "DEVICE_LOST"
  | "DOWNLOAD"
  | "OFFLINE_MISSING"
  | "INTEGRITY"
  | "QUOTA_EXCEEDED"
  | "STORAGE"
  | "MANIFEST_INVALID"
  | "MANIFEST_VERSION"
  | "VOCABULARY_INVALID"
  | "UNSUPPORTED_MODEL"
  | "CHECKPOINT_INVALID"
  | "NOT_CONVERTED"
  | "ACCESS_DENIED"
  | "IMAGE_DECODE"
  | "IMAGE_TOO_LARGE"
  | "INVALID_ARGUMENT"
  | "CONTEXT_OVERFLOW"
  | "BUSY"
  | "DISPOSED"
  | "INTERNAL";

/** Advice for the user. */
const HINTS: Record<ErrorCode | EdgeErrorCode, string> = {
  INSECURE_CONTEXT: "WebGPU is available on https:// pages and on localhost only.",
  WEBGPU_UNAVAILABLE: "Update the browser, or switch WebGPU on in its settings; without WebGPU only small models run.",
  NO_ADAPTER: "The browser offers no GPU: update the graphics driver, or look at the browser's GPU page (about:gpu, about:support).",
  INSUFFICIENT_LIMITS: "This GPU or its driver cannot hold the model.",
  GPU_OUT_OF_MEMORY: "Close other programs that use the GPU, or load with a smaller contextLength.",
  GPU_INCORRECT: "Update the graphics driver; if it happens again, the checkpoint may be damaged.",
  DEVICE_LOST: "The driver was reset or the machine slept: call `recover()`, or load the model again.",
  DOWNLOAD: "Check the address and the connection, then load again.",
  OFFLINE_MISSING: "Load the model once with a connection, or import its folder; after that it runs offline.",
  INTEGRITY: "The file is cut off, changed or of another model: load again; if that does not help, convert the checkpoint again.",
  QUOTA_EXCEEDED: "Free disk space or delete other models; the model runs from the network meanwhile.",
  STORAGE: "Check that the disk works and that the site may store data, then try again; if it fails again, clear the site's data.",
  MANIFEST_INVALID: "The address must be of a folder that `quantize` wrote.",
  MANIFEST_VERSION: "Update this package, or convert the checkpoint again.",
  VOCABULARY_INVALID: "The vocabulary of this model is damaged: convert the checkpoint again, with its own qwen.tiktoken.",
  UNSUPPORTED_MODEL: "Supported are Qwen-VL (2023), and the Instruct models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.",
  CHECKPOINT_INVALID: "The message names the file or the tensor: take the files of the published checkpoint, or save the model again.",
  NOT_CONVERTED: "Convert the checkpoint first with `QwenVL.convert`, or load it with `convert: true`.",
  ACCESS_DENIED: "Ask for access on the model's page, and pass an access token of your account.",
  IMAGE_DECODE: "Pass a PNG, JPEG, WebP, GIF or BMP picture, or draw the picture to a canvas first.",
  IMAGE_TOO_LARGE: "Make the picture smaller, for example by drawing it to a canvas: the model sees far fewer pixels of it.",
  INVALID_ARGUMENT: "",
  CONTEXT_OVERFLOW: "Start a new session, shorten the question, or load with a larger contextLength.",
  BUSY: "Another tab or question is using this model: wait for it, or end it.",
  DISPOSED: "Load the model again.",
  INTERNAL: "This is a bug: please report it with the message.",
};

/** Data of an error, as it passes between the worker and the page. */
export interface ErrorData {
  code: ErrorCode;
  message: string;
  details?: Record<string, unknown>;
  cause?: unknown;
}

/** Every error of this package except cancellation, which is the signal's reason (a DOMException `AbortError`). */
export class QwenVLError extends Error {
  override readonly name = "QwenVLError";
  /** Kind of the error, for programs. */
  readonly code: ErrorCode;
  /** Advice for the user; may be empty. */
  readonly hint: string;
  /** Names and numbers of the message. They depend on the kind of error. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: { details?: Record<string, unknown>; cause?: unknown } = {}) {
    super(shortMessage(message), options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = HINTS[code];
    this.details = options.details ?? {};
  }

  /** True if the same call can succeed later. */
  get retryable(): boolean {
    return this.code === "DOWNLOAD" || this.code === "OFFLINE_MISSING" || this.code === "BUSY" || this.code === "DEVICE_LOST";
  }

  /** @internal */
  static fromData(data: ErrorData): QwenVLError {
    return new QwenVLError(data.code, data.message, data);
  }
}

/** Converts a thrown value into data that can be posted. Errors of the wasm edge have a code. */
export function errorData(thrown: unknown): ErrorData {
  if (thrown instanceof Error) {
    const { code, details } = thrown as Error & { code?: unknown; details?: Record<string, unknown> };
    const known = typeof code === "string" && Object.hasOwn(HINTS, code);
    return {
      code: known ? (code as ErrorCode) : "INTERNAL",
      message: known ? thrown.message : `${thrown.name}: ${thrown.message}`,
      ...(known && details ? { details } : {}),
      ...(thrown.cause === undefined ? {} : { cause: causeText(thrown.cause) }),
    };
  }
  return { code: "INTERNAL", message: String(thrown) };
}

function causeText(cause: unknown): string {
  return typeof cause === "object" && cause !== null && !(cause instanceof Error) ? JSON.stringify(cause) : String(cause);
}
