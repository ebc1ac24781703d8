/** For this project's own tests: what no page needs. Not covered by semantic versioning. */

import { imagePayload, type ImageInput } from "./image.js";
import type { QwenVLModel } from "./model.js";
import type { Run } from "./run.js";

/** Runs token ids with their pictures and then exactly `steps` greedy steps, past stop tokens too. */
export function runIds(model: QwenVLModel, ids: number[], images: readonly ImageInput[], steps: number): Run {
  const prepare = async () => ({
    prompt: { kind: "ids", ids } as const,
    images: await Promise.all(images.map((image) => imagePayload(image, false))),
  });
  return model.start(prepare, { greedy: true, maxTokens: steps, ignoreStop: true });
}

/** The logits that the latest token was chosen from. */
export function lastLogits(model: QwenVLModel): Promise<Float32Array> {
  return model.logits();
}
