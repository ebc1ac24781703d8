// Operations on stored models that fail or stop at each of their points: every operation on storage and network that their workers begin. After
// each, nothing that is stored may be wrong or lost, and the same operation without a fault must end as if nothing had happened.
//
// With `--thorough` every point is taken, otherwise one of one kind of fault, another kind in each browser. `QWEN_VL_POINT="once 209"` takes that
// point alone.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { misbehavingServer } from "../../web/test/misbehaving.mjs";
import { writeFigure } from "../figures.mjs";
import { filesOf, startHub } from "../hub.mjs";
import { reshard } from "../weights/reshard.mjs";

const SHARDS = 3;
const PIECE = 128 * 1024;
const KINDS = ["once", "broken", "half", "kill", "torn"];
/** Kinds that end with a closed page. */
const KILLS = ["kill", "torn"];
/** Kinds in which an operation is done in part. */
const PARTIAL = ["half", "torn"];
/** Hash of an empty file. */
const EMPTY = createHash("sha256").digest("hex");
/** Reports of browsers about requests that the tests let fail. */
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked|the disk/;
/** Codes that the error of each fault may have. */
const CODES = { storage: ["QUOTA_EXCEEDED", "STORAGE"], network: ["DOWNLOAD", "OFFLINE_MISSING"] };
/** Code of an error about a chosen folder that the page cannot read. */
const UNREADABLE = "INTEGRITY";

