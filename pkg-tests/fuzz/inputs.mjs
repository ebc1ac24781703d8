// Inputs that are nearly right: values of the seeds with some changes, and texts of words.

import fc from "fast-check";

/** Keys that objects have without having them, and those that break programs. */
const KEYS = ["constructor", "toString", "__proto__", "hasOwnProperty", "", "0", "length", "then"];
const WEIRD = [null, undefined, true, false, 0, -1, 1.5, NaN, 1e308, 2 ** 53, "", "x", "1", [], {}, [null], [[]], { a: 1 }];

const edit = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("replace", "replace", "delete", "double", "rename", "add", "move"),
  key: fc.oneof(fc.constantFrom(...KEYS), fc.string({ maxLength: 3 })),
  value: fc.oneof(fc.constantFrom(...WEIRD), fc.jsonValue({ maxDepth: 1 }), fc.string({ maxLength: 12, unit: "binary" })),
  from: fc.nat(),
});

/** Returns one of the seeds, JSON values, after up to five changes. */
export function nearly(seeds) {
  return fc.record({ seed: fc.nat(seeds.length - 1), edits: fc.array(edit, { maxLength: 5 }) }).map(({ seed, edits }) => {
    const root = { value: copied(seeds[seed]) };
    for (const one of edits) apply(root, one);
    return root.value;
  });
}

/** Returns a text of these words and any others. */
export function textOf(words, maxLength = 12) {
  const word = fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...words) }, fc.string({ maxLength: 4, unit: "binary" }));
  return fc.array(word, { maxLength }).map((list) => list.join(""));
}

/** Copies a tree. A property `__proto__` stays one. */
function copied(value) {
  if (Array.isArray(value)) return value.map(copied);
  if (!isTree(value)) return value;
  const copy = {};
  for (const [key, entry] of Object.entries(value)) define(copy, key, copied(entry));
  return copy;
}

/** True for objects of JSON. */
function isTree(value) {
  return Array.isArray(value) || (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype);
}

function define(object, key, value) {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

function apply(root, { at, kind, key, value: given, from }) {
  // Inserted in an earlier change, it would hold itself.
  const value = copied(given);
  const places = [];
  const walk = (holder, name) => {
    places.push([holder, name]);
    const inner = holder[name];
    if (isTree(inner)) for (const next of Object.keys(inner)) walk(inner, next);
  };
  walk(root, "value");
  const [holder, name] = places[at % places.length];
  const [otherHolder, otherName] = places[from % places.length];
  const inner = holder[name];
  if (kind === "delete" && holder !== root) {
    if (Array.isArray(holder)) holder.splice(Number(name), 1);
    else delete holder[name];
  } else if (kind === "double" && Array.isArray(holder)) holder.splice(Number(name), 0, copied(inner));
  else if (kind === "rename" && holder !== root && !Array.isArray(holder)) {
    delete holder[name];
    define(holder, key, inner);
  } else if (kind === "add" && isTree(inner) && !Array.isArray(inner)) define(inner, key, value);
  else if (kind === "move") define(holder, name, copied(otherHolder[otherName]));
  else define(holder, name, value);
}
