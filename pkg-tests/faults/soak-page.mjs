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
/** Sessions with the tokens of the answer of each turn. */
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
const emptySession = () => ({ session: newSession(), answers: [] });
const textOf = (history) => JSON.stringify(history.map(({ role, content }) => [role, content]));

/** One of eight pictures. */
function picture() {
  const [kind, data] = [below(8), new ImageData(48, 32)];
  data.data.forEach((_, at) => (data.data[at] = at % 4 === 3 ? 255 : (at * (kind + 3)) % 256));
  return data;
}

export async function begin(url, seed) {
  random = generator(seed);
  const options = { backend: "webgpu", cache: "none", kernels: "cpu", workerUrl: "/faults/worker-live.mjs" };
  model = await QwenVL.load(url, { ...options, contextLength: 2048, keptImages: 3 });
  sessions = Array.from({ length: SESSIONS }, emptySession);
}

/** Takes steps until there is one more answer. Returns what happened. */
export async function step() {
  const done = { answers: 0, aborted: 0, "aborted too late": 0, regenerated: 0, undone: 0, forked: 0, checked: 0, wrong: [] };
  const wrong = (text) => done.wrong.push(text);
  while (done.answers === 0) {
    const at = below(SESSIONS);
    if (sessions[at].session.contextUsage > LONG) sessions[at] = emptySession();
    const { session, answers } = sessions[at];
    const turns = session.history.length / 2;
    if (turns !== answers.length) wrong(`${turns} turns in the history, not ${answers.length}`);
    const kind = random();
    if (kind < 0.08 && turns > 0) {
      const count = 1 + below(turns);
      session.undo(count);
      sessions[at].answers = answers.slice(0, -count);
      done.undone += 1;
    } else if (kind < 0.16) {
      sessions[below(SESSIONS)] = { session: session.fork(), answers: [...answers] };
      done.forked += 1;
    } else if (kind < 0.26 && turns > 0) {
      const before = textOf(session.history);
      const { tokens } = await session.regenerate();
      if (String(tokens) !== String(answers.at(-1))) wrong(`regenerated ${tokens} with ${turns} turns, before ${answers.at(-1)}`);
      if (textOf(session.history) !== before) wrong(`the history changed when its last answer was regenerated, with ${turns} turns`);
      done.regenerated += 1;
      done.answers += 1;
    } else {
      const content = [...(random() < 0.4 ? [{ image: picture() }] : []), `Question ${below(50)}?`];
      const { history } = session;
      if (random() < 0.2) {
        await abort(sessions[at], content, done);
        continue;
      }
      const { tokens } = await session.ask(content);
      answers.push(tokens);
      done.answers += 1;
      if (random() > CHECKED) continue;
      const again = await newSession({ history }).ask(content);
      done.checked += 1;
      if (String(again.tokens) !== String(tokens)) wrong(`${tokens} with ${turns} turns, fresh ${again.tokens}`);
    }
  }
  return done;
}

/** Asks, and aborts the question at one of its events. A question that ends before is an answer. */
async function abort({ session, answers }, content, done) {
  const before = textOf(session.history);
  const controller = new AbortController();
  const events = below(4);
  const run = session.ask(content, { signal: controller.signal });
  let seen = 0;
  try {
    for await (const _ of run) if (seen++ === events) controller.abort();
    answers.push((await run).tokens);
    done["aborted too late"] += 1;
  } catch (error) {
    if (error.name !== "AbortError") done.wrong.push(String(error));
    if (textOf(session.history) !== before) done.wrong.push(`the history changed with a question that was aborted`);
    done.aborted += 1;
  }
}

/** Disposes of the model. Returns the bytes of GPU buffers that are left. */
export async function end() {
  sessions = [];
  return disposeCounting(model);
}
