// Runs a target on random inputs: `node pkg-tests/fuzz/run.mjs NAME [--runs N] [--broken DIR] [--repeat FILE]`. The last line is the result as
// JSON, for `cargo xtask fuzz`. The input that breaks a target is made smaller and written to DIR with its seed.

import fc from "fast-check";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** Inputs of one round. Each round has its own seed. */
const ROUND = 5000;
/** Longest time of one input, milliseconds. */
const TIMEOUT = 10_000;

/** Runs a target. Returns the number of inputs, the kinds of ends, and the failure. */
export async function fuzz(target, { runs, seed = 1, rounds = ROUND, path }) {
  const kinds = new Map();
  let inputs = 0;
  const property = fc.asyncProperty(target.input, async (input) => {
    const started = performance.now();
    const kind = await target.check(input);
    const took = performance.now() - started;
    if (took > TIMEOUT) throw new Error(`an input takes ${Math.round(took)} ms`);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    inputs++;
  });
  for (let round = seed; inputs < runs; round++) {
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
    await target.finish?.();
  }
  return { inputs, kinds, failure: undefined };
}

async function main() {
  const options = { runs: { type: "string" }, broken: { type: "string" }, repeat: { type: "string" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [name] = positionals;
  const target = await import(`./targets/${name}.mjs`);
  const repeated = values.repeat ? JSON.parse(await readFile(values.repeat, "utf8")) : {};
  // Other inputs in each run, unless one is repeated.
  const seed = repeated.seed ?? Date.now() % 2 ** 31;
  const { inputs, kinds, failure } = await fuzz(target, { runs: Number(values.runs ?? 1), seed, path: repeated.path });
  let file = null;
  if (failure) {
    const { error, ...written } = failure;
    console.error(`${name}: ${failure.input}\n${error?.stack ?? error}`);
    file = resolve(values.broken ?? "target/fuzz/broken", `${name}-${failure.seed}.json`);
    await mkdir(resolve(file, ".."), { recursive: true });
    await writeFile(file, `${JSON.stringify({ target: name, ...written, error: String(error?.stack ?? error) }, undefined, 2)}\n`);
  }
  const ends = Object.fromEntries([...kinds].sort());
  console.log(JSON.stringify({ target: name, inputs, corpus: target.seeds ?? 0, edges: 0, features: kinds.size, ends, failure: file }));
  process.exit(failure ? 1 : 0);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
