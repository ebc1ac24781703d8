// Lets every system call on files and network fail, or kill the program, in turn, in conversions on the disk: those of `quantize` and of the
// package's command in Node. After each, no output may be taken for whole that is not, the source must not have changed, and the next run must
// end as if nothing had happened. `strace` injects the faults, so it must be installed, and be allowed to trace. Writes that store a part of their
// bytes come from the limit of the size of a file (`prlimit`).
//
//   node pkg-tests/faults/native.mjs [--quick] [--only TEXT]
//
//   QWEN_VL_QUANTIZE    the program `quantize`
//   QWEN_VL_PACKAGE     the unpacked package
//
// `--quick` takes each 25th point. Writes target/robustness/interruptions-native-*.json.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { writeFigure } from "../figures.mjs";
import { filesOf, startHub } from "../hub.mjs";

const { values } = parseArgs({ options: { quick: { type: "boolean", default: false }, only: { type: "string", default: "" } } });
const repository = fileURLToPath(new URL("../..", import.meta.url));
const quantize = process.env.QWEN_VL_QUANTIZE ?? join(repository, "target/debug/quantize");
const packageFolder = process.env.QWEN_VL_PACKAGE ?? join(repository, "target/package/package");
const source = join(repository, "tests/fixtures/checkpoints/mini-a");
const STEP = values.quick ? 25 : 1;
/** Runs that follow each other without reaching a point, after which there are no more: threads differ a little from run to run. */
const PATIENCE = 3;

/** System calls on files. Those that open a file are among them. */
const FILES =
  "openat,read,pread64,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,ftruncate,flock,statx,newfstatat,getdents64,symlinkat,symlink,linkat,copy_file_range";
const WRITES = "write,pwrite64,writev,fsync,fdatasync,ftruncate,mkdir,mkdirat,rename,renameat,renameat2";
const NETWORK = "connect,sendto,sendmsg,recvfrom,recvmsg,shutdown";

/**
 * Kinds of faults: the system calls, and the injection of `strace`. The N-th call of each thread counts. `sizes`: no file may become longer than one
 * of these, so that a write stores a part of its bytes; the next one fails, or kills the program if it does not ignore the signal.
 */
const KINDS = {
  "an error": { calls: FILES, inject: (at) => `error=EIO:when=${at}` },
  "a full disk": { calls: WRITES, inject: (at) => `error=ENOSPC:when=${at}+` },
  "a kill": { calls: FILES, inject: (at) => `signal=KILL:when=${at}` },
  "a part of a write": { sizes: partsOf, ignores: true },
  "a kill after a part of a write": { sizes: partsOf, ignores: false },
};
/** Node ignores the signal. */
const { "a kill after a part of a write": _, ...NODE_KINDS } = KINDS;
const NETWORK_KINDS = {
  "a lost connection": { calls: NETWORK, inject: (at) => `error=ECONNRESET:when=${at}` },
  "no network": { calls: NETWORK, inject: (at) => `error=ENETUNREACH:when=${at}+` },
};

const hub = await startHub({ "test/mini-a": { files: await filesOf(source) } });
const root = await mkdtemp(join(tmpdir(), "faults-"));
const [out, old, hubCache] = ["out", "old", "hub"].map((name) => join(root, name));

const rust = (...more) => [quantize, source, out, "--shard-size", "0.3", ...more];
const fromHub = (...more) => [quantize, "hf:test/mini-a", out, "--shard-size", "0.3", ...more];
/** Resumes without being asked. */
const node = () => [process.execPath, join(packageFolder, "dist/node/cli.js"), "quantize", source, out, "--shard-size", "0.3"];

/** `replaces`: the output folder holds an older checkpoint at first. */
const SCENES = {
  "a conversion": { command: rust },
  "a conversion that replaces": { command: (...more) => rust("--force", ...more), replaces: true },
  "a conversion from the Hub": { command: fromHub, kinds: { ...KINDS, ...NETWORK_KINDS } },
  "a conversion that streams": { command: (...more) => fromHub("--stream", ...more), kinds: NETWORK_KINDS },
  "a conversion in Node": { command: node, kinds: NODE_KINDS },
};

