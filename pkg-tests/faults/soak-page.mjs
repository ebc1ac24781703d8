// Runs in pages: conversations with random steps. See `../suites/soak.mjs`.

import { QwenVL } from "qwen-vl-web";
import { disposeCounting } from "qwen-vl-web/testing";

const SESSIONS = 4;
/** Tokens of a conversation after which it starts anew. */
const LONG = 1200;
const GENERATION = { greedy: true, maxTokens: 4, repetitionPenalty: 1 };
/** Share of answers that a fresh session gives again. */
const CHECKED = 0.1;

let model;
let random;
let sessions;

/** A generator of numbers from 0 to 1 (mulberry32), so that a seed repeats a run. */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const below = (count) => Math.floor(random() * count);
const newSession = (options = {}) => model.createSession({ generation: GENERATION, ...options });

/** One of eight pictures. */
function picture() {
  const [kind, data] = [below(8), new ImageData(48, 32)];
  data.data.forEach((_, at) => (data.data[at] = at % 4 === 3 ? 255 : (at * (kind + 3)) % 256));
  return data;
}

export async function begin(url, seed) {
  random = generator(seed);
  model = await QwenVL.load(url, { backend: "webgpu", cache: "none", kernels: "cpu", contextLength: 2048, keptImages: 3 });
  sessions = Array.from({ length: SESSIONS }, () => newSession());
}

/** Takes steps until there are `turns` more answers. Returns what happened. */
export async function steps(turns) {
  const done = { answers: 0, aborted: 0, regenerated: 0, undone: 0, forked: 0, checked: 0, wrong: [] };
  while (done.answers < turns) {
    const at = below(SESSIONS);
    if (sessions[at].contextUsage > LONG) sessions[at] = newSession();
    const session = sessions[at];
    const step = random();
    const turnsSoFar = session.history.length / 2;
    if (step < 0.08 && turnsSoFar > 0) {
      session.undo(1 + below(turnsSoFar));
      done.undone += 1;
    } else if (step < 0.16) {
      sessions[below(SESSIONS)] = session.fork();
      done.forked += 1;
    } else if (step < 0.26 && turnsSoFar > 0) {
      await session.regenerate();
      done.regenerated += 1;
      done.answers += 1;
    } else {
      const content = [...(random() < 0.4 ? [{ image: picture() }] : []), `Question ${below(50)}?`];
      const { history } = session;
      if (random() < 0.1) {
        const controller = new AbortController();
        const events = below(4);
        const run = session.ask(content, { signal: controller.signal });
        let seen = 0;
        try {
          for await (const _ of run) if (seen++ === events) controller.abort();
        } catch (error) {
          if (error.name !== "AbortError") done.wrong.push(String(error));
        }
        done.aborted += 1;
        continue;
      }
      const answer = await session.ask(content);
      done.answers += 1;
      if (random() > CHECKED) continue;
      const again = await newSession({ history }).ask(content);
      done.checked += 1;
      if (String(again.tokens) !== String(answer.tokens))
        done.wrong.push(`${answer.tokens} with ${history.length / 2} turns, fresh ${again.tokens}`);
    }
  }
  return done;
}

/** Disposes of the model. Returns the bytes of GPU buffers that are left. */
export async function end() {
  sessions = [];
  return disposeCounting(model);
}
