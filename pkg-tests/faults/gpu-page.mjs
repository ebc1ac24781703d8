// Runs in pages: a load and two answers on a GPU that fails. See `../suites/devices.mjs`.

import { QwenVL } from "qwen-vl-web";
import { disposeCounting } from "qwen-vl-web/testing";

/** Greedy, past the ends that random weights would choose. */
const STEPS = { greedy: true, maxTokens: 5, repetitionPenalty: 1 };

async function answer(model) {
  const picture = new ImageData(64, 48);
  picture.data.forEach((_, at) => (picture.data[at] = (at * 7) % 256));
  const first = await model.complete("<img>1.png</img>Hello", [picture], STEPS);
  const second = await model.complete("And", [], STEPS);
  return [...first.tokens, ...second.tokens];
}

const dataOf = ({ name, code, message, hint }) => ({ name, code, message, hint });

/**
 * Loads a model, asks it, and disposes of it. If a question fails, the model is recovered and asked again; if the load fails, it is loaded again.
 *
 * @param {{ url: string, plan: object, benchmark?: boolean }} scene `plan`: see `gpu-points.mjs`
 */
export async function run({ url, plan, benchmark = false }) {
  const channel = new BroadcastChannel("points");
  const seen = { hit: undefined, live: undefined, counts: {} };
  channel.onmessage = ({ data }) => {
    if (data.hit) seen.hit = data.name;
    if (data.live !== undefined) seen.live = data.live;
    for (const kind of data.kinds ?? []) seen.counts[kind] = (seen.counts[kind] ?? 0) + 1;
  };
  const load = () => {
    const workerUrl = `/faults/worker-gpu.mjs?plan=${encodeURIComponent(JSON.stringify(plan))}`;
    return QwenVL.load(url, { backend: "webgpu", cache: "none", kernels: "cpu", workerUrl });
  };
  const use = async (model) => {
    const tokens = await answer(model);
    if (benchmark) await model.benchmark({ contexts: [64], prompts: [64], decodeTokens: 2, runs: 1, picture: false });
    return tokens;
  };
  let [model, error, at, tokens] = [];
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
      await model.dispose();
      model = await load();
    }
    tokens = await use(model);
  }
  const left = await disposeCounting(model);
  // The last reports are on their way.
  for (let waited = 0; seen.live !== 0 && waited < 50; waited += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  channel.close();
  return { tokens, error, at, left, ...seen };
}
