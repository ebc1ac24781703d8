/** Functions for this project's own tests. Not covered by semantic versioning. */

import type { QwenVLModel } from "./api/model.js";
import { Picture, type ImageInput } from "./api/picture.js";
import type { Run } from "./api/run.js";
import type { PictureLimits } from "./wire/types.js";

/** Runs token ids with their pictures, and then exactly `steps` greedy steps, past stop tokens too. */
export function runIds(model: QwenVLModel, ids: number[], images: readonly ImageInput[], steps: number, limits: PictureLimits = {}): Run {
  const prepare = async () => ({
    prompt: { kind: "ids", ids } as const,
    pictures: images.map((image) => Picture.of(image, { imageOrientation: "none", imageColors: "original" })),
  });
  return model.start(prepare, { greedy: true, maxTokens: steps, ignoreStop: true, repetitionPenalty: 1, presencePenalty: 0, ...limits });
}

/** Disposes of a model. Returns the bytes of GPU buffers that are left, by our own accounting. */
export function disposeCounting(model: QwenVLModel): Promise<number | undefined> {
  return model.disposeCounting();
}

/** Returns the logits that the latest token was chosen from. */
export function lastLogits(model: QwenVLModel): Promise<Float32Array> {
  return model.logits();
}
