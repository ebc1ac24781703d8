// The converter of the package in Node, against the native one: from folders, web servers and the stand-in of the Hub. Needs
// `cargo build -p quantize`, or QWEN_VL_QUANTIZE with the program's path; QWEN_VL_CLI can name another build of the package's program.
// Run by hand: node --test web/test/convert.test.mjs

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { access, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { filesOf, lfsPointer, startHub, TOKEN } from "../../pkg-tests/hub.mjs";
import { serve } from "../../pkg-tests/server.mjs";
import { collect } from "../dist/weights/download.js";
import { HubRanges, HubSource } from "../dist/weights/hub.js";
import { UrlRanges } from "../dist/weights/ranges.js";
import { misbehavingServer } from "./misbehaving.mjs";

const repository = fileURLToPath(new URL("../..", import.meta.url));
const CLI = process.env.QWEN_VL_CLI ?? join(repository, "web/dist/node/cli.js");
const NATIVE = process.env.QWEN_VL_QUANTIZE ?? join(repository, "target/debug/quantize");
const FIXTURES = ["checkpoints/mini-a", "checkpoints/mini-b", "family/checkpoints/q2-a", "family/checkpoints/q3-a"].map((path) =>
  join(repository, "tests/fixtures", path),
);
const [, MINI_B, , Q3_A] = FIXTURES;
const WEIGHTS = "model.safetensors";

const SETTINGS = {
  q4: ["--scheme", "q4"],
  q8: ["--scheme", "q8", "--group-size", "64"],
  f16: ["--scheme", "f16"],
  "small shards": ["--shard-size", "0.2", "--threads", "3"],
  "modules in other schemes": ["--keep", "vision=f16", "--keep", "decoder=q8"],
};
const KILL_AT = new URL("./kill-at.mjs", import.meta.url).href;
/** Several shards, by one worker: requests come in a known order. */
const SMALL = ["--shard-size", "0.2", "--threads", "1"];

let hub;
let server;
let folder;
before(async () => {
  await access(NATIVE).catch(() => assert.fail(`${NATIVE} does not exist: run \`cargo build -p quantize\`, or set QWEN_VL_QUANTIZE`));
  folder = await mkdtemp(join(tmpdir(), "convert-"));
  hub = await startHub({});
  server = await serve(Object.fromEntries(FIXTURES.map((path) => [`/${basename(path)}/`, path])));
});
beforeEach(async () => {
  hub.reset();
  const loaded = FIXTURES.map(async (path) => [`test/${basename(path)}`, { files: await filesOf(path), license: "apache-2.0" }]);
  hub.repositories = Object.fromEntries(await Promise.all(loaded));
});
after(async () => {
  hub?.close();
  server?.close();
  if (folder) await rm(folder, { recursive: true });
});

/** Starts a program. `ended` resolves with its exit status and output. */
function start(program, args, env = {}) {
  const child = spawn(program, args, { env: { ...process.env, HF_TOKEN: "", HF_ENDPOINT: hub.origin, ...env } });
  const text = { stdout: "", stderr: "" };
  for (const name of Object.keys(text)) child[name].setEncoding("utf8").on("data", (piece) => (text[name] += piece));
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve({ status: status ?? signal, ...text }));
  });
  return { child, ended };
}

/** Runs the package's converter; `env` is its environment. */
const run = (source, out, options = [], env = {}) => start(process.execPath, [CLI, "quantize", source, out, ...options], env).ended;

async function converts(source, out, options, env) {
  const { status, stderr } = await run(source, out, options, env);
  assert.equal(status, 0, stderr);
  assert.doesNotMatch(stderr, /Warning/);
  return filesOf(out);
}

async function fails(source, message, options, env) {
  const out = join(folder, "refused");
  const { status, stderr } = await run(source, out, options, env);
  assert.equal(status, 1, stderr);
  assert.match(stderr, message);
  await assert.rejects(access(out), "a failed conversion left a folder");
  await rm(`${out}.partial`, { recursive: true, force: true });
  return stderr;
}

