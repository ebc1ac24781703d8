// A model whose worker is a stand-in: it keeps the requests, and encodes a picture as a text of its bytes.

import { QwenVLModel } from "../../web/dist/api/model.js";

/** Width and height of all frames, and of a picture for boxes in pixels. */
const FRAME = 2;
const SIDE = 640;
/** A picture that every address of the web shows. */
const PICTURE = Uint8Array.of(0x47, 0x49, 0x46, 0x38, 9);

class Worker {
  onLost = undefined;
  /** Requests of `ask`, with their pictures as texts. */
  asked = [];
  /** The raw answer to each question. */
  raw = "";

  call(method, params) {
    return { result: Promise.resolve().then(() => this[method](params)), cancel: () => undefined };
  }

  shutDown() {
    return Promise.resolve(0);
  }

  encode({ image }) {
    return { id: textOf(image), width: SIDE, height: SIDE, seen: [448, 448], tokens: 4 };
  }

  ask({ request, images }) {
    this.asked.push({ request, images: images.map(textOf) });
    const usage = { promptTokens: 1, imageTokens: 0, reusedTokens: 0, completionTokens: 1, droppedTurns: 0 };
    const answer = { text: "", raw: this.raw, tokens: [1], objects: [], finishReason: "stop", usage, timings: {} };
    return { answer, pictures: images.map((image) => this.encode({ image })) };
  }

  score({ candidates }) {
    return candidates.map(() => ({ tokens: [1], logprobs: [-1] }));
  }

  count() {
    return 1;
  }

  release() {
    return undefined;
  }

  planVideo({ source, options }) {
    const count = Math.min(source.frames, options.max_frames ?? 8);
    return { frames: Array.from({ length: count }, (_, index) => index), width: FRAME, height: FRAME, tokens: 1, fps: options.fps ?? null };
  }

  frame({ image }) {
    return { width: FRAME, height: FRAME, rgb: pixelsOf(image) };
  }
}

/** Returns a payload as a text: two payloads are equal if the worker sees the same picture. */
function textOf(payload) {
  if (payload.kind === "kept") return payload.id;
  const { bytes, rgb, times, ...rest } = payload;
  return JSON.stringify({
    ...rest,
    data: Buffer.from(bytes ?? rgb ?? []).toString("base64"),
    ...(times ? { times: [...times] } : {}),
  });
}

/** Returns the pixels of a frame: those of a BMP file of this size, and a pattern of the bytes of every other picture. */
function pixelsOf({ bytes }) {
  const rgb = new Uint8Array(FRAME * FRAME * 3);
  const row = Math.ceil((FRAME * 3) / 4) * 4;
  const isOurs = bytes[0] === 0x42 && bytes.length === 54 + row * FRAME;
  if (!isOurs) return rgb.map((_, index) => (bytes[index % bytes.length] ?? 0) + index);
  for (let y = 0; y < FRAME; y++) {
    for (let x = 0; x < FRAME; x++) {
      const from = 54 + y * row + x * 3;
      rgb.set([bytes[from + 2], bytes[from + 1], bytes[from]], (y * FRAME + x) * 3);
    }
  }
  return rgb;
}

/** Returns a model of a family, and its worker. */
export function modelOf(family) {
  const client = new Worker();
  const info = { family, contextLength: 2048, pictureTokens: { min: 4, max: 1024 } };
  return { model: new QwenVLModel({ client, info, loadMs: 0, restoredBytes: 0 }, "https://example.org/model/", {}), worker: client };
}

/** Calls `work` while every address of the web shows one picture. */
export async function withPictures(work) {
  const { fetch } = globalThis;
  globalThis.fetch = async (address) => {
    if (!URL.canParse(address)) throw new TypeError("Failed to parse URL");
    return new Response(PICTURE);
  };
  try {
    return await work();
  } finally {
    globalThis.fetch = fetch;
  }
}
