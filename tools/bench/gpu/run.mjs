// Runs stages within a time, and keeps the report.

/** A reason why a stage cannot run on this machine. */
export class NotRun extends Error {}

/** Nothing is begun with less time left, seconds. */
const LEAST_SECONDS = 3;
const USED_UP = "the time was used up";
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|softpipe|basic render/i;

/** Ends of the stages in seconds after the begin: each has its share of the time and what the stages before it left. */
export function deadlines(stages, seconds) {
  const whole = stages.reduce((sum, { share }) => sum + share, 0);
  let until = 0;
  return stages.map(({ share }) => (until += (share / whole) * seconds));
}

/**
 * Runs one stage and returns its entry of the report, after `entry` was filled as far as the stage came. A stage that fails does not throw;
 * it throws only if `signal` ends the benchmark.
 *
 * A stage's function receives
 * - `options`, `sizes`, `environment`;
 * - `run(program, args)`: runs a program within the stage's time;
 * - `attempt(what, kind, body)`: runs a part that may fail; leaves it out if the last part of this kind took more time than is left;
 * - `add(row)`, `leaveOut(what, reason)`;
 * - `adapter(name, software)`: names the adapter that runs the stage; without `software`, its name shows whether it is one;
 * - `bandwidth(rate)`: the rate in GB/s with its percentage of the bandwidth.
 *
 * @param {{ run: (stage: object) => Promise<void> }} stage
 * @param {object} entry with `rows` and `leftOut`
 * @param {{ seconds: number, run: Function, signal: AbortSignal, save: () => Promise<void>, bandwidth: number | null, now?: () => number }}
 *   context `seconds`: the stage's time; `now`: a clock, milliseconds
 */
export async function runStage(stage, entry, { seconds, run, signal, save, bandwidth, now = () => performance.now(), ...rest }) {
  const began = now();
  const passed = () => (now() - began) / 1000;
  const left = () => seconds - passed();
  const durations = new Map();
  let failures = 0;
  const tools = {
    ...rest,
    run: (program, args) => run(program, args, left()),
    add: (row) => entry.rows.push(row),
    leaveOut: (what, reason) => entry.leftOut.push({ what, reason }),
    adapter: (name, software = SOFTWARE.test(name)) => Object.assign(entry, { adapter: name, software }),
    bandwidth: (rate) => ({ gigabytesPerSecond: rate, bandwidthPercent: bandwidth === null ? null : (rate / bandwidth) * 100 }),
    attempt: async (what, kind, body) => {
      const needed = durations.get(kind) ?? 0;
      if (left() < LEAST_SECONDS) return tools.leaveOut(what, USED_UP);
      if (left() < needed)
        return tools.leaveOut(what, `${left().toFixed(1)} s were left, and the last part of this kind took ${needed.toFixed(1)} s`);
      const before = passed();
      try {
        await body();
      } catch (error) {
        if (signal.aborted) throw error;
        failures += 1;
        tools.leaveOut(what, error.message);
      }
      durations.set(kind, passed() - before);
      await save();
    },
  };
  try {
    if (seconds < LEAST_SECONDS) throw new NotRun(USED_UP);
    await stage.run(tools);
    finish(entry, failures);
  } catch (error) {
    if (signal.aborted) throw error;
    Object.assign(entry, { status: error instanceof NotRun ? "not run" : "failed", reason: error.message });
  }
  entry.seconds = passed();
}

/** Sets the status of a stage that came to its end. */
function finish(entry, failures) {
  const reasons = [...new Set(entry.leftOut.map(({ reason }) => reason))].join("; ");
  if (entry.rows.length > 0) Object.assign(entry, { status: entry.leftOut.length > 0 ? "in part" : "done", reason: null });
  else Object.assign(entry, { status: failures > 0 ? "failed" : "not run", reason: reasons || "nothing was measured" });
}

/** Returns the entry of a stage that has not run. */
export function newEntry({ name, title }) {
  return {
    name,
    title,
    status: "not run",
    reason: "not yet",
    adapter: null,
    software: null,
    seconds: 0,
    watts: null,
    rows: [],
    leftOut: [],
  };
}

/** True if every stage that was asked for by name has rows; without names, if any stage has. */
export function succeeded(stages, asked) {
  const has = ({ rows }) => rows.length > 0;
  return asked.length > 0 ? stages.filter(({ name }) => asked.includes(name)).every(has) : stages.some(has);
}
