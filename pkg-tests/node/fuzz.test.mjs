// Runs each fuzz target of `pkg-tests/fuzz` on the same 2000 inputs. `cargo xtask fuzz` runs a million others.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { isLowDetail, generation } from "../../web/dist/api/openai-request.js";
import { fuzz } from "../fuzz/run.mjs";
import * as cache from "../fuzz/targets/cache.mjs";
import * as chat from "../fuzz/targets/chat.mjs";
import * as download from "../fuzz/targets/download.mjs";
import * as hub from "../fuzz/targets/hub.mjs";

const RUNS = 2000;

// Without it the target `grounding` would compare nothing.
assert.ok(process.env.QWEN_VL_GROUNDING, "QWEN_VL_GROUNDING is not set: run `cargo xtask test --only node`");

for (const file of readdirSync(new URL("../fuzz/targets/", import.meta.url))) {
  test(`inputs of ${file.replace(".mjs", "")}`, async () => {
    const target = await import(`../fuzz/targets/${file}`);
    try {
      const { inputs, failure } = await fuzz(target, { runs: RUNS });
      assert.equal(failure?.error, undefined, failure?.input);
      assert.equal(inputs, RUNS);
    } finally {
      target.end?.();
    }
  });
}

test("inputs that broke a target", async () => {
  const messages = [{ role: "user", content: "a" }];
  // Keys that every object has are not parameters.
  for (const key of ["constructor", "toString"]) assert.throws(() => generation({ messages, [key]: 1 }), { code: "INVALID_ARGUMENT" });
  assert.equal(isLowDetail({ messages: [...messages, { role: "assistant", raw: "", content: [null] }] }), false);
  for (const manifest of [null, 1, [], { files: [], shards: [null] }]) {
    assert.equal(await cache.check({ records: { record: { url: "https://example.org/manifest.json", manifest } }, cut: Infinity }), "ok");
  }
  for (const seed of chat.SEEDS) assert.equal(chat.check(seed), "ok");
  // The answer's own text, not one that the page would take for it.
  const [saved] = structuredClone(chat.SEEDS);
  saved.turns[0].answer.raw = 5;
  assert.equal(chat.check(saved), "ok");
  const sha = "a".repeat(40);
  const tree = [{ type: "file", path: "a", oid: "1", size: 1 }];
  for (const answers of [
    { facts: null, tree },
    { facts: { sha }, tree: {} },
    { facts: { sha }, tree: [{ ...tree[0], size: -1 }] },
  ]) {
    assert.match(await hub.check({ answers, address: "hf:a/b" }), /DOWNLOAD/);
  }
  // A list whose pages form a circle.
  assert.match(await hub.check({ answers: { facts: { sha }, tree }, address: "hf:a/b", link: '<?a>; rel="next"' }), /DOWNLOAD/);
});

test("a wrong byte of a server breaks the target that compares the bytes", async () => {
  const changed = download.FILE.slice();
  changed[40] ^= 1;
  const { failure } = await fuzz({ input: download.input, check: (input) => download.check(input, changed) }, { runs: RUNS });
  assert.match(String(failure?.error), /bytes from \d+ on|deep-equal/);
});

/** Targets that break, with the longest time of an input in milliseconds, and the error. */
const FAULTY = {
  loop: { limit: 4000, error: /^an input takes more than 4000 ms$/ },
  shrink: { limit: 4000, error: /^an input failed; while it was made smaller: an input takes more than 4000 ms$/ },
  crash: { limit: 60_000, error: /^the process ended with SIGABRT/ },
  memory: { limit: 60_000, error: /^the process ended with SIGABRT/ },
};
for (const [name, { limit, error }] of Object.entries(FAULTY)) {
  test(`a target that breaks its process is recorded and can be repeated: ${name}`, async () => {
    const broken = await mkdtemp(join(tmpdir(), "broken-"));
    const run = (...more) => {
      const program = fileURLToPath(new URL("../fuzz/run.mjs", import.meta.url));
      const targets = fileURLToPath(new URL("../fuzz/faulty", import.meta.url));
      const args = [program, name, "--targets", targets, "--limit", limit, "--broken", broken, ...more];
      const { status, stdout, stderr } = spawnSync(process.execPath, args.map(String), { encoding: "utf8" });
      assert.equal(status, 1, stderr);
      return { stderr, result: JSON.parse(stdout.trim().split("\n").at(-1)) };
    };
    try {
      // More than a round without such an input is as good as impossible: each seventh is one.
      const { inputs, failure } = run("--runs", 20_000).result;
      const saved = await readFile(failure, "utf8");
      const { target, seed, path, error: found } = JSON.parse(saved);
      assert.equal(target, name);
      assert.match(found, error);
      assert.equal(path, String(inputs));
      const again = run("--repeat", failure);
      assert.equal(again.result.failure, failure);
      assert.equal(await readFile(failure, "utf8"), saved);
      // The same input, which the command prints before it breaks the process.
      const [, number] = new RegExp(`^${name}: (\\d+)$`, "m").exec(again.stderr) ?? [];
      assert.equal(Number(number) % 7, 3, `seed ${seed}: ${again.stderr}`);
    } finally {
      await rm(broken, { recursive: true });
    }
  });
}