export async function interruptionTests(bed) {
  const set = bed.sets.find(({ name }) => name === "mini-a");
  const { input_ids: ids } = JSON.parse(await readFile(join(set.golden, "text_en.json"), "utf8"));
  const model = await reshard(join(bed.checkpoints, "mini-a-q4"), SHARDS, PIECE);
  // A newer version at the same address, with some other shards.
  const newer = await reshard(join(bed.checkpoints, "mini-a-q4"), SHARDS + 1, PIECE);
  const other = await reshard(join(bed.checkpoints, "mini-a-q4-dequantized"), 1);
  let served = model;
  const server = await misbehavingServer(async (path) => {
    const [, folder, name] = path.split("/");
    return (folder === "other" ? other : served).files.get(name);
  });
  const checkpoint = await filesOf(join(set.root, "checkpoints", "mini-a"));
  const hub = await startHub({ "test/mini-a": { files: checkpoint } });
  bed.cleanup(() => {
    server.close();
    hub.close();
  });
  const url = `${server.origin}/model/manifest.json`;
  const otherUrl = `${server.origin}/other/manifest.json`;
  const source = "hf:test/mini-a";
  const settings = { shardBytes: 300_000, hubUrl: hub.origin };
  const scene = { url, ids, source, settings, hubUrl: hub.origin, cache: "opfs" };
  const library = (page, name, ...values) =>
    page.evaluate(async (name, values) => (await import("/faults/page.mjs"))[name](...values), name, values);
  const succeeds = async (page, operation, own = scene) => {
    const { error, result } = await library(page, "run", operation, own);
    assert.equal(error, undefined, `${operation}: ${JSON.stringify(error)}`);
    return result;
  };
  /** Runs an operation with a fault. Adds what the workers reported: the operation that failed, and the numbers of points. */
  const runPlan = async (page, operation, own, plan) => {
    const points = pointsOfWorkers(bed);
    const outcome = KILLS.includes(plan.kind)
      ? await killed(bed, page, operation, own, plan, points, library)
      : await library(page, "run", operation, own, plan);
    return { ...outcome, ...points.seen };
  };
  const vocabulary = model.manifest.files.find(({ file }) => file === model.manifest.processor.tokenizer_file);
  const notices = [model, newer]
    .flatMap(({ manifest }) => manifest.files)
    .map(({ sha256 }) => sha256)
    .filter((hash) => hash !== vocabulary.sha256);
  const [changed, missing] = model.manifest.shards.map(({ sha256 }) => sha256);

  const writeFolder = async (page, folder, files) => {
    for (const [name, bytes] of files) {
      await page.evaluate(
        async (folder, name, text) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          await (await import("/faults/page.mjs")).write(folder, name, bytes);
        },
        folder,
        name,
        Buffer.from(bytes).toString("base64"),
      );
    }
  };
  const fill = (page, own) => succeeds(page, "fill", own);
  const withDamage = {
    lists: [url],
    damaged: [changed, missing],
    discards: true,
    before: async (page, own) => {
      await fill(page, own);
      await library(page, "damage", changed, missing);
    },
  };
  const ofStored = { operation: "load", lists: [url], loads: true, stays: true, before: fill };
  /**
   * Operations. `before` stores files, in addition to another model; `lists`: addresses that stay listed whatever happens; `stays`: the stored model
   * does not change; `keeps`: files of the user; `damaged`: files that are not as they should be; `discards`: a file that cannot be opened counts
   * as damaged, so that its other models lack it too; `reads`: the source is a chosen folder; `clears`: other models are deleted; `next`: the
   * operation that follows, if it is another one.
   */
  const scenes = {
    "a first download": { operation: "fill" },
    "a first download into the Cache API": { operation: "fill", cache: "cache-api" },
    "a first load": { operation: "load", loads: true },
    "a load of a stored model": ofStored,
    "a load of a stored model from the Cache API": { ...ofStored, cache: "cache-api" },
    "a load of a newer version": { ...ofStored, stays: false, serves: newer },
    "a repair": { operation: "fill", ...withDamage },
    "a verification": { operation: "verify", next: "fill", ...withDamage },
    "a deletion": { operation: "delete", before: fill },
    "a deletion of everything": { operation: "clear", before: fill, clears: true },
    "an export": { operation: "export", lists: [url], stays: true, before: fill },
    "an import": {
      operation: "import",
      reads: true,
      before: (page) => writeFolder(page, "to import", model.files),
      keeps: (path) => path.startsWith("to import/"),
    },
    "a conversion": { operation: "convert" },
    "a conversion into the Cache API": { operation: "convert", cache: "cache-api" },
    "a conversion of a folder": {
      operation: "convert a folder",
      reads: true,
      before: (page) => writeFolder(page, "checkpoint", checkpoint),
      keeps: (path) => path.startsWith("checkpoint/"),
    },
    "a conversion to a folder": { operation: "convert to a folder" },
    "a deletion of a conversion": {
      operation: "delete a conversion",
      before: (page, own) => runPlan(page, "convert", own, { kind: "broken", at: 100 }),
    },
    "a load that converts": { operation: "convert and load", loads: true },
  };

  for (const [index, [name, scenery]] of Object.entries(scenes).entries()) {
    bed.pageTest(
      `interruptions: ${name}`,
      async (page) => {
        const { operation, cache = "opfs", lists = [], damaged = [], before, serves = model, keeps = () => false } = scenery;
        const { next = operation, discards = false, loads = false, stays = false, clears = false, reads = false } = scenery;
        const own = { ...scene, cache };
        await bed.closeShared();
        await library(page, "reset");
        served = model;
        server.reset();
        hub.reset();
        await succeeds(page, "fill", { ...own, url: otherUrl });
        const others = await library(page, "hashes");
        await before?.(page, own);
        await library(page, "keepBase");
        const atFirst = await library(page, "hashes");
        served = serves;
        // Files of other models, with their records, and of the user never change.
        const isKept = ([path]) => stays || (path in others && !clears) || keeps(path);
        const kept = Object.fromEntries(Object.entries(atFirst).filter(isKept));
        const ownFiles = (kept) => Object.fromEntries(Object.entries(kept).filter(([path]) => !path.includes(vocabulary.sha256)));
        const expected = { cache, lists, keeps: kept };
        const { error, result: answer, ...counts } = await runPlan(page, operation, own, { kind: "count" });
        assert.equal(error, undefined, `${operation}: ${JSON.stringify(error)}`);
        assert.ok(counts.count > 0, `${operation} has no points`);
        assert.deepEqual(counts.unknown, [], "operations that are not points");
        const atEnd = await library(page, "hashes");
        if (next !== operation) await succeeds(page, next, own);
        const atLast = await library(page, "hashes");

        const figures = { points: 0, wrong: [], lost: [], kinds: {} };
        const began = performance.now();
        /** Takes a point. Returns false if the operation had fewer points. */
        const take = async (kind, at) => {
          const label = `${kind} at ${at}`;
          await library(page, "reset");
          server.reset();
          hub.reset();
          const outcome = await runPlan(page, operation, own, { kind, at });
          if (!outcome.hit) return false;
          figures.points += 1;
          const where = `${label}, ${outcome.hit}`;
          const wrong = (text) => figures.wrong.push(`${where}: ${text}`);
          const { error } = outcome;
          const succeeded = !error && !KILLS.includes(kind);
          const codes = [...CODES[outcome.family], ...(reads ? [UNREADABLE] : [])];
          if (error && !codes.includes(error.code)) wrong(`failed with ${error.code ?? error.name}: ${error.message}`);
          const differences = (stored, expected, mayLackNotices) => {
            // On a busy machine the run without a fault may lack them too.
            const lacks = (path) => [stored[path], expected[path]].some((hash) => [undefined, EMPTY].includes(hash));
            const lacksNotice = (path) => lacks(path) && notices.some((hash) => path.includes(hash));
            return [...new Set([...Object.keys(stored), ...Object.keys(expected)])]
              .filter((path) => stored[path] !== expected[path] && !(mayLackNotices && lacksNotice(path)))
              .map((path) => `${path} is ${stored[path] ?? "missing"}, not ${expected[path] ?? "missing"}`);
          };
          if (succeeded) {
            if (!isDeepStrictEqual(outcome.result, answer)) wrong(`returned ${JSON.stringify(outcome.result)}`);
            const now = await library(page, "hashes");
            // A load continues without a store that fails, and with the stored version if the address cannot be read.
            const isFree = loads && !stays && outcome.family === "storage";
            const isOld = serves !== model && differences(now, atFirst, true).length === 0;
            // The licence and the notices are fetched if that is possible.
            const mayLackNotices = loads || ["fill", "import"].includes(operation);
            if (!isFree && !isOld) for (const text of differences(now, atEnd, mayLackNotices)) wrong(`in spite of success ${text}`);
          }
          const mayDiscard = discards && !KILLS.includes(kind);
          const after = await library(page, "problems", {
            ...expected,
            keeps: mayDiscard ? ownFiles(kept) : kept,
            damaged: succeeded ? [] : damaged,
          });
          figures.lost.push(...after.found.map((text) => `${where}: ${text}`));
          await server.quiet();
          server.requests = [];
          // A finished folder is not overwritten.
          if (succeeded && operation === "convert to a folder") return true;
          const again = await library(page, "run", next, own);
          if (again.error) {
            wrong(`the next run failed with ${again.error.code}: ${again.error.message}`);
            return true;
          }
          if (loads && !isDeepStrictEqual(again.result, answer)) wrong(`the next run answered ${again.result}`);
          // A load does not wait for the licence and the notices.
          for (const text of differences(await library(page, "hashes"), atLast, loads)) wrong(`after the next run ${text}`);
          const fetched = new Set(server.requests.map(({ path }) => path.split("/").at(-1)));
          for (const { file, sha256 } of served.manifest.shards) {
            if (fetched.has(file) && after.complete.includes(sha256) && !damaged.includes(sha256))
              wrong(`${file} was complete, and fetched again`);
          }
          return true;
        };
        const [wantedKind, wantedAt] = process.env.QWEN_VL_POINT?.split(" ") ?? [];
        const pointsOf = (kind) => (PARTIAL.includes(kind) ? counts.divisible : counts.count);
        const first = (index + (bed.name === "chromium" ? 0 : 3)) % KINDS.length;
        const one = wantedKind ?? [...KINDS.slice(first), ...KINDS].find((kind) => pointsOf(kind) > 0);
        for (const kind of bed.thorough ? KINDS : [one]) {
          const expectedPoints = pointsOf(kind);
          const before = figures.points;
          if (bed.thorough) {
            // Runs differ in the number of pieces that arrive from the network, and only kills have points at the closing of files.
            let at = 1;
            while ((await take(kind, at)) || at < expectedPoints) at += 1;
          } else await take(kind, Number(wantedAt ?? onePoint(kind, expectedPoints)));
          const taken = figures.points - before;
          const least = bed.thorough ? (counts.network ? 0.95 : 1) * expectedPoints : 1;
          assert.ok(taken >= least, `${kind}: ${taken} of ${expectedPoints} points`);
          figures.kinds[kind] = taken;
          // A thorough run takes many minutes.
          if (bed.thorough)
            console.log(`${bed.name}, ${name}: ${kind} ${taken}, wrong ${figures.wrong.length}, lost ${figures.lost.length}`);
        }
        console.log(
          `${bed.name}, ${name}: ${figures.points} points (${JSON.stringify(figures.kinds)}), wrong ${figures.wrong.length}, lost ${figures.lost.length}`,
        );
        if (bed.thorough) {
          await writeFigure(bed.repository, `interruptions ${bed.name} ${name}`, {
            what: `${name}, ${bed.name}`,
            points: figures.points,
            wrong: figures.wrong.length,
            lost: figures.lost.length,
            seconds: (performance.now() - began) / 1000,
          });
        }
        assert.deepEqual([...figures.wrong, ...figures.lost], []);
      },
      { expected: FAILED_REQUEST },
    );
  }
}

