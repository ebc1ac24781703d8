/** Videos: frames of files and elements of the page, lists of pictures, and streams of frames. */

import { videoForEngine, type EngineVideoOptions, type VideoFacts, type VideoPlan } from "../wire/engine.js";
import { QwenVLError } from "../wire/errors.js";
import type { FramePayload, FrameReply } from "../wire/protocol.js";
import { describe } from "../wire/quote.js";
import type { VideoOptions } from "../wire/types.js";
import { capture, EXACT, isPlain, type ImageSource } from "./image.js";
import { anyNumber, checkArgument, whole, type Check, type Checks } from "./options.js";

/** A video: a file, an address, or an element of the page. */
export type VideoSource = Blob | string | URL | HTMLVideoElement;

/** A frame of a video and its time in seconds. */
export interface TimedImage {
  image: ImageSource;
  time: number;
}

/**
 * A video for a question: a file, an address, or an element of the page, of which frames are chosen; a list of frames with their times; or a
 * stream of frames, such as the `readable` of a `MediaStreamTrackProcessor`, which is read to its end and whose frames are closed.
 */
export type VideoInput = VideoSource | readonly TimedImage[] | AsyncIterable<VideoFrame> | ReadableStream<VideoFrame>;

/** The frames of a video in their size for the model. */
export interface CapturedVideo {
  kind: "video";
  width: number;
  height: number;
  /** Three bytes a pixel, one frame after the other. */
  rgb: Uint8Array<ArrayBuffer>;
  /** Time of each frame, in seconds. */
  times: Float64Array;
  fps?: number;
}

/** The worker's part in reading a video. */
export interface VideoTools {
  plan(source: VideoFacts, options: EngineVideoOptions): Promise<VideoPlan>;
  /** Decodes a frame, and stretches it to a width and height if they are given. */
  frame(image: FramePayload, size?: [number, number]): Promise<FrameReply>;
}

export const VIDEO_CHECKS: Checks<VideoOptions> = {
  fps: { expected: "a number above 0", accepts: (value) => anyNumber.accepts(value) && (value as number) > 0 },
  maxFrames: whole(1),
  minStepTokens: whole(1),
  maxTokens: whole(1),
};

const anyTimedImage: Check = {
  expected: "{ image, time }",
  accepts: (value) => typeof value === "object" && value !== null && "image" in value && anyNumber.accepts((value as TimedImage).time),
};

/** Frames of a stream are kept in the size that they have in a video of this many frames, the largest that the model sees. */
const FEWEST_FRAMES = 4;
const DEFAULT_FPS = 2;
/** Attempts to take a frame from a player, and the time between two of them. */
const FRAME_ATTEMPTS = 100;
const FRAME_WAIT_MS = 50;

/** Reads the frames of a video that the model sees. `name` is the argument's place, for the message. */
export async function readVideo(
  video: VideoInput,
  options: VideoOptions,
  tools: VideoTools,
  signal?: AbortSignal,
  name = "video",
): Promise<CapturedVideo> {
  const wanted = videoForEngine(options);
  if (Array.isArray(video)) return readList(video as readonly TimedImage[], wanted, tools, signal, name);
  if (isStream(video)) return readStream(video, wanted, tools, signal);
  checkPlayable(name, video);
  return withPlayer(video, signal, async (player, seek) => {
    const { videoWidth: width, videoHeight: height, duration } = player;
    const plan = await tools.plan({ width, height, duration }, wanted);
    const frames = new Frames(plan);
    for (const time of plan.frames) {
      await seek(time);
      const bitmap = await shown(player, signal);
      frames.add(time, (await tools.frame({ kind: "bitmap", bitmap, original: false }, [plan.width, plan.height])).rgb);
    }
    return frames.done();
  });
}

/** Collects the frames of a plan. */
class Frames {
  readonly #plan: VideoPlan;
  readonly #rgb: Uint8Array<ArrayBuffer>;
  readonly #times: Float64Array;
  #count = 0;

  constructor(plan: VideoPlan) {
    this.#plan = plan;
    this.#rgb = new Uint8Array(plan.frames.length * plan.width * plan.height * 3);
    this.#times = new Float64Array(plan.frames.length);
  }

  add(time: number, rgb: Uint8Array): void {
    this.#rgb.set(rgb, this.#count * this.#plan.width * this.#plan.height * 3);
    this.#times[this.#count++] = time;
  }