/** Runs a program. Returns its exit code (`null` if it was killed), the signal, and what it wrote. */
function run([program, ...args]) {
  const environment = { HF_HOME: hubCache, HF_ENDPOINT: hub.origin, RUST_BACKTRACE: "0" };
  return new Promise((resolve) => {
    const options = { env: { ...process.env, ...environment }, maxBuffer: 1 << 24 };
    execFile(program, args, options, (error, stdout, stderr) =>
      resolve({ code: error ? (error.code ?? null) : 0, signal: error?.signal ?? null, output: stdout + stderr }),
    );
  });
}

/** Runs a program while `strace` injects a fault. Returns its end, and the system call that failed; `undefined` if there was none. */
async function runTraced(command, { calls, inject }, at, paths) {
  const log = join(root, "strace.log");
  const filter = calls === NETWORK ? [] : paths.flatMap((path) => ["-P", path]);
  const strace = ["strace", "-f", "-qq", "-o", log, ...filter, "-e", `trace=${calls}`];
  const end = await run([...strace, "-e", `inject=${calls}:${inject(at)}`, ...command]);
  // It writes its own errors between the lines of the program, which it does not start then.
  const failure = /^(strace: .*|.*PTRACE_\w+.*)$/m.exec(end.output)?.[0] ?? (end.code === "ENOENT" ? "strace is not installed" : undefined);
  if (failure) throw new Error(`strace cannot trace: ${failure}`);
  const trace = await readFile(log, "utf8").catch(() => "");
  return { ...end, hit: /^.*\((?:INJECTED|DELAYED)\)|killed by SIGKILL/m.exec(trace)?.[0] };
}