const made = new Map();
/** Converts with the native program. */
function native(source, options) {
  const key = [source, ...options].join(" ");
  const convert = async () => {
    const out = join(folder, `native-${made.size}`);
    const { status, stderr } = await start(NATIVE, [source, out, ...options]).ended;
    assert.equal(status, 0, stderr);
    return filesOf(out);
  };
  if (!made.has(key)) made.set(key, convert());
  return made.get(key);
}

function same(found, expected, names = [...expected.keys()]) {
  assert.deepEqual([...found.keys()], [...expected.keys()]);
  assert.ok(expected.size >= 4 && names.length > 1, "too few files to compare");
  for (const name of names) assert.ok(found.get(name).equals(expected.get(name)), `${name} differs`);
}

/** Compares a conversion of a repository with that of its folder: texts name the source, and their sizes and hashes differ. */
function sameButName(found, expected, name) {
  const [exact, texts] = [[], []];
  for (const file of expected.keys()) (file.startsWith("shard-") || file === "qwen.tiktoken" ? exact : texts).push(file);
  same(found, expected, exact);
  for (const file of texts.filter((file) => file === "MODIFICATIONS" || file === "NOTICE")) {
    assert.equal(String(found.get(file)).replaceAll(`\`test/${name}\``, `\`${name}\``), String(expected.get(file)));
  }
  const [manifest, wanted] = [found, expected].map((files) => JSON.parse(files.get("manifest.json")));
  assert.deepEqual([manifest.provenance.source, wanted.provenance.source], [`test/${name}`, name]);
  const facts = ({ provenance: _provenance, files, ...facts }) => ({ ...facts, files: files.filter(({ file }) => exact.includes(file)) });
  assert.deepEqual(facts(manifest), facts(wanted));
  assert.deepEqual(manifest.files.map(({ file }) => file).sort(), wanted.files.map(({ file }) => file).sort());
}

let outputs = 0;
const output = () => join(folder, `out-${outputs++}`);

/** Weights in bfloat16 by the index of their group of 32: zeros, the smallest and the largest numbers, halves of whole numbers, any finite bits. */
const ODD_WEIGHTS = [
  () => 0,
  () => 0x8000,
  (index) => index % 3,
  () => 0x7f7f,
  (index) => (index % 2 ? 0xff7f : 0x7f7f),
  (index) => (index % 32 ? 0x0080 : 0xc2fc),
  (index) => bfloat16((((index * 37) % 512) - 256) / 2),
  (index) => (((index * 40_503) & 0xffff) % 0x7f80) | ((index & 4) << 13),
];

const bfloat16 = (value) => new Uint32Array(new Float32Array([value]).buffer)[0] >>> 16;

test("weights of all magnitudes: vector code of wasm gives the bytes of the native converter", async () => {
  const source = join(folder, "odd");
  await cp(Q3_A, source, { recursive: true });
  const bytes = await readFile(join(source, WEIGHTS));
  const headerBytes = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + headerBytes));
  const {
    dtype,
    shape,
    data_offsets: [begin, end],
  } = header["model.language_model.embed_tokens.weight"];
  assert.deepEqual([dtype, shape[1] % 32], ["BF16", 0]);
  for (let index = 0; index < (end - begin) / 2; index++) {
    const odd = ODD_WEIGHTS[Math.floor(index / 32) % ODD_WEIGHTS.length];
    bytes.writeUInt16LE(odd(index), 8 + headerBytes + begin + index * 2);
  }
  await writeFile(join(source, WEIGHTS), bytes);
  for (const options of [SETTINGS.q4, ["--group-size", "128"], SETTINGS.q8])
    same(await converts(source, output(), options), await native(source, options));
});

