/** Schemas as people write them for answers about pictures. Strings and lists have limits, so that the small model of the tests finishes. */

const text = { type: "string", maxLength: 12 };
const word = { type: "string", pattern: "^[a-z]{1,8}$" };
const count = { type: "integer", minimum: 0, maximum: 99 };
const box = { type: "array", items: { type: "integer", minimum: 0, maximum: 999 }, minItems: 4, maxItems: 4 };
const object = (properties, more = {}) => ({
  type: "object",
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
  ...more,
});
const list = (items, maxItems = 3, minItems = 1) => ({ type: "array", items, minItems, maxItems });

export const SCHEMAS = {
  caption: object({ caption: text }),
  "yes or no": { enum: ["yes", "no"] },
  constant: { const: { ok: true, list: [1, null, "é"] } },
  boolean: { type: "boolean" },
  null: { type: "null" },
  percent: { type: "integer", minimum: 0, maximum: 100 },
  "number between": { type: "number", exclusiveMinimum: 0, maximum: 1 },
  "multiple of five": { type: "integer", multipleOf: 5, minimum: 5, maximum: 50 },
  "short text": text,
  word,
  date: { type: "string", format: "date" },
  colour: { type: "string", pattern: "^#[0-9a-f]{6}$" },
  "name and count": object({ name: word, count }),
  "optional key": { type: "object", properties: { a: word, b: count }, required: ["a"], additionalProperties: false },
  "optional keys": { type: "object", properties: { a: word, b: count, c: word }, additionalProperties: false },
  box: object({ bbox_2d: box, label: word }),
  boxes: list(object({ bbox_2d: box, label: { enum: ["triangle", "circle"] } }), 2),
  nested: object({ scene: object({ objects: list(object({ name: word })), light: { enum: ["day", "night"] } }) }),
  words: list(word, 4, 2),
  "no item": list(word, 0, 0),
  pair: { type: "array", prefixItems: [word, count], items: false, minItems: 2 },
  "text or number": { anyOf: [word, count] },
  "null or object": { anyOf: [{ type: "null" }, object({ name: word })] },
  "one of two objects": { oneOf: [object({ kind: { const: "a" }, a: word }), object({ kind: { const: "b" }, b: count })] },
  "all of two": { allOf: [{ type: "integer", minimum: 3 }, { maximum: 7 }] },
  "several types": { type: ["integer", "null"], minimum: 1, maximum: 9 },
  reference: { $defs: { thing: object({ name: word }) }, type: "array", items: { $ref: "#/$defs/thing" }, minItems: 1, maxItems: 2 },
  recursive: {
    $defs: {
      node: {
        type: "object",
        properties: { name: word, next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] } },
        required: ["name", "next"],
        additionalProperties: false,
      },
    },
    $ref: "#/$defs/node",
  },
  "Chinese keys and values": object({ 颜色: { enum: ["绿色", "红色"] }, 数量: count }),
  "keys by a pattern": { type: "object", patternProperties: { "^[ab]$": count }, additionalProperties: false, maxProperties: 2 },
};