/** Runs a program whose files cannot become longer than `size`. Returns its end, and the signal or the error that it got. */
async function runLimited(command, size, ignores) {
  const limited = ["prlimit", `--fsize=${size}:${size}`, "--core=0:0", ...command];
  // An ignored signal stays ignored in a program that the shell starts.
  const end = await run(ignores ? ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", ...limited] : limited);
  const hit = end.signal === "SIGXFSZ" || /EFBIG|[Ff]ile too large|os error 27/.test(end.output);
  return { ...end, hit: hit ? `no file is longer than ${size} bytes` : undefined };
}

/** Lengths at which a write of one of these files stores a part of its bytes: of each length, a byte, a half, and all but one. */
function partsOf(lengths) {
  const parts = lengths.flatMap((length) => [1, Math.floor(length / 2), length - 1]);
  return [...new Set(parts.filter((size) => size > 0))].sort((a, b) => a - b);
}

/** Lengths of the files that the conversion that has just ended has written, in order. */
async function lengthsOf() {
  const list = async (folder) => {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    const files = entries.filter((entry) => entry.isFile());
    return Promise.all(files.map(async ({ parentPath, path, name }) => (await stat(join(parentPath ?? path, name))).size));
  };
  const lengths = [...(await list(out)), ...(await list(hubCache))];
  return [...new Set(lengths)].sort((a, b) => a - b);
}

/** Hash of every file in a folder; `undefined` if the folder does not exist. */
async function hashes(folder) {
  const names = await readdir(folder).catch(() => undefined);
  if (!names) return undefined;
  const entries = names.sort().map(async (name) => [
    name,
    createHash("sha256")
      .update(await readFile(join(folder, name)))
      .digest("hex"),
  ]);
  return JSON.stringify(await Promise.all(entries));
}

async function reset(replaces) {
  for (const name of await readdir(root)) if (name !== "old") await rm(join(root, name), { recursive: true, force: true });
  if (replaces) await cp(old, out, { recursive: true });
}

const sourceHashes = await hashes(source);
const made = await run([quantize, source, old, "--scheme", "q8"]);
if (made.code !== 0) throw new Error(made.output);
const oldHashes = await hashes(old);

let failed = false;
for (const [name, { command, replaces = false, kinds = KINDS }] of Object.entries(SCENES)) {
  if (!name.includes(values.only)) continue;
  const began = Date.now();
  await reset(replaces);
  const clean = await run(command());
  if (clean.code !== 0) throw new Error(`${name}: ${clean.output}`);
  const expected = await hashes(out);
  const before = replaces ? oldHashes : undefined;
  /** Only these paths count: a program also opens files when it starts. */
  const paths = await pathsOf();
  const lengths = await lengthsOf();
  const figures = { points: 0, wrong: [], lost: [], kinds: {} };
  for (const [kind, plan] of Object.entries(kinds)) {
    figures.kinds[kind] = 0;
    const sizes = plan.sizes?.(lengths);
    // With `--quick` still some sizes of each kind.
    const step = sizes && values.quick ? Math.max(1, Math.floor(sizes.length / 4)) : STEP;
    for (let [at, missed] = [1, 0]; missed < PATIENCE && at <= (sizes?.length ?? Infinity); at += step) {
      await reset(replaces);
      hub.reset();
      const end = sizes ? await runLimited(command(), sizes[at - 1], plan.ignores) : await runTraced(command(), plan, at, paths);
      const { code, signal, output, hit } = end;
      if (!hit) {
        missed += 1;
        continue;
      }
      missed = 0;
      figures.points += 1;
      figures.kinds[kind] += 1;
      const where = `${kind} at ${at}, ${hit.slice(0, 100)}`;
      if (/panicked|RUST_BACKTRACE|at (async )?[\w.]+ \(/.test(output)) figures.wrong.push(`${where}: ${output}`);
      const isKill = kind === "a kill" || signal === "SIGXFSZ";
      if (code !== 0 && !isKill && !/error/i.test(output)) figures.wrong.push(`${where}: ended with ${code} and said nothing: ${output}`);
      const found = await hashes(out);
      if (code === 0 && found !== expected) figures.wrong.push(`${where}: ended well, and the output is not whole`);
      const aside = await hashes(`${out}.replaced`);
      const whole =
        [expected, before].includes(found) || isEmpty(found) || withoutMarker(found) === expected || withoutMarker(found) === before;
      if (!whole) figures.lost.push(`${where}: the output is neither absent nor whole: ${await readdir(out)}`);
      if (replaces && found !== expected && found !== before && withoutMarker(aside) !== before && withoutMarker(found) !== expected)
        figures.lost.push(`${where}: the older checkpoint is gone`);
      if ((await hashes(source)) !== sourceHashes) figures.lost.push(`${where}: the source has changed`);
      // The last step can fail when the output is whole already. The next run would refuse to replace it.
      if (code !== 0 && (replaces || found !== expected)) {
        const again = await run(command("--resume"));
        if (again.code !== 0) figures.wrong.push(`${where}: the next run failed: ${again.output}`);
        else if ((await hashes(out)) !== expected) figures.wrong.push(`${where}: the next run made another output`);
        const left = (await readdir(root)).filter((name) => name.startsWith("out."));
        if (again.code === 0 && left.length > 0) figures.wrong.push(`${where}: the next run left ${left}`);
      }
    }
  }
  const seconds = Math.round((Date.now() - began) / 1000);
  const summary = `${figures.points} points (${JSON.stringify(figures.kinds)}) in ${seconds} s`;
  console.log(`${name}: ${summary}, wrong ${figures.wrong.length}, lost ${figures.lost.length}`);
  const unreached = Object.keys(kinds).filter((kind) => figures.kinds[kind] === 0);
  if (unreached.length > 0) throw new Error(`${name}: no point of ${unreached.join(", ")}`);
  for (const text of [...figures.wrong, ...figures.lost].slice(0, 10)) console.log(`  ${text}`);
  failed ||= figures.wrong.length + figures.lost.length > 0;
  if (!values.quick) {
    const [wrong, lost] = [figures.wrong.length, figures.lost.length];
    await writeFigure(repository, `interruptions native ${name}`, {
      what: `${name}, native`,
      points: figures.points,
      wrong,
      lost,
      seconds,
    });
  }
}
hub.close();
await rm(root, { recursive: true });
process.exitCode = failed ? 1 : 0;

function isEmpty(found) {
  return found === undefined || found === "[]";
}

/** Hashes of a folder that holds a marker of a conversion too: it is removed at the very end. */
function withoutMarker(found) {
  return found && JSON.stringify(JSON.parse(found).filter(([name]) => name !== ".conversion"));
}

/** The paths that the conversion that has just ended has read and written. */
async function pathsOf() {
  const sources = (await readdir(source)).map((name) => join(source, name));
  const names = [...(await readdir(out)), ".conversion"];
  const made = names.flatMap((name) => [join(out, name), `${out}.partial/${name}`, `${out}.partial/${name}.unfinished`]);
  const entries = await readdir(hubCache, { recursive: true }).catch(() => []);
  const cached = entries.map((name) => join(hubCache, name)).flatMap((path) => [path, `${path}.part`]);
  return [source, root, out, `${out}.partial`, `${out}.replaced`, ...sources, ...made, hubCache, ...cached];
}