for (const source of FIXTURES) {
  const name = basename(source);
  for (const [setting, options] of Object.entries(SETTINGS)) {
    test(`${name}, ${setting}: a folder, a server and the Hub give the bytes of the native converter`, async () => {
      const expected = await native(source, options);
      if (setting === "small shards") assert.ok([...expected.keys()].filter((file) => file.startsWith("shard-")).length >= 3);
      same(await converts(source, output(), options), expected);
      same(await converts(`${server.origin}/${name}/`, output(), options), expected);
      sameButName(await converts(`hf:test/${name}`, output(), options), expected, name);
      assert.ok(hub.reads().length > 0);
    });
  }
}

test("licences, notices and cards of other names come along from a server too", async () => {
  const source = join(folder, "licensed");
  await cp(Q3_A, source, { recursive: true });
  const texts = {
    "LICENSE.md": "Apache License, Version 2.0",
    "NOTICE.txt": "a notice",
    "README.md": "---\nlicense: mit\nbase_model: a/b\n---\n",
  };
  for (const [name, text] of Object.entries(texts)) await writeFile(join(source, name), text);
  const licensed = await serve({ "/licensed/": source });
  try {
    const expected = await native(source, []);
    assert.ok(expected.has("LICENSE") && String(expected.get("NOTICE")).includes("a notice"));
    same(await converts(source, output()), expected);
    same(await converts(`${licensed.origin}/licensed?download=true`, output()), expected);
  } finally {
    licensed.close();
  }
});

test("a model that is stored does not wait for a Hub that cannot be reached", async () => {
  let attempts = 0;
  const fetch = () => {
    attempts += 1;
    return Promise.reject(new TypeError("offline"));
  };
  const address = { repository: "test/q3-a", revision: "main" };
  const source = new HubSource("hf:test/q3-a", address, { fetch, endpoint: hub.origin, token: undefined, retries: 5, requestInit: {} });
  await assert.rejects(source.manifest({ signal: new AbortController().signal }, true), ({ code }) => code === "DOWNLOAD");
  assert.equal(attempts, 1);
});

test("a plan names the commit, the licence and the sizes, and reads no weights", async () => {
  const { status, stdout } = await start(process.execPath, [CLI, "quantize", "hf:test/q3-a", "--plan"]).ended;
  assert.equal(status, 0);
  const plan = JSON.parse(stdout);
  assert.match(plan.source, /^hf:test\/q3-a@[\da-f]{40}$/);
  assert.deepEqual([plan.name, plan.licence, plan.family], ["test/q3-a", "apache-2.0", "qwen3_vl"]);
  const expected = await native(Q3_A, []);
  const shards = [...expected].filter(([file]) => file.startsWith("shard-"));
  assert.deepEqual(
    plan.shards,
    shards.map(([file, { length: bytes }]) => ({ file, bytes })),
  );
  const read = hub.reads(WEIGHTS).reduce((sum, { headers }) => sum + span(headers.range), 0);
  assert.ok(read > 0 && read < 100_000, `${read} bytes of the weights were read`);
});

const span = (range) => {
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(range);
  return end - start + 1;
};

