// Records in a cache store, which crashes and other versions leave: `web/ts/weights/cache.ts`, `kernels.ts`.

import fc from "fast-check";
import { WeightCache } from "../../../web/dist/weights/cache.js";
import { KernelRecords } from "../../../web/dist/weights/kernels.js";
import { MemoryStore, sha256 } from "../../../web/test/memory.mjs";
import { nearly } from "../inputs.mjs";
import { settled } from "../outcome.mjs";

const URL = "https://example.org/manifest.json";
const entry = (file) => ({ file, bytes: 3, sha256: sha256(file) });
const MANIFEST = {
  processor: { tokenizer_file: "a" },
  generation: { chat_format: "chatml" },
  provenance: { source: "x", modifications: "" },
  files: [entry("a")],
  shards: [entry("b"), entry("c")],
};
const SEEDS = [
  {
    record: { url: URL, manifest: MANIFEST },
    conversion: { name: "n", url: URL, bytes: 3, settings: {} },
    kernels: { version: ["", "", ""], record: "x" },
    cut: 1e6,
  },
];
export const seeds = SEEDS.length;
export const input = fc.record({ records: nearly(SEEDS), cut: fc.oneof(fc.constant(Infinity), fc.nat(300)) });

const bytes = (value, cut) => Buffer.from((JSON.stringify(value) ?? "").slice(0, cut));

/** A damaged record is left out, and nothing else suffers. */
export async function check({ records, cut }) {
  const { record, conversion, kernels } = Object(records);
  const store = new MemoryStore();
  const name = `${sha256(URL)}.model`;
  const whole =
    typeof record === "object" && record !== null && !Array.isArray(record)
      ? { ...record, manifest: JSON.stringify(record.manifest) }
      : record;
  store.files.set(name, bytes(whole, cut));
  store.files.set("convert-1-.conversion", bytes(conversion, cut));
  store.files.set("convert-1-0", Buffer.alloc(3));
  for (const file of ["a", "b", "c"]) {
    store.files.set(sha256(file), Buffer.alloc(3));
    store.files.set(`${sha256(file)}.complete`, bytes(3, cut));
  }
  const key = { adapter: ["a"], version: ["", "", ""] };
  store.files.set(`kernels-${sha256(JSON.stringify(key.adapter))}`, bytes(kernels, cut));
  const problems = [];
  const cache = new WeightCache(store, (problem) => problems.push(problem));
  const kept = [];
  const end = await settled(async () => {
    const models = await cache.models();
    for (const { url, source, bytes, storedBytes } of models) {
      if (typeof url !== "string" || typeof source !== "string" || !Number.isFinite(bytes) || !(storedBytes <= bytes)) {
        throw new Error(`a model is ${JSON.stringify({ url, source, bytes, storedBytes })}`);
      }
    }
    await cache.manifest(URL);
    await cache.unused();
    const conversions = await cache.conversions();
    for (const { id, name, url, bytes, storedBytes } of conversions) {
      if (id !== "1" || typeof name !== "string" || typeof url !== "string" || !Number.isSafeInteger(bytes) || storedBytes !== 3) {
        throw new Error(`a conversion is ${JSON.stringify({ id, name, url, bytes, storedBytes })}`);
      }
    }
    const found = await new KernelRecords(store).read(key);
    if (found !== undefined && typeof found !== "string") throw new Error(`the record of kernels is ${found}`);
    if (models.length > 0) kept.push(models[0].complete ? "a complete model" : "a model");
    if (conversions.length > 0) kept.push("a conversion");
    if (found !== undefined) kept.push("a record of kernels");
    await cache.remember(URL, JSON.stringify(MANIFEST));
    if (problems.length > 0) throw problems[0];
    if ((await cache.models()).length !== 1) throw new Error("the model that was stored is not listed");
    await cache.deleteConversion("1");
    if (!(await cache.delete(URL))) throw new Error("the model that was stored cannot be deleted");
  });
  return [end, ...kept].join(", ");
}
