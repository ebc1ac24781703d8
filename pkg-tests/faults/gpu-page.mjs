// Runs in pages: a load and two answers on a GPU that fails. See `../suites/devices.mjs`.

import { QwenVL } from "qwen-vl-web";
import { disposeCounting } from "qwen-vl-web/testing";

/** Greedy, past the ends that random weights would choose. */
const STEPS = { greedy: true, maxTokens: 5, repetitionPenalty: 1 };
/** Sampled, with a penalty: both allocate at their first use. */
const SAMPLED = { seed: 5, temperature: 0.5, maxTokens: 5, repetitionPenalty: 1.1 };
/** A prompt of more than one chunk, which has at most 256 tokens. */
const LONG = "The quick brown fox jumps over the lazy dog. ".repeat(7);

async function answer(model) {
  const picture = new ImageData(64, 48);
  picture.data.forEach((_, at) => (picture.data[at] = (at * 7) % 256));
  const first = await model.complete("<img>1.png</img>Hello", [picture], STEPS);
  const second = await model.complete(LONG, [], SAMPLED);
  return [...first.tokens, ...second.tokens];
}

const dataOf = ({ name, code, message, hint }) => ({ name, code, message, hint });

/**
 * Loads a model, asks it, and disposes of it. If a question fails, the model is recovered and asked again; if the load fails, it is loaded again.
 *
 * @param {{ url: string, plan: object, benchmark?: boolean }} scene `plan`: see `gpu-points.mjs`
 * @returns {Promise<object>} `tokens`: the answer; `error` and the call that failed (`at`), if one failed; `repeated`: the tokens of the same
 *   questions to the same model after an error, or the code of their error; `left`: bytes of GPU buffers that are left
 */
export async function run({ url, plan, benchmark = false }) {
  const load = () => {
    const workerUrl = `/faults/worker-gpu.mjs?plan=${encodeURIComponent(JSON.stringify(plan))}`;
    const kernels = plan.chooses ? {} : { kernels: "cpu" };
    return QwenVL.load(url, { backend: "webgpu", cache: "none", workerUrl, ...kernels });
  };
  const use = async (model) => {
    const tokens = await answer(model);
    if (benchmark) await model.benchmark({ contexts: [64], prompts: [64], decodeTokens: 2, runs: 1, picture: false });
    return tokens;
  };
  let [model, error, at, tokens, repeated] = [];
  try {
    model = await load();
  } catch (failure) {
    [error, at] = [dataOf(failure), "load"];
    model = await load();
  }
  try {
    tokens = await use(model);
  } catch (failure) {
    if (error) throw failure;
    [error, at] = [dataOf(failure), "answer"];
    // A device that works computes the same as before; a model that was damaged must be loaded again.
    if (failure.code === "DEVICE_LOST") await model.recover();
    else {
      repeated = await answer(model).catch(({ code }) => code);
      await model.dispose();
      model = await load();
    }
    tokens = await use(model);
  }
  const left = await disposeCounting(model);
  return { tokens, error, at, repeated, left };
}
