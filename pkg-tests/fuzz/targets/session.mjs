// Saved sessions and the options of sessions: `web/ts/api/session.ts`.

import fc from "fast-check";
import assert from "node:assert/strict";
import { nearly, textOf } from "../inputs.mjs";
import { outcome, settled } from "../outcome.mjs";
import { modelOf, withPictures } from "../worker.mjs";

const PNG = "data:image/png;base64,iVBORw0KGgo=";
const SEEDS = [
  {
    system: "Be short.",
    generation: { maxTokens: 10, temperature: 0.5, stop: ["a"], stopTokens: [1], seed: 7, kvReuse: "fast" },
    onContextOverflow: "drop-oldest",
    imageOrientation: "none",
    minPictureTokens: 4,
    history: [
      { role: "user", content: [{ image: PNG, imageColors: "original" }, { text: "What?" }] },
      { role: "assistant", content: "A <ref>cat</ref><box>(1,2),(3,4)</box>" },
      { role: "user", content: [{ ref: "it", boxes: [[1, 2.5, 3, 4]], unit: "pixels" }, "Where?"] },
      { role: "assistant", content: "" },
    ],
  },
  {
    history: [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Hello" },
      {
        role: "user",
        content: [
          { image: new Blob(["GIF8"], { type: "image/gif" }) },
          { image: "https://example.org/a.gif" },
          {
            video: [
              { image: "data:,BMx", time: 0 },
              { image: new Uint8Array([1, 2, 3]), time: 0.5 },
            ],
            fps: 2,
          },
        ],
      },
      { role: "assistant", content: "A film" },
    ],
  },
];
const CONTENTS = ["And now?", [{ image: "data:image/jpeg,%ff%d8%ff" }, "Why?"], [{ image: new ArrayBuffer(3) }]];

export const seeds = SEEDS.length + CONTENTS.length;
// Often without a change: a refusal of one hides the other.
const oneOf = (list) => fc.oneof(fc.constantFrom(...list), nearly(list));
export const input = fc.record({
  family: fc.constantFrom("qwen_vl", "qwen3_vl"),
  options: oneOf(SEEDS),
  content: oneOf(CONTENTS),
  raw: textOf(["<ref>", "</ref>", "<box>(1,2),(3,4)</box>", "\ud800", "\u2028", '"', "字"]),
});

const saved = (session) => JSON.parse(JSON.stringify(session));

/** A session that is saved and continued is the same session: the model is asked the same, and it is saved as the same text. */
export function check({ family, options, content, raw }) {
  return withPictures(async () => {
    const [{ model, worker }, other] = [modelOf(family), modelOf(family)];
    worker.raw = raw;
    other.worker.raw = raw;
    let session;
    const made = outcome(() => (session = model.createSession(options)));
    if (!session) return made;
    alternates(session.history);
    const turns = session.history.length;
    // Addresses can be saved at once, other pictures when they are read.
    const early = outcome(() => saved(session));
    // The worker of constraints is another one.
    const asked = await settled(() => session.ask(content, { constraint: undefined }));
    if (asked !== "ok") {
      assert.equal(session.history.length, turns, "a question that failed is in the history");
      return `${made}, ${early}, ${asked}`;
    }
    alternates(session.history);
    assert.equal(session.history.length, turns + 2);
    assert.equal(session.history.at(-1).content, raw);

    const data = saved(session);
    const text = JSON.stringify(data);
    assert.equal(JSON.stringify(session.fork()), text);
    const restored = other.model.createSession(data);
    await session.ask("Again?", { constraint: undefined });
    await restored.ask("Again?", { constraint: undefined });
    assert.deepEqual(other.worker.asked, worker.asked.slice(-1), "the model is asked something else");
    assert.equal(JSON.stringify(restored), JSON.stringify(session));
    assert.equal(restored.undo() + session.undo(), 2);
    assert.equal(JSON.stringify(restored), text);
    return `${made}, ${early}, ${asked}`;
  });
}

/** A history has questions and answers by turns. */
function alternates(history) {
  assert.ok(history.every(({ role }, index) => role === (index % 2 === 0 ? "user" : "assistant")) && history.length % 2 === 0);
}
