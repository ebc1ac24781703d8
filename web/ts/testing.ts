/** For this project's own tests: what no page needs. Not covered by semantic versioning. */

import type { QwenVLModel } from "./api/model.js";
import { Picture, type ImageInput } from "./api/picture.js";
import type { Run } from "./api/run.js";

/** Runs token ids with their pictures and then exactly `steps` greedy steps, past stop tokens too. */
export function runIds(model: QwenVLModel, ids: number[], images: readonly ImageInput[], steps: number): Run {
  const prepare = async () => ({
    prompt: { kind: "ids", ids } as const,
    pictures: images.map((image) => Picture.of(image, "none")),
  });
  return model.start(prepare, { greedy: true, maxTokens: steps, ignoreStop: true });
}

/** Disposes of a model; bytes of GPU buffers that are left then, by our own accounting. */
export function disposeCounting(model: QwenVLModel): Promise<number | undefined> {
  return model.giveBack();
}

/** The logits that the latest token was chosen from. */
export function lastLogits(model: QwenVLModel): Promise<Float32Array> {
  return model.logits();
}
