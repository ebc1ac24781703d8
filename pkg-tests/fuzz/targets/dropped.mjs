// Files and folders with any names: `web/ts/weights/dropped.ts`, `source.ts`, `spec.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { droppedFiles } from "../../../web/dist/weights/dropped.js";
import { FolderSource } from "../../../web/dist/weights/source.js";
import { makeRanges, rangeSpec } from "../../../web/dist/weights/spec.js";
import { settled } from "../outcome.mjs";

const NAMES = [
  "manifest.json",
  "config.json",
  "shard-0",
  "a",
  "A",
  "..",
  ".",
  "",
  "../a",
  "/a",
  "a/b",
  "..\\a",
  "%2e%2e",
  "__proto__",
  "constructor",
  "toString",
  "NUL",
  "a\u0000",
  "\u202egnp.a",
  "e\u0301",
  "\u00e9",
  "x".repeat(300),
];
const name = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...NAMES) },
  // Names of files have no half of a surrogate pair.
  fc.string({ maxLength: 3, unit: "binary" }).map((text) => text.toWellFormed()),
);
const { entry } = fc.letrec((tie) => ({
  entry: fc.oneof(
    { maxDepth: 3 },
    fc.record({ name, bytes: fc.uint8Array({ maxLength: 3 }) }),
    fc.record({ name, entries: fc.array(tie("entry"), { maxLength: 4 }), batch: fc.integer({ min: 1, max: 3 }) }),
  ),
}));

export const seeds = 0;
export const input = fc.record({
  entries: fc.array(entry, { maxLength: 3 }),
  // Number of the entry that cannot be read. Mostly there is none.
  failing: fc.oneof({ weight: 5, arbitrary: fc.constant(-1) }, fc.nat(6)),
  // Files of a manifest: those of the folder by their number, and any others.
  wanted: fc.array(fc.oneof(fc.nat(6), fc.record({ file: name, bytes: fc.nat(3) })), { maxLength: 3 }),
});

const hooks = { signal: new AbortController().signal };
const gone = () => new DOMException("A requested file or directory could not be found", "NotFoundError");

/** Every dropped file is found once, under its path. A name of a manifest finds a file of the folder or none. */
export async function check({ entries, failing, wanted }) {
  const dropped = [];
  let number = 0;
  const top = entries.map((entry) => entryOf(entry, "", dropped, () => number++ === failing));
  let files;
  const end = await settled(async () => {
    files = await droppedFiles({ items: [...top, null].map((entry) => ({ webkitGetAsEntry: () => entry })) });
  });
  if (!files) return end;
  assert.deepEqual(
    files.map((file) => [file.webkitRelativePath, file]),
    dropped.map(({ path, file }) => [path, file]),
  );
  const ends = [end, await ofCheckpoint(files)];
  ends.push(await ofModel(new FolderSource(files, "folder:"), files, wanted));
  // The same folder as a handle, which has files at the top alone.
  const [folder] = entries.filter(({ entries }) => entries);
  if (folder) {
    const inside = new Map(folder.entries.map((entry) => [entry.name, entry.bytes && new File([entry.bytes], entry.name)]));
    const found = [...inside.values()].filter((file) => file !== undefined);
    const folders = [...inside.keys()].filter((name) => inside.get(name) === undefined);
    ends.push(await ofModel(new FolderSource(handleOf(folder.name, inside), "folder:"), found, wanted, folders));
  }
  return ends.join(", ");
}

/** Returns an entry as browsers make it, and adds its files to `files`. */
function entryOf({ name, bytes, entries, batch }, above, files, fails) {
  const fullPath = `${above}/${name}`;
  const failed = fails();
  const answer = (resolve, reject, value) => queueMicrotask(() => (failed ? reject(gone()) : resolve(value)));
  if (!entries) {
    const file = new File([bytes], name);
    files.push({ path: fullPath.slice(1), file });
    return { isFile: true, name, fullPath, file: (resolve, reject) => answer(resolve, reject, file) };
  }
  const inside = entries.map((entry) => entryOf(entry, fullPath, files, fails));
  const createReader = () => {
    const rest = [...inside];
    return { readEntries: (resolve, reject) => answer(resolve, reject, rest.splice(0, batch)) };
  };
  return { isFile: false, name, fullPath, createReader };
}

/** A checkpoint has every file, under its path in the folder. */
async function ofCheckpoint(files) {
  const ranges = makeRanges(rangeSpec(files, {}).spec);
  const { name, files: listed } = await ranges.list(hooks);
  assert.ok(name.length > 0 && !name.includes("/"), name);
  assert.equal(listed.length, files.length);
  for (const [index, { path, bytes }] of listed.entries()) {
    const { webkitRelativePath: whole, name, size } = files[index];
    assert.ok(path === whole.slice(whole.indexOf("/") + 1) || path === name, `${path} of ${whole}`);
    assert.equal(bytes, size);
    // Of two files with one path the first is read.
    const first = files[listed.findIndex((file) => file.path === path)];
    const read = await collected(ranges.read({ path }, 0, first.size, hooks));
    assert.deepEqual(read, new Uint8Array(await first.arrayBuffer()));
  }
  return `${Math.min(listed.length, 2)} files`;
}

/** A file of a model is one of the folder, with its name and its bytes. `folders` are names that a handle has for folders. */
async function ofModel(source, files, wanted, folders = []) {
  const manifest = await settled(async () => {
    const text = await source.manifest(hooks);
    const texts = await Promise.all(files.filter(({ name }) => name === "manifest.json").map((file) => file.text()));
    assert.ok(texts.includes(text), "the manifest is not a file of the folder");
  });
  const codeOf = (name, present, absent) =>
    files.some((file) => file.name === name) ? present : folders.includes(name) ? "INTEGRITY" : absent();
  assert.equal(
    manifest,
    codeOf("manifest.json", "ok", () => codeOf("config.json", "NOT_CONVERTED", () => "MANIFEST_INVALID")),
  );
  let found = 0;
  for (const one of wanted) {
    const of = ({ name: file, size: bytes }) => ({ file, bytes });
    const entry = typeof one === "object" ? one : of(files[one % files.length] ?? new File([], ""));
    const kind = await settled(async () => {
      const bytes = await collected(source.read(entry, 0, hooks));
      const same = files.filter(({ name, size }) => name === entry.file && size === entry.bytes);
      const contents = await Promise.all(same.map((file) => file.arrayBuffer()));
      assert.ok(
        contents.some((content) => Buffer.from(content).equals(bytes)),
        `${entry.file} is not a file of the folder`,
      );
      found++;
    });
    assert.ok(kind === "ok" || kind === "INTEGRITY", kind);
  }
  return `${manifest} ${Math.min(found, 1)} found`;
}

async function collected(pieces) {
  const all = [];
  for await (const piece of pieces) all.push(piece.slice());
  return new Uint8Array(Buffer.concat(all));
}

/** Returns a handle of a folder, which refuses names as browsers do. */
function handleOf(name, inside) {
  return {
    kind: "directory",
    name,
    async getFileHandle(name) {
      if (name === "" || name === "." || name === ".." || /[/\\]/.test(name)) throw new TypeError("Name is not allowed.");
      if (!inside.has(name)) throw gone();
      const file = inside.get(name);
      if (!file) throw new DOMException("The path supplied exists, but was not an entry of requested type.", "TypeMismatchError");
      return { kind: "file", getFile: async () => file };
    },
  };
}
