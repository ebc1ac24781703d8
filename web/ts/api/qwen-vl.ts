/** The package's entry point. */

import type { WorkerClient } from "../wire/client.js";
import { limitsForEngine } from "../wire/engine.js";
import { QwenVLError } from "../wire/errors.js";
import type { ConvertSource, ModelSource } from "../weights/spec.js";
import { weightsCache } from "./cache.js";
import { check, type CheckOptions, type CheckReport } from "./check.js";
import { convert, discard, plan, type CheckpointPlan, type ConvertedModel, type ConvertOptions, type PlanOptions } from "./convert.js";
import { convertIntoWorker, loadIntoWorker, type LoadOptions, type OnStart } from "./load.js";
import { imageView } from "./image.js";
import { QwenVLModel, type EncodeOptions } from "./model.js";
import { encodePicture, Picture, type ImageInput, type ImageRef } from "./picture.js";

/** A model that is being loaded. */
export interface Loading extends Promise<QwenVLModel> {
  /**
   * Encodes a picture as soon as the vision tower is loaded, while the rest of the model is still being fetched. Resolves when the model
   * is loaded.
   */
  encodeImage(image: ImageInput, options?: EncodeOptions): Promise<ImageRef>;
}

/** Entry point: checks, loads and stores models. */
export const QwenVL = {
  /** The models that this site stores. */
  cache: weightsCache,

  /** Returns whether this machine can run a model, before it is fetched: see {@link CheckReport}. Rejects only if it is aborted. */
  check: (source?: string | URL, options: CheckOptions = {}): Promise<CheckReport> => check(source, options),

  /** Returns what a conversion will do, before its first byte: see {@link CheckpointPlan}. */
  plan: (source: ConvertSource, options: PlanOptions = {}): Promise<CheckpointPlan> => plan(source, options),

  /**
   * Converts a checkpoint in the published layout, with its own workers. What an interrupted run has finished is kept, and the next run resumes
   * there.
   *
   * @param source repository as `hf:OWNER/NAME[@REVISION]`, address of a folder, or a folder on this machine
   */
  convert: (source: ConvertSource, options: ConvertOptions = {}): Promise<ConvertedModel> => convert(source, options),

  /** Deletes what an interrupted conversion has written. `source` and `options` are those of the conversion. */
  discardConversion: (source: ConvertSource, options: ConvertOptions = {}): Promise<void> => discard(source, options),

  /**
   * Loads a model into a worker.
   *
   * @param source address of a folder that `quantize` wrote, or of its `manifest.json`, relative to the page; or such a folder on this
   * machine: its files, as chosen or dropped, or a directory handle
   */
  load(source: ModelSource, options: LoadOptions = {}): Loading {
    let client: WorkerClient | undefined;
    let start: () => void = () => undefined;
    const started = new Promise<void>((resolve) => (start = resolve));
    let store: Parameters<OnStart>[1] = "opfs";
    const onStart: OnStart = (newClient, itsStore) => {
      client = newClient;
      store = itsStore;
      start();
    };
    const load = async () => {
      try {
        return new QwenVLModel(await loadIntoWorker(source, options, onStart), source, options);
      } catch (error) {
        if (!options.convert || !(error instanceof QwenVLError && error.code === "NOT_CONVERTED")) throw error;
      }
      // Only an address, files or a folder can hold what is not converted.
      const { loaded, url } = await convertIntoWorker(source as ConvertSource, options, store, onStart);
      return new QwenVLModel(loaded, url, options);
    };
    const loading = load();
    return Object.assign(loading, {
      async encodeImage(image: ImageInput, encoding: EncodeOptions = {}): Promise<ImageRef> {
        const picture = Picture.of(image, imageView(encoding, imageView(options)), encoding.signal);
        try {
          await Promise.race([started, loading]);
          if (client) await Promise.race([encodePicture(client, picture, limitsForEngine(encoding), false, encoding.signal), loading]);
        } catch {
          // The load reports its error below, and `hold` encodes the picture again.
        }
        return (await loading).hold(picture, encoding);
      },
    });
  },
};