test("all workers read the commit that was listed", async () => {
  const expected = await native(Q3_A, SETTINGS["small shards"]);
  let pushed;
  hub.beforeStorage = (path) => {
    if (path !== WEIGHTS || pushed) return;
    // Somebody pushes to the branch after the list was read.
    pushed = hub.requests.length;
    const { files } = hub.repositories["test/q3-a"];
    hub.push("test/q3-a", new Map([...files, ["README.md", Buffer.from("new")]]));
  };
  sameButName(await converts("hf:test/q3-a", output(), SETTINGS["small shards"]), expected, "q3-a");
  const commits = new Set(hub.requests.flatMap(({ path }) => /\/resolve\/([^/]+)\//.exec(path)?.[1] ?? []));
  assert.ok(pushed);
  assert.equal(commits.size, 1);
});

test("the Hub's token goes to the Hub alone", async () => {
  Object.assign(hub.repositories["test/q3-a"], { gated: true });
  hub.expireAfter = 3;
  const found = await converts("hf:test/q3-a", output(), SETTINGS["small shards"], { HF_TOKEN: TOKEN });
  sameButName(found, await native(Q3_A, SETTINGS["small shards"]), "q3-a");
  const seen = (host) => hub.requests.filter((request) => request.host === host);
  assert.ok(seen("storage").length > 3 && seen("hub").length > 3);
  assert.ok(seen("hub").every(({ headers }) => headers.authorization === `Bearer ${TOKEN}`));
  assert.deepEqual(
    seen("storage").filter(({ headers }) => "authorization" in headers),
    [],
  );
});

test("signed addresses that expire are asked for again", async () => {
  hub.expireAfter = 2;
  sameButName(await converts("hf:test/q3-a", output(), SMALL), await native(Q3_A, SMALL), "q3-a");
  const redirects = hub.requests.filter(({ host, path }) => host === "hub" && path.endsWith(WEIGHTS));
  assert.ok(redirects.length >= 3, `${redirects.length} redirects`);
});

test("an address that has not expired is used again", async () => {
  await converts("hf:test/q3-a", output(), SMALL);
  assert.ok(hub.reads(WEIGHTS).length > 3);
  assert.equal(hub.requests.filter(({ host, path }) => host === "hub" && path.endsWith(WEIGHTS)).length, 1);
});

test("status 429 is waited for, on the Hub and on other servers", async () => {
  hub.busy = 2;
  const began = performance.now();
  sameButName(await converts("hf:test/q3-a", output(), []), await native(Q3_A, []), "q3-a");
  assert.ok(performance.now() - began > 1900);
  const files = await filesOf(Q3_A);
  const busy = await misbehavingServer(async (path) => files.get(path.slice("/q3-a/".length)));
  busy.fault = (path, nth) => (nth === 0 ? { status: 429, headers: { "retry-after": "1" } } : undefined);
  try {
    same(await converts(`${busy.origin}/q3-a`, output(), []), await native(Q3_A, []));
    assert.ok(busy.requests.filter(({ path }) => path.endsWith("config.json")).length >= 2);
  } finally {
    busy.close();
  }
});

test("repositories that are missing, private or gated", async () => {
  const hidden = /repository test\/\S+ does not exist, is private or is gated: pass an access token/;
  await fails("hf:test/nothing", hidden);
  Object.assign(hub.repositories["test/q3-a"], { private: true });
  Object.assign(hub.repositories["test/mini-b"], { gated: true });
  await fails("hf:test/q3-a", hidden);
  await fails("hf:test/mini-b", hidden);
  for (const source of ["hf:test/q3-a", "hf:test/mini-b"]) {
    await fails(source, /the access token does not give access/, [], { HF_TOKEN: "hf_wrong" });
    await converts(source, output(), [], { HF_TOKEN: TOKEN });
  }
  await fails("hf:test/nothing", /the repository test\/nothing with the revision main does not exist/, [], { HF_TOKEN: TOKEN });
  await fails("hf:test/q2-a@v9", /the repository test\/q2-a with the revision v9 does not exist/);
});

test("a file that is replaced in the middle is noticed by every worker", async (context) => {
  const original = (await filesOf(Q3_A)).get(WEIGHTS);
  // The header stays as it is, so that only the ETag differs.
  const other = Buffer.concat([original.subarray(0, 100_000), Buffer.alloc(original.length - 100_000, 1)]);
  for (const threads of [1, 3]) {
    await context.test(`${threads} workers`, async () => {
      hub.reset();
      hub.beforeStorage = (path, nth) => void (nth === 2 && hub.replaced.set(path, other));
      await fails("hf:test/q3-a", /the file changed on the server/, ["--shard-size", "0.2", "--threads", String(threads)]);
    });
    await context.test(`${threads} workers, a server without a list`, async () => {
      const files = await filesOf(Q3_A);
      const plain = await misbehavingServer(async (path) => files.get(path.slice("/q3-a/".length)));
      let reads = 0;
      plain.fault = (path) => {
        if (!path.endsWith(WEIGHTS)) return undefined;
        reads += 1;
        return reads > 3 ? { body: other, headers: { etag: '"new"' } } : { headers: { etag: '"old"' } };
      };
      try {
        await fails(`${plain.origin}/q3-a`, /the file changed on the server/, ["--shard-size", "0.2", "--threads", String(threads)]);
      } finally {
        plain.close();
      }
    });
  }
});

test("a worker that begins after a file was replaced notices it", async () => {
  const hooks = { signal: new AbortController().signal };
  const requests = { fetch: (url, init) => fetch(url, init), requestInit: {}, retries: 1 };
  const plain = await misbehavingServer(async (path) => (path.endsWith("/config.json") ? Buffer.from("{}") : undefined));
  let etag;
  plain.fault = () => ({ headers: { etag } });
  const cases = [
    [() => new HubRanges({ repository: "test/q3-a", revision: "main" }, { ...requests, endpoint: hub.origin, token: undefined }), WEIGHTS],
    [() => new UrlRanges(`${plain.origin}/folder/`, requests), "config.json"],
  ];
  try {
    for (const [open, path] of cases) {
      etag = '"old"';
      const first = open();
      const listing = await first.list(hooks);
      const file = listing.files.find((file) => file.path === path);
      const read = (source) => collect(source.read(file, 0, 2, hooks));
      const bytes = await read(first);
      const second = open();
      second.adopt(structuredClone(listing));
      assert.deepEqual(await read(second), bytes);
      const later = open();
      later.adopt(structuredClone(listing));
      hub.replaced.set(path, Buffer.alloc(file.bytes));
      etag = '"new"';
      await assert.rejects(read(later), ({ code }) => code === "INTEGRITY");
    }
  } finally {
    plain.close();
  }
});

test("a pointer in place of a file is reported with the file's name", async () => {
  for (const [name, file] of [
    ["q3-a", WEIGHTS],
    ["mini-a", "pytorch_model-00002-of-00003.bin"],
    ["mini-b", "model-00003-of-00003.safetensors"],
  ]) {
    const { files } = hub.repositories[`test/${name}`];
    files.set(file, lfsPointer(files.get(file)));
    const message = await fails(`hf:test/${name}`, /LFS/i);
    assert.ok(message.includes(file), message);
  }
});

test("a repository without a checkpoint, and an unsupported model", async () => {
  const { files } = hub.repositories["test/q3-a"];
  const config = JSON.parse(files.get("config.json"));
  files.delete("config.json");
  await fails("hf:test/q3-a", /config\.json/);
  files.set("config.json", Buffer.from(JSON.stringify({ ...config, model_type: "llama", architectures: ["LlamaForCausalLM"] })));
  await fails("hf:test/q3-a", /llama/i);
  await fails(`${server.origin}/nothing/`, /could not find a checkpoint at .*config\.json is missing/);
  await fails(join(folder, "nothing"), /nothing/);
});

test("a Hub that cannot be reached", async () => {
  await fails("hf:test/q3-a", /no response from the server/, [], { HF_ENDPOINT: "http://127.0.0.1:9" });
});

test("wrong arguments", async () => {
  for (const args of [
    ["hf:test", output()],
    [Q3_A, output(), "--scheme", "q5"],
    [Q3_A, output(), "--shard-size", "0"],
    [Q3_A, output(), "--keep", "vision"],
    [Q3_A, repository],
    [Q3_A],
  ]) {
    const { status, stderr } = await start(process.execPath, [CLI, "quantize", ...args]).ended;
    assert.ok(status === 1 || status === 2, `${args}: ${status}`);
    assert.match(stderr, /^error: .+/, args.join(" "));
  }
});

/** Converts mini-b from the Hub by one worker, so that shards are made one after the other. Returns the bytes of weights that were sent. */
async function sentFor(args, environment = {}) {
  hub.requests = [];
  const { child, ended } = start(process.execPath, [CLI, "quantize", "hf:test/mini-b", ...args, "--threads", "1"], environment);
  running = child;
  const { status, stderr } = await ended;
  assert.ok(status === 0 || status === "SIGKILL", stderr);
  return { killed: status === "SIGKILL", sent: hub.reads().reduce((sum, { sent }) => sum + sent, 0) };
}
let running;

/** Shards of one part of a tensor, or of several small ones. */
const TINY = ["--shard-size", "0.05"];

/**
 * Phases of a conversion. `at`: a place on the disk, see `kill-at.mjs`. `storage`: kills when this is true of a request for weights, in the
 * middle of its answer. `again`: the bytes of weights, without their directories, that may be sent a second time; `part` is the largest slice
 * of a tensor, `whole` what a run without a cut is sent.
 */
const CUTS = [
  { phase: "while the directories of the weights are read", storage: ({ nth }) => nth === 3, again: () => 0 },
  { phase: "at the first byte of the first shard", at: "shard-00000.safetensors 0", again: () => 0 },
  { phase: "while the bytes of a shard arrive", storage: ({ done }) => done === 20, again: ({ part }) => part },
  { phase: "in the middle of a shard", at: "shard-00011.safetensors 100000", again: ({ part }) => part },
  { phase: "between two shards", at: "shard-00012.safetensors 0", again: () => 0 },
  { phase: "while a shard is recorded", at: "-12.done 0", again: ({ part }) => part },
  { phase: "while the last files are written", at: "NOTICE 0", again: () => 0 },
  { phase: "while the manifest is written", at: "manifest.json 0", again: () => 0 },
  { phase: "before the folder gets its name", at: ".partial rename", again: () => 0 },
  // Everything is fetched ahead here. What was made before the last commit, at most one MiB earlier, is not fetched again.
  { phase: "late in the only shard", args: [], at: "shard-00000.safetensors 3000000", again: ({ whole }) => 0.8 * whole },
];

test("a run that is killed in any phase resumes, and gives the same bytes", async (context) => {
  const weights = [...hub.repositories["test/mini-b"].files].filter(([path]) => path.endsWith(".safetensors")).map(([, bytes]) => bytes);
  const lengths = weights.flatMap((bytes) => {
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))));
    return Object.values(header).map(({ data_offsets: [begin, end] = [0, 0] }) => end - begin);
  });
  const part = Math.max(...lengths);
  const undisturbed = async (args) => {
    const out = output();
    const { sent: whole } = await sentFor([out, ...args]);
    const { sent: directories } = await sentFor(["--plan", ...args]);
    assert.ok(directories > 0 && directories < 100_000 && part < whole / 5, `${directories} and ${part} of ${whole} bytes`);
    return { whole, directories, expected: await filesOf(out) };
  };
  const undisturbedRuns = new Map();
  for (const { phase, args = TINY, at, storage, again } of CUTS) {
    await context.test(phase, async () => {
      if (!undisturbedRuns.has(args)) undisturbedRuns.set(args, await undisturbed(args));
      const { whole, directories, expected } = undisturbedRuns.get(args);
      sameButName(expected, await native(MINI_B, args), "mini-b");
      const out = output();
      const done = async () => (await readdir(`${out}.partial`).catch(() => [])).filter((name) => name.endsWith(".done")).length;
      let reads = 0;
      hub.beforeStorage = async () => {
        const nth = reads++;
        return storage?.({ nth, done: await done() }) ? { bytes: 1000, whenSent: () => running.kill("SIGKILL") } : undefined;
      };
      const first = await sentFor([out, ...args], at ? { NODE_OPTIONS: `--import=${KILL_AT}`, QWEN_VL_KILL_AT: at } : {});
      assert.ok(first.killed, "the run was not killed");
      await assert.rejects(access(out));
      hub.beforeStorage = () => undefined;
      const second = await sentFor([out, ...args]);
      const twice = first.sent + second.sent - whole - directories;
      assert.ok(twice <= again({ part, whole }), `${twice} bytes were sent twice: ${first.sent} and ${second.sent} of ${whole}`);
      same(await filesOf(out), expected);
    });
  }
});
test("other files in the way are not overwritten", async () => {
  const out = output();
  await mkdir(out);
  await cp(join(Q3_A, "config.json"), join(out, "manifest.json"));
  const { status, stderr } = await run(Q3_A, out);
  assert.deepEqual([status, /holds `manifest\.json`: choose another output folder/.test(stderr)], [2, true], stderr);
  assert.deepEqual(await filesOf(out), new Map([["manifest.json", await readFile(join(Q3_A, "config.json"))]]));
  // A run with other settings does not resume in the folder of an interrupted one.
  const partial = output();
  await cp(out, `${partial}.partial`, { recursive: true });
  const second = await run(Q3_A, partial);
  assert.equal(second.status, 1);
  assert.ok(second.stderr.includes(`${partial}.partial holds \`manifest.json\`, which is not of this conversion`), second.stderr);
  // Neither does one move a file of somebody else along with its own.
  const third = output();
  await mkdir(`${third}.partial`);
  await writeFile(join(`${third}.partial`, "thesis.txt"), "a thesis");
  assert.match((await run(Q3_A, third)).stderr, /\.partial holds `thesis\.txt`, which is not of this conversion: move it away/);
  assert.deepEqual(await readdir(`${third}.partial`), ["thesis.txt"]);
});