  done(): CapturedVideo {
    const { width, height, fps } = this.#plan;
    return { kind: "video", width, height, rgb: this.#rgb, times: this.#times, ...(fps === null ? {} : { fps }) };
  }
}

async function readList(
  list: readonly TimedImage[],
  options: EngineVideoOptions,
  tools: VideoTools,
  signal: AbortSignal | undefined,
  name: string,
): Promise<CapturedVideo> {
  const at = async (index: number, size?: [number, number]) => {
    signal?.throwIfAborted();
    const place = `${name}[${index}]`;
    checkArgument(place, list[index], anyTimedImage);
    const { image, time } = list[index] as TimedImage;
    const captured = await capture(image, "from-image", signal, `${place}.image`);
    return { time, ...(await tools.frame(framePayload(captured), size)) };
  };
  if (list.length === 0) throw new QwenVLError("INVALID_ARGUMENT", `\`${name}\` is an empty array, expected frames`);
  const first = await at(0);
  const plan = await tools.plan({ width: first.width, height: first.height, frames: list.length }, options);
  const frames = new Frames(plan);
  for (const index of plan.frames) {
    const { width, height, time, rgb } = await at(index, [plan.width, plan.height]);
    if (width !== first.width || height !== first.height) {
      const sizes = `${width}×${height}, and the first is ${first.width}×${first.height}`;
      throw new QwenVLError("INVALID_ARGUMENT", `\`${name}[${index}]\` is ${sizes}: the frames of a video have one size`);
    }
    frames.add(time, rgb);
  }
  return frames.done();
}

async function readStream(
  stream: AsyncIterable<VideoFrame> | ReadableStream<VideoFrame>,
  options: EngineVideoOptions,
  tools: VideoTools,
  signal?: AbortSignal,
): Promise<CapturedVideo> {
  let interval = 1 / (options.fps ?? DEFAULT_FPS);
  let kept: { time: number; rgb: Uint8Array<ArrayBuffer> }[] = [];
  let size: { width: number; height: number; largest: VideoPlan } | undefined;
  let start: number | undefined;
  for await (const frame of framesOf(stream)) {
    signal?.throwIfAborted();
    const { timestamp, displayWidth: width, displayHeight: height } = frame;
    start ??= timestamp;
    const time = (timestamp - start) / 1e6;
    const last = kept.at(-1);
    // Times of frames are rounded to microseconds.
    if (last && time < last.time + interval - 1e-4) {
      frame.close();
      continue;
    }
    const bitmap = await createImageBitmap(frame, EXACT).finally(() => frame.close());
    size ??= { width, height, largest: await tools.plan({ width, height, frames: FEWEST_FRAMES }, options) };
    const { largest } = size;
    const { rgb } = await tools.frame({ kind: "bitmap", bitmap, original: false }, [largest.width, largest.height]);
    kept.push({ time, rgb });
    const fitting = await tools.plan({ width: size.width, height: size.height, frames: kept.length }, options);
    if (fitting.frames.length < kept.length) {
      // The stream is longer than the model can see: keep every second frame, and take half as many from now on.
      kept = kept.filter((_, index) => index % 2 === 0);
      interval *= 2;
    }
  }
  if (!size) throw new QwenVLError("IMAGE_DECODE", "the stream ended without a frame");
  const { width, height, largest } = size;
  const plan = await tools.plan({ width, height, frames: kept.length }, options);
  const frames = new Frames({ ...plan, fps: 1 / interval });
  for (const { time, rgb } of kept) {
    const fits = plan.width === largest.width && plan.height === largest.height;
    const image = { kind: "rgba" as const, width: largest.width, height: largest.height, pixels: withAlpha(rgb), original: false };
    frames.add(time, fits ? rgb : (await tools.frame(image, [plan.width, plan.height])).rgb);
  }
  return frames.done();
}

/** Throws `INVALID_ARGUMENT` unless a player can show the value. It cannot show a list or a stream. */
export function checkPlayable(name: string, video: VideoInput): asserts video is VideoSource {
  const isFrames = Array.isArray(video) || isStream(video);
  // Objects of other windows are not instances of this window's classes, so an unknown class is accepted here.
  if (typeof video === "string" || (typeof video === "object" && video !== null && !isFrames && !isPlain(video))) return;
  const reason = isFrames ? ": this model sees frames as pictures" : "";
  const message = `\`${name}\` is ${describe(video)}, expected a file, an address or a video element${reason}`;
  throw new QwenVLError("INVALID_ARGUMENT", message);
}

function isStream(video: unknown): video is AsyncIterable<VideoFrame> | ReadableStream<VideoFrame> {
  return typeof video === "object" && video !== null && (Symbol.asyncIterator in video || "getReader" in video);
}

/** Browsers without asynchronous iteration of streams have readers. */
async function* framesOf(stream: AsyncIterable<VideoFrame> | ReadableStream<VideoFrame>): AsyncGenerator<VideoFrame> {
  if (!("getReader" in stream)) {
    yield* stream;
    return;
  }
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // Also if the caller stops early: a camera should not run on.
    await reader.cancel().catch(() => undefined);
  }
}

