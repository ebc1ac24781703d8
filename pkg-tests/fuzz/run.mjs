// Runs a target on random inputs: `node pkg-tests/fuzz/run.mjs NAME [--runs N] [--broken DIR] [--repeat FILE]`. The last line is the result as
// JSON, for `cargo xtask fuzz`. The input that breaks a target is made smaller and written to DIR with its seed.
//
// The target runs in a process of the command. An input that takes too long ends that process, and so may one that takes too much memory: before
// each input, its place is written to a file, which the command reads.

import fc from "fast-check";
import { spawn } from "node:child_process";
import { openSync, readSync, writeSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

/** Inputs of one round. Each round has its own seed. */
const ROUND = 5000;
/** Longest time of one input, milliseconds. */
const TIMEOUT = 10_000;
/** Longest time before the first input of a round, milliseconds: a process starts, and loads its modules. */
const START = 60_000;
/** Time between two looks at a process, milliseconds. */
const LOOK = 250;
/** Most memory of the objects of a process, MiB. */
const MEMORY = 1024;
const PROGRAM = fileURLToPath(import.meta.url);

/**
 * Runs a target. Returns the number of inputs, the kinds of ends, and the failure.
 *
 * @param {(place: { seed: number, at: number, inputs: number, shrinks: boolean }, input?: unknown) => void} begins called before each round, with
 *   `at` -1, and before each input: `at` is its number in the round of `seed`. `shrinks`: it is a smaller form of the input `at`, which failed
 */
export async function fuzz(target, { runs, seed = 1, rounds = ROUND, path, begins = () => undefined }) {
  const kinds = new Map();
  let inputs = 0;
  for (let round = seed; inputs < runs; round++) {
    let [at, failed] = [-1, false];
    begins({ seed: round, at, inputs, shrinks: false });
    const property = fc.asyncProperty(target.input, async (input) => {
      if (!failed) at += 1;
      begins({ seed: round, at, inputs, shrinks: failed }, input);
      failed = true;
      const kind = await target.check(input);
      failed = false;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      inputs++;
    });
    const numRuns = Math.min(rounds, runs - inputs);
    const details = await fc.check(property, { seed: round, numRuns, ...(path === undefined ? {} : { path }) });
    if (details.failed) {
      const { counterexamplePath, counterexample, errorInstance } = details;
      return {
        inputs,
        kinds,
        failure: { seed: round, path: counterexamplePath, input: fc.stringify(counterexample), error: errorInstance },
      };
    }
    if (path !== undefined) break;
  }
  return { inputs, kinds, failure: undefined };
}

const OPTIONS = {
  runs: { type: "string" },
  broken: { type: "string" },
  repeat: { type: "string" },
  // For tests: the folder of the target, and the longest time of one input.
  targets: { type: "string" },
  limit: { type: "string" },
  // For the process of the target.
  state: { type: "string" },
};

/** Runs a target in this process. Prints the result. */
async function main(name, values) {
  const folder = values.targets ? pathToFileURL(`${resolve(values.targets)}/`) : new URL("targets/", import.meta.url);
  const repeated = values.repeat ? JSON.parse(await readFile(values.repeat, "utf8")) : {};
  // Other inputs in each run, unless one is repeated.
  const seed = repeated.seed ?? Date.now() % 2 ** 31;
  const state = openSync(values.state, "w");
  let beats = 0;
  const begins = (place, input) => {
    if (repeated.path !== undefined && place.at >= 0) console.error(`${name}: ${fc.stringify(input)}`);
    writeSync(state, new Float64Array([++beats, place.seed, place.at, place.inputs, Number(place.shrinks)]), 0, undefined, 0);
  };
  begins({ seed, at: -1, inputs: 0, shrinks: false });
  const target = await import(new URL(`${name}.mjs`, folder));
  const { inputs, kinds, failure } = await fuzz(target, { runs: Number(values.runs ?? 1), seed, path: repeated.path, begins });
  if (failure) console.error(`${name}: ${failure.input}\n${failure.error?.stack ?? failure.error}`);
  const ends = Object.fromEntries([...kinds].sort());
  const file = failure ? await writeBroken(name, values, { ...failure, error: String(failure.error?.stack ?? failure.error) }) : null;
  print({ target: name, inputs, corpus: target.seeds ?? 0, features: kinds.size, ends, failure: file });
  process.exit(failure ? 1 : 0);
}

/** Runs `main` in a process, which ends at an input that takes too long. Prints its result, or that of a target that ended it. */
async function watch(name, values) {
  const folder = await mkdtemp(join(tmpdir(), "fuzz-"));
  const file = join(folder, "state");
  const state = openSync(file, "w+");
  const child = spawn(process.execPath, [`--max-old-space-size=${MEMORY}`, PROGRAM, ...process.argv.slice(2), "--state", file], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  process.once("exit", () => child.kill("SIGKILL"));
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
  let output = "";
  child.stdout.on("data", (piece) => (output += piece));
  const ended = new Promise((resolve, reject) => child.once("error", reject).once("close", (...end) => resolve(end)));
  const read = () => {
    const numbers = new Float64Array(5);
    readSync(state, numbers, 0, numbers.byteLength, 0);
    const [beats, seed, at, inputs, shrinks] = numbers;
    return { beats, seed, at, inputs, shrinks };
  };
  const limit = Number(values.limit ?? TIMEOUT);
  let [last, since, late] = [read(), performance.now(), undefined];
  const looks = setInterval(() => {
    const now = read();
    const allowed = now.at < 0 ? START : limit;
    if (now.beats !== last.beats) [last, since] = [now, performance.now()];
    else if (performance.now() - since > allowed) {
      late = now.at < 0 ? `the target does not begin in ${allowed} ms` : `an input takes more than ${allowed} ms`;
      child.kill("SIGKILL");
    }
  }, LOOK);
  const [code, signal] = await ended;
  clearInterval(looks);
  const { seed, at, inputs, shrinks } = read();
  await rm(folder, { recursive: true });
  const line = output.trim().split("\n").at(-1);
  if (isResult(line)) {
    console.log(line);
    process.exit(code ?? 1);
  }
  const cause = late ?? `the process ended with ${signal ?? `code ${code}`}: it crashed, or had no memory`;
  const error = shrinks ? `an input failed; while it was made smaller: ${cause}` : cause;
  console.error(`${name}: ${error}`);
  const failure = await writeBroken(name, values, { seed, ...(at < 0 ? {} : { path: String(at) }), error });
  print({ target: name, inputs, corpus: 0, features: 0, ends: {}, failure });
  process.exit(1);
}

/** Writes how to repeat a failure, unless it is one that was repeated. Returns the file. */
async function writeBroken(name, { broken = "target/fuzz/broken", repeat }, failure) {
  if (repeat) return resolve(repeat);
  const file = resolve(broken, `${name}-${failure.seed}.json`);
  await mkdir(resolve(file, ".."), { recursive: true });
  await writeFile(file, `${JSON.stringify({ target: name, ...failure }, undefined, 2)}\n`);
  return file;
}

function print(result) {
  console.log(JSON.stringify({ ...result, edges: 0 }));
}

function isResult(line) {
  try {
    return typeof JSON.parse(line).inputs === "number";
  } catch {
    return false;
  }
}

if (process.argv[1] === PROGRAM) {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  await (values.state ? main : watch)(positionals[0], values);
}