/** One point of an operation. Kinds take different ones. */
function onePoint(kind, points) {
  return Math.max(1, Math.floor(((KINDS.indexOf(kind) + 1) / (KINDS.length + 1)) * points));
}

/** Answers the reports of `../faults/points.mjs`. */
function pointsOfWorkers(bed) {
  const seen = { hit: undefined, family: undefined, count: 0, divisible: 0, network: 0, unknown: [] };
  const points = { seen, stopped: () => false };
  bed.handle = (path, response) => {
    if (path === "/faults/stopped") return points.stopped(response);
    if (path !== "/faults/point") return false;
    const { searchParams } = new URL(response.req.url, bed.origin);
    const [name, family] = [searchParams.get("name"), searchParams.get("family")];
    if (searchParams.has("unknown")) seen.unknown.push(name);
    else if (searchParams.has("hit")) [seen.hit, seen.family] = [name, family];
    else {
      seen.count += 1;
      if (searchParams.get("divisible") === "true") seen.divisible += 1;
      if (family === "network") seen.network += 1;
    }
    response.writeHead(204, { "cache-control": "no-store" }).end();
    return true;
  };
  return points;
}

/** Runs an operation in another page, which is closed at the point. */
async function killed(bed, page, operation, scene, plan, points, library) {
  const held = [];
  const stopped = new Promise((resolve) => {
    points.stopped = (response) => {
      held.push(response);
      resolve({});
      return true;
    };
  });
  const { page: victim } = await bed.openPage("/");
  try {
    const run = library(victim, "run", operation, scene, plan);
    run.catch(() => undefined);
    return await Promise.race([stopped, run]);
  } finally {
    await victim.close();
    for (const response of held) response.destroy();
    await library(page, "unlocked");
  }
}
