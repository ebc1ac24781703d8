// Runs each fuzz target of `pkg-tests/fuzz` on the same 2000 inputs. `cargo xtask fuzz` runs a million others.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { isLowDetail, generation } from "../../web/dist/api/openai-request.js";
import { fuzz } from "../fuzz/run.mjs";
import * as cache from "../fuzz/targets/cache.mjs";
import * as chat from "../fuzz/targets/chat.mjs";
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
  const tree = [{ type: "file", path: "a", oid: "1", size: 1 }];
  for (const answers of [
    { facts: null, tree },
    { facts: { sha: "a" }, tree: {} },
    { facts: { sha: "a" }, tree: [{ ...tree[0], size: -1 }] },
  ]) {
    assert.match(await hub.check({ answers, address: "hf:a/b" }), /DOWNLOAD/);
  }
  // A list whose pages form a circle.
  assert.match(await hub.check({ answers: { facts: { sha: "a" }, tree }, address: "hf:a/b", link: '<?a>; rel="next"' }), /DOWNLOAD/);
});
