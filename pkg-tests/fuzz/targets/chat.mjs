// Files of saved chats, which the page opens: `www/src/state/chat-file.ts`. Only Vite builds the page, so the target translates that file.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import ts from "typescript";
import { nearly } from "../inputs.mjs";

const source = await readFile(new URL("../../../www/src/state/chat-file.ts", import.meta.url), "utf8");
const { outputText } = ts.transpileModule(source, { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 } });
export const { parseChat } = await import(`data:text/javascript,${encodeURIComponent(outputText)}`);

const PNG = "data:image/png;base64,iVBORw0KGgo=";
export const SEEDS = [
  {
    format: "qwen-vl-web-chat",
    version: 1,
    system: "Be short.",
    pictures: [
      { id: "a", name: "a.png", data: PNG },
      { id: "b", name: "b.mp4", data: PNG, video: "data:video/mp4;base64,AAAA" },
    ],
    turns: [
      {
        text: "Where is it?",
        pictures: ["a", "b"],
        region: [0, 10.5, 900, 1000],
        raw: "<ref>It</ref><box>(1,2),(3,4)</box>",
        answer: {
          text: "It",
          objects: [
            { ref: "It", image: 0, range: [0, 2], kind: "box", norm: [1, 2, 3, 4], pixels: [1, 2, 3, 4] },
            { range: [2, 2], kind: "point", norm: [1, 2], pixels: [0, 1] },
            { range: [2, 2], kind: "quad", norm: [[1, 2], [3, 4], [5, 6], [7, 8]] }, // prettier-ignore
          ],
        },
      },
      { text: "Why?", pictures: [], raw: "So." },
    ],
  },
  { format: "qwen-vl-web-chat", version: 1, system: "", pictures: [], turns: [] },
];
export const input = nearly(SEEDS);

/** Types that the page relies on, and fields that may be missing (`?`). */
const SHAPE = {
  format: "string",
  version: "number",
  system: "string",
  pictures: [{ id: "string", name: "string", data: "string", "video?": "string" }],
  turns: [
    {
      text: "string",
      pictures: ["string"],
      "region?": ["number"],
      raw: "string",
      "answer?": {
        text: "string",
        objects: [
          { "ref?": "string", "image?": "number", range: ["number"], kind: "string", norm: "coordinates", "pixels?": "coordinates" },
        ],
      },
    },
  ],
};

/** A chat is refused, or has the types that the page relies on and nothing that the file does not have. */
export function check(value) {
  const json = JSON.stringify(value);
  if (json === undefined) return "no JSON";
  let chat;
  try {
    chat = parseChat(json);
  } catch (error) {
    if (error instanceof TypeError && error.message === "not a chat of this page") return "refused";
    throw error;
  }
  fits(chat, SHAPE, "chat");
  isPartOf(chat, JSON.parse(json), "chat");
  assert.deepEqual(parseChat(JSON.stringify(chat)), chat, "a chat that is written again");
  const ids = new Set(chat.pictures.map(({ id }) => id));
  for (const { pictures } of chat.turns) for (const id of pictures) assert.ok(ids.has(id), `no picture ${id}`);
  return "ok";
}

function fits(value, shape, path) {
  if (shape === "coordinates") {
    assert.ok(Array.isArray(value) && value.flat().every((number) => Number.isInteger(number) && number >= 0), path);
    assert.ok([2, 4, 8].includes(value.flat().length), path);
  } else if (typeof shape === "string") {
    assert.equal(typeof value, shape, path);
  } else if (Array.isArray(shape)) {
    assert.ok(Array.isArray(value), path);
    for (const [index, entry] of value.entries()) fits(entry, shape[0], `${path}[${index}]`);
  } else {
    const rest = new Set(Object.keys(value));
    for (const [name, inner] of Object.entries(shape)) {
      const key = name.replace("?", "");
      const isThere = rest.delete(key);
      assert.ok(isThere || name.endsWith("?"), `${path}.${key} is missing`);
      if (isThere) fits(value[key], inner, `${path}.${key}`);
    }
    assert.deepEqual([...rest], [], `${path} has other fields`);
  }
}

function isPartOf(value, file, path) {
  if (typeof value !== "object") return assert.equal(value, file, path);
  for (const key of Object.keys(value)) isPartOf(value[key], file[key], `${path}.${key}`);
  if (Array.isArray(value)) assert.equal(value.length, file.length, path);
}