function framePayload(image: Awaited<ReturnType<typeof capture>>): FramePayload {
  switch (image.kind) {
    case "encoded":
      return { kind: "encoded", bytes: image.bytes, upright: image.upright, original: false };
    case "data": {
      const { width, height, data } = image.data;
      return { kind: "rgba", width, height, pixels: new Uint8Array(data), original: false };
    }
    case "bitmap":
      return { kind: "bitmap", bitmap: image.bitmap, original: false };
  }
}

/** Returns pixels of three bytes with an opaque alpha channel. */
export function withAlpha(rgb: Uint8Array): Uint8Array<ArrayBuffer> {
  const rgba = new Uint8Array((rgb.length / 3) * 4).fill(255);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) rgba.set(rgb.subarray(from, from + 3), to);
  return rgba;
}

/** Returns the frames of a captured video as pictures. */
export function framesAsImages({ width, height, rgb, times }: CapturedVideo): { image: ImageData; time: number }[] {
  const bytes = width * height * 3;
  return [...times].map((time, index) => {
    const data = new Uint8ClampedArray(withAlpha(rgb.subarray(index * bytes, (index + 1) * bytes)).buffer);
    // Node has no such class.
    const image =
      typeof ImageData === "undefined" ? ({ data, width, height, colorSpace: "srgb" } as ImageData) : new ImageData(data, width, height);
    return { image, time };
  });
}

/**
 * Returns frames of a video as pictures for a question. The video is divided into `count` equal parts; each frame is from the middle of
 * one part.
 *
 * @param count 4 by default, as in the original
 */
export async function sampleFrames(video: VideoSource, count = 4, options: { signal?: AbortSignal } = {}): Promise<ImageBitmap[]> {
  if (!Number.isInteger(count) || count < 1)
    throw new QwenVLError("INVALID_ARGUMENT", `\`count\` is ${describe(count)}, expected a whole number from 1`);
  checkPlayable("video", video);
  return withPlayer(video, options.signal, async (player, seek) => {
    const frames: ImageBitmap[] = [];
    for (let frame = 0; frame < count; frame++) {
      await seek(((frame + 0.5) / count) * player.duration);
      frames.push(await shown(player, options.signal));
    }
    return frames;
  });
}

/** Opens a video in a separate player, so that an element of the page does not change its position. */
async function withPlayer<T>(
  video: VideoSource,
  signal: AbortSignal | undefined,
  use: (player: HTMLVideoElement, seek: (time: number) => Promise<void>) => Promise<T>,
): Promise<T> {
  if (typeof document === "undefined") throw new QwenVLError("IMAGE_DECODE", "videos can only be read on pages, not in workers");
  const url =
    video instanceof Blob ? URL.createObjectURL(video) : video instanceof HTMLVideoElement ? video.currentSrc || video.src : String(video);
  const player = Object.assign(document.createElement("video"), { muted: true, preload: "auto", crossOrigin: "anonymous" });
  try {
    await arrival(player, "loadeddata", signal, () => (player.src = url));
    // A recorded video has an unknown duration until the player has reached its end.
    if (!Number.isFinite(player.duration)) await arrival(player, "seeked", signal, () => (player.currentTime = Number.MAX_SAFE_INTEGER));
    return await use(player, async (time) => {
      await arrival(player, "seeked", signal, () => (player.currentTime = time));
      if (player.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) await arrival(player, "canplay", signal);
    });
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof QwenVLError) throw cause;
    throw new QwenVLError("IMAGE_DECODE", `could not read the video's frames: ${String(cause)}`, { cause });
  } finally {
    player.removeAttribute("src");
    player.load();
    if (video instanceof Blob) URL.revokeObjectURL(url);
  }
}

/** Returns the frame that the player shows. On a busy machine a player has none for a while, although its position has arrived. */
async function shown(player: HTMLVideoElement, signal?: AbortSignal): Promise<ImageBitmap> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await createImageBitmap(player, EXACT);
    } catch (cause) {
      const isLate = cause instanceof DOMException && cause.name === "InvalidStateError";
      if (!isLate || attempt === FRAME_ATTEMPTS) throw cause;
    }
    await new Promise((resolve) => setTimeout(resolve, FRAME_WAIT_MS));
    signal?.throwIfAborted();
  }
}

/** Resolves at the next `event` of the player. */
function arrival(player: HTMLVideoElement, event: string, signal?: AbortSignal, start?: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const over = new AbortController();
    const listening = { signal: over.signal };
    const end = (settle: () => void) => () => {
      over.abort();
      settle();
    };
    player.addEventListener(event, end(resolve), listening);
    const failed = () => new QwenVLError("IMAGE_DECODE", `the browser cannot play the video: ${player.error?.message ?? "unknown reason"}`);
    player.addEventListener(
      "error",
      end(() => reject(failed())),
      listening,
    );
    signal?.addEventListener(
      "abort",
      end(() => reject(signal.reason)),
      listening,
    );
    start?.();
  });
}