test("shards whose records are of an older version are made again", async () => {
  const out = output();
  const args = [...TINY, "--threads", "1"];
  const cut = { NODE_OPTIONS: `--import=${KILL_AT}`, QWEN_VL_KILL_AT: "shard-00012.safetensors 0" };
  assert.equal((await run(MINI_B, out, args, cut)).status, "SIGKILL");
  // Those of the version before the errors were measured: the manifest entry, and the number of bytes.
  const records = (await readdir(`${out}.partial`)).filter((name) => name.endsWith(".done")).map((name) => join(`${out}.partial`, name));
  assert.equal(records.length, 12);
  for (const record of records) {
    const { errors, ...entry } = JSON.parse(await readFile(record, "utf8"));
    assert.ok(Array.isArray(errors));
    await writeFile(record, JSON.stringify(entry));
    await writeFile(record.replace(/done$/, "part"), String(entry.bytes));
  }
  same(await converts(MINI_B, out, args), await native(MINI_B, TINY));
});

test("two processes do not convert into one folder", async () => {
  const out = output();
  const locks = async () => (await readdir(folder)).filter((name) => name.startsWith(`${basename(out)}.lock-`));
  const args = [CLI, "quantize", "hf:test/q3-a", out, ...SMALL];
  /** Starts a conversion that waits for its weights until `meanwhile` has ended. */
  const heldAtWeights = async (meanwhile) => {
    const { child, ended } = start(process.execPath, args);
    let release;
    const released = new Promise((resolve) => (release = resolve));
    const reached = new Promise((resolve) => {
      hub.beforeStorage = () => {
        resolve();
        return released;
      };
    });
    try {
      await Promise.race([reached, ended.then(({ stderr }) => assert.fail(stderr))]);
      await meanwhile(child);
    } finally {
      hub.beforeStorage = () => undefined;
      release();
    }
    return ended;
  };
  const first = await heldAtWeights(async ({ pid }) => {
    const { status, stderr } = await run(Q3_A, out);
    assert.equal(status, 1);
    assert.ok(stderr.includes(`another process (pid ${pid}) is converting into ${out}: wait until it ends`), stderr);
    assert.deepEqual(await locks(), [`${basename(out)}.lock-${pid}`]);
  });
  assert.equal(first.status, 0, first.stderr);
  sameButName(await filesOf(out), await native(Q3_A, SMALL), "q3-a");
  assert.deepEqual(await locks(), []);

  // A process that was killed is in nobody's way, even if another process has its number.
  await rm(out, { recursive: true });
  const killed = await heldAtWeights(async (child) => child.kill("SIGKILL"));
  assert.equal(killed.status, "SIGKILL");
  assert.equal((await locks()).length, 1);
  if (process.platform === "linux") await writeFile(`${out}.lock-${process.pid}`, "1");
  sameButName(await converts("hf:test/q3-a", out, SMALL), await native(Q3_A, SMALL), "q3-a");
  assert.deepEqual(await locks(), []);
});
