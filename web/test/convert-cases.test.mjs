// The conversions of the tests of `quantize`, repeated by the package's converter in Node: the same files, notes and errors. Needs the cases:
//   QWEN_VL_CASES=target/convert-cases cargo test -p quantize --test suite
//   node --test web/test/convert-cases.test.mjs
// QWEN_VL_CASES can name their folder here too.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { assertMany, expectedError, readCases } from "../../pkg-tests/cases.mjs";
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

const cases = await readCases(CASES);

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

test("there are cases of every kind", () => assertMany(cases, CASES));

for (const each of cases) {
  const { name, folder, settings, files, notes, error } = each;
  test(name, async () => {
    const place = join(CASES, name, folder);
    if (error === undefined) {
      assert.deepEqual(await convert(place, settings), { files, notes });
      return;
    }
    await assert.rejects(convert(place, settings), (found) => {
      assert.ok(found instanceof QwenVLError, String(found));
      assert.deepEqual({ code: found.code, message: found.message }, expectedError(each, place));
      return true;
    });
  });
}
