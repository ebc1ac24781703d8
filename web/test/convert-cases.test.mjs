// The conversions of the tests of `quantize`, repeated by the package's converter in Node: the same files, notes and errors. Needs the cases:
//   QWEN_VL_CASES=target/convert-cases cargo test -p quantize --test suite
//   node --test web/test/convert-cases.test.mjs
// QWEN_VL_CASES can name their folder here too.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { filesOf } from "../../pkg-tests/hub.mjs";
import { runConversion } from "../dist/api/conversion.js";
import { FolderOutput } from "../dist/convert/output.js";
import { serveConverter } from "../dist/convert/serve.js";
import { DiskRanges, DiskStore } from "../dist/node/disk.js";
import * as edge from "../dist/wasm/qwen_vl_web_convert.js";
import { WorkerClient } from "../dist/wire/client.js";
import { QwenVLError } from "../dist/wire/errors.js";

const repository = fileURLToPath(new URL("../..", import.meta.url));
const CASES = resolve(repository, process.env.QWEN_VL_CASES ?? "target/convert-cases");

/** The codes of errors by their texts; all others are faults of the checkpoint. */
const CODES = [
  [/^no matrix of this model is in `/, "INVALID_ARGUMENT"],
  [/: config\.json is of architecture `/, "UNSUPPORTED_MODEL"],
];

const cases = [];
for (const name of await readdir(CASES).catch(() => [])) {
  if (/-\d+$/.test(name)) cases.push({ name, ...JSON.parse(await readFile(join(CASES, name, "case.json"), "utf8")) });
}

let scratch;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "convert-cases-"));
  await edge.default({ module_or_path: await readFile(join(repository, "web/dist/wasm/qwen_vl_web_convert_bg.wasm")) });
});
after(() => scratch && rm(scratch, { recursive: true }));

/** The converter's worker as in `dist/node/worker.js`, on this thread: a thread for each case would take most of the time. */
function connect() {
  const remote = { terminate: () => undefined };
  const scope = {
    onmessage: null,
    postMessage: (data) => void Promise.resolve(structuredClone(data)).then((data) => remote.onmessage({ data })),
  };
  serveConverter(scope, edge, {
    source: ({ folder }) => new DiskRanges(folder),
    output: async ({ folder }, { fingerprint, shards }, others) =>
      new FolderOutput(
        new DiskStore(folder),
        fingerprint,
        shards.map(({ file }) => file),
        others,
      ),
  });
  remote.postMessage = (data) => scope.onmessage({ data: structuredClone(data) });
  return new WorkerClient(remote);
}

/** Converts a folder. Returns the hashes of the files, and the notes. */
async function convert(folder, settings) {
  const out = join(scratch, "out");
  try {
    const start = async (signal, like) => {
      const client = connect();
      const params = { source: { kind: "path", folder }, output: { kind: "path", folder: out }, settings, supplies: like?.supplies ?? [] };
      return { client, opened: await client.call("convertOpen", params, { signal }).result };
    };
    const { plan } = await runConversion(start, { workers: 1 });
    const hashes = [...(await filesOf(out))].map(([name, bytes]) => [name, createHash("sha256").update(bytes).digest("hex")]);
    return { files: Object.fromEntries(hashes), notes: plan.notes };
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

test("there are cases of every kind", () => {
  assert.ok(cases.length >= 350, `${CASES} has ${cases.length} cases: see the head of this file`);
  const modules = new Set(cases.map(({ test }) => test.split("::")[0]));
  assert.deepEqual([...modules].sort(), ["bad_input", "card", "convert", "family", "gptq", "unusual"]);
  const refused = cases.filter(({ error }) => error !== undefined);
  assert.ok(refused.length >= 150 && cases.length - refused.length >= 150, `${refused.length} of ${cases.length} cases are refused`);
  for (const [text, code] of CODES)
    assert.ok(
      refused.some(({ error }) => text.test(error)),
      `no case is refused with ${code}`,
    );
});

for (const { name, folder, settings, files, notes, error } of cases) {
  test(name, async () => {
    const place = join(CASES, name, folder);
    if (error === undefined) {
      assert.deepEqual(await convert(place, settings), { files, notes });
      return;
    }
    await assert.rejects(convert(place, settings), (found) => {
      assert.ok(found instanceof QwenVLError, String(found));
      const expected = CODES.find(([text]) => text.test(error))?.[1] ?? "CHECKPOINT_INVALID";
      assert.deepEqual([found.code, found.message], [expected, error.replaceAll("{folder}", place)]);
      return true;
    });
  });
}
