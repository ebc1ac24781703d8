// The conversions of the tests of `quantize`, which those write if QWEN_VL_CASES names a folder: see `quantize/tests/suite/cases.rs`.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * @typedef {object} Case
 * @property {string} name of its folder
 * @property {string} test that made it
 * @property {string} folder path of the source in its folder
 * @property {object} settings of the conversion
 * @property {Record<string, string>} [files] SHA-256 of the result's files
 * @property {string[]} [notes]
 * @property {string} [error] in place of a result; `{folder}` stands for the place of the source
 */

/** @returns {Promise<Case[]>} */
export async function readCases(folder) {
  const names = (await readdir(folder).catch(() => [])).filter((name) => /-\d+$/.test(name)).sort();
  const read = async (name) => ({ name, ...JSON.parse(await readFile(join(folder, name, "case.json"), "utf8")) });
  return Promise.all(names.map(read));
}

/** Asserts that there are cases of every kind: a folder that is missing or old must not pass. */
export function assertMany(cases, folder) {
  const hint = "run `QWEN_VL_CASES=target/convert-cases cargo test -p quantize --test suite`";
  assert.ok(cases.length >= 350, `${folder} has ${cases.length} cases: ${hint}`);
  const modules = new Set(cases.map(({ test }) => test.split("::")[0]));
  for (const name of ["bad_input", "card", "convert", "family", "gptq", "unusual"])
    assert.ok(modules.has(name), `no case is of ${name}.rs`);
  const refused = cases.filter(({ error }) => error !== undefined);
  assert.ok(refused.length >= 150 && cases.length - refused.length >= 150, `${refused.length} of ${cases.length} cases are refused`);
  for (const [text, code] of CODES)
    assert.ok(
      refused.some(({ error }) => text.test(error)),
      `no case is refused with ${code}`,
    );
}

/** The codes of errors by their texts; all others are faults of the checkpoint. */
const CODES = [
  [/^no matrix of this model is in `/, "INVALID_ARGUMENT"],
  [/: config\.json is of architecture `/, "UNSUPPORTED_MODEL"],
];

/** The code and the text that the package's error has for a case. */
export function expectedError({ error }, place) {
  const code = CODES.find(([text]) => text.test(error))?.[1] ?? "CHECKPOINT_INVALID";
  return { code, message: error.replaceAll("{folder}", place) };
}
