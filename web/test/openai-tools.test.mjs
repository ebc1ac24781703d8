// Tools in OpenAI's form: what the model reads of them, and its calls. Runs in Node with a model that records what it is asked.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { CallReader, toolTexts } from "../dist/api/openai-tools.js";
import { createOpenAI } from "../dist/openai.js";

const WEATHER = {
  type: "function",
  function: { name: "weather", description: "Météo", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const ASKED = [{ role: "user", content: "Weather?" }];
const call = (name, args) => `<tool_call>\n{"name": "${name}", "arguments": ${args}}\n</tool_call>`;
const PARIS = `{"city":  "Paris", "days": [1, 2]}`;
const named = (calls) => calls.map(({ type, function: called }) => [type, called]);
const view = { imageOrientation: "from-image", imageColors: "display" };

/** Runs a request with a model that answers `raw` character by character. */
async function ask(params, raw = "Yes") {
  const asked = [];
  const usage = { promptTokens: 1, completionTokens: 1, reusedTokens: 0, imageTokens: 0, droppedTurns: 0 };
  const start = (prepare, options) => {
    asked.push({ prepare, options });
    // As the engine does.
    const text = options.constraint ? raw : raw.trim();
    const answer = { text, raw: text, objects: [], finishReason: params.reason ?? "stop", usage };
    return Object.assign(Promise.resolve(answer), {
      async *[Symbol.asyncIterator]() {
        for (const character of raw) yield { type: "text", delta: character, raw: character };
        yield { type: "done", answer };
      },
    });
  };
  const info = { source: "model", pictureTokens: { min: 4, max: 100 } };
  const { reason: _, ...request } = params;
  const reply = await createOpenAI({ info, start, imageView: view }).chat.completions.create(request);
  const chunks = [];
  if (params.stream) for await (const chunk of reply) chunks.push(chunk);
  const { prompt, pictures } = await asked[0].prepare();
  return { prompt, pictures, options: asked[0].options, choice: reply.choices?.[0], chunks };
}

test("tools are written as the published template writes them", async () => {
  const path = new URL("../../tests/fixtures/family/tokenizer/tools.json", import.meta.url);
  const { cases } = JSON.parse(await readFile(path, "utf8"));
  let count = 0;
  for (const { tools } of cases) {
    for (const text of tools ?? []) {
      assert.deepEqual(toolTexts([JSON.parse(text)]), [text]);
      count += 1;
    }
  }
  assert.ok(count >= 5, `${count} tools`);
});

test("calls are found wherever the answer is cut", () => {
  for (const [raw, text, calls] of [
    ["No call.", "No call.", []],
    [call("weather", PARIS), "", [["weather", PARIS]]],
    [`Let me see. \n${call("weather", PARIS)}`, "Let me see.", [["weather", PARIS]]],
    [
      `${call("a", "{}")}\n${call("b", `{"x": "}</tool"}`)}`,
      "",
      [
        ["a", "{}"],
        ["b", `{"x": "}</tool"}`],
      ],
    ],
    [`${call("a", "{}")}\n\nDone. `, "Done. ", [["a", "{}"]]],
    // Keys in another order, and a name with an escape: the arguments are written anew.
    [`<tool_call>{"arguments": {"b":1}, "name": "a"}</tool_call>`, "", [["a", `{"b": 1}`]]],
    [`<tool_call>{"name": "\\u0061", "arguments": {}}</tool_call>`, "", [["a", "{}"]]],
    // Malformed calls stay text.
    ["<tool_call>nothing</tool_call> x", "<tool_call>nothing</tool_call> x", []],
    [`<tool_call>{"name": 1, "arguments": {}}</tool_call>`, `<tool_call>{"name": 1, "arguments": {}}</tool_call>`, []],
    [`<tool_call>{"name": "a", "arguments": 1}</tool_call>`, `<tool_call>{"name": "a", "arguments": 1}</tool_call>`, []],
    ["a < b <tool", "a < b <tool", []],
    ['cut <tool_call>\n{"name": "a"', 'cut <tool_call>\n{"name": "a"', []],
    ["", "", []],
  ]) {
    for (const cuts of [[], ...Array.from(raw, (_, at) => [at]), [...Array.from(raw).keys()]]) {
      const reader = new CallReader();
      const found = [];
      let said = "";
      [0, ...cuts].forEach((from, index, all) => {
        const piece = reader.push(raw.slice(from, all[index + 1]));
        said += piece.text;
        found.push(...piece.calls);
      });
      said += reader.finish();
      assert.equal(said, text, `${raw} cut at ${cuts}`);
      assert.deepEqual(
        named(found),
        calls.map(([name, args]) => ["function", { name, arguments: args }]),
      );
    }
  }
});

test("an answer has its calls, and the conversation continues with their results", async () => {
  const raw = `I will look. \n${call("weather", PARIS)}`;
  const first = await ask({ messages: ASKED, tools: [WEATHER] }, raw);
  assert.deepEqual(first.prompt, {
    kind: "messages",
    messages: [{ role: "user", content: [{ text: "Weather?" }] }],
    tools: [
      `{"type": "function", "function": {"name": "weather", "description": "Météo", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}`,
    ],
  });
  const { message, finish_reason } = first.choice;
  assert.deepEqual([message.content, message.raw, finish_reason], ["I will look.", "I will look.", "tool_calls"]);
  assert.deepEqual(named(message.tool_calls), [["function", { name: "weather", arguments: PARIS }]]);
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: [{ type: "text", text: "Sun" }] };
  const system = { role: "system", content: "Be brief." };
  const second = await ask({ messages: [system, ...ASKED, message, result], tools: [WEATHER] });
  assert.deepEqual(second.prompt.messages, [
    { role: "system", content: [{ text: "Be brief." }] },
    { role: "user", content: [{ text: "Weather?" }] },
    { role: "assistant", content: [{ text: "I will look." }], tool_calls: [{ name: "weather", arguments: PARIS }] },
    { role: "tool", content: [{ text: "Sun" }] },
  ]);
  assert.deepEqual([second.choice.message.content, second.choice.finish_reason], ["Yes", "stop"]);
  assert.ok(!("tool_calls" in second.choice.message));
});

test("calls are streamed whole, and text before them at once", async () => {
  const raw = `Look:\n${call("weather", PARIS)}\n${call("clock", "{}")}`;
  const { chunks } = await ask({ messages: ASKED, tools: [WEATHER], stream: true }, raw);
  const deltas = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta));
  assert.equal(deltas.map(({ content = "" }) => content).join(""), "Look:");
  const calls = deltas.flatMap(({ tool_calls = [] }) => tool_calls);
  assert.deepEqual(
    calls.map(({ index, function: { name } }) => [index, name]),
    [
      [0, "weather"],
      [1, "clock"],
    ],
  );
  assert.notEqual(calls[0].id, calls[1].id);
  const last = chunks.at(-1).choices[0];
  assert.deepEqual([last.finish_reason, last.delta.raw], ["tool_calls", "Look:"]);
  const only = (await ask({ messages: ASKED, tools: [WEATHER] }, call("clock", "{}"))).choice;
  assert.deepEqual([only.message.content, only.finish_reason], [null, "tool_calls"]);
  const cut = await ask({ messages: ASKED, tools: [WEATHER], reason: "length" }, `${call("clock", "{}")} and <tool_call>{`);
  assert.equal(cut.choice.finish_reason, "length");
});

test("pictures keep their places, and options reach the run", async () => {
  const image = { type: "image_url", image_url: { url: "/a.png", detail: "low" } };
  const messages = [{ role: "user", content: [image, { type: "text", text: "What is it?" }] }];
  const { prompt, pictures, options } = await ask({ messages, tools: [WEATHER], temperature: 0, tool_choice: "auto" });
  assert.deepEqual(prompt.messages[0].content, [{ image: "picture-1" }, { text: "What is it?" }]);
  assert.equal(pictures.length, 1);
  assert.deepEqual(options, { maxPictureTokens: 100, temperature: 0 });
  pictures.forEach((picture) => picture.payload(true, {}).catch(() => undefined));
});

test("hidden tools are not described, but their calls are read", async () => {
  const message = {
    role: "assistant",
    content: null,
    tool_calls: [{ id: "1", type: "function", function: { name: "a", arguments: "{}" } }],
  };
  const result = { role: "tool", tool_call_id: "1", content: "Sun" };
  const response_format = { type: "json_object" };
  const request = { messages: [...ASKED, message, result], tools: [WEATHER], tool_choice: "none", response_format };
  const { prompt, options } = await ask(request);
  assert.deepEqual([prompt.tools, options], [[], { constraint: { jsonSchema: { type: "object" } } }]);
  assert.deepEqual(prompt.messages[1], { role: "assistant", content: [], tool_calls: [{ name: "a", arguments: "{}" }] });
});

test("an answer with a form keeps its white space, and one without is trimmed, after calls too", async () => {
  const message = {
    role: "assistant",
    content: null,
    tool_calls: [{ id: "1", type: "function", function: { name: "a", arguments: "{}" } }],
  };
  const messages = [...ASKED, message, { role: "tool", tool_call_id: "1", content: "Sun" }];
  const raw = `\n {"sky": "blue"} \n`;
  for (const [more, expected] of [
    [{ response_format: { type: "json_object" } }, raw],
    [{}, raw.trim()],
  ]) {
    const { choice } = await ask({ messages, ...more }, raw);
    assert.deepEqual([choice.message.content, choice.message.raw], [expected, expected]);
    const { chunks } = await ask({ messages, stream: true, ...more }, raw);
    const deltas = chunks.map(({ choices }) => choices[0].delta);
    assert.equal(deltas.map(({ content = "" }) => content).join(""), raw);
    assert.equal(deltas.at(-1).raw, expected);
  }
});

test("what is wrong is named", async () => {
  const answer = (tool_calls) => ({ role: "assistant", content: null, tool_calls });
  const wrong = [
    [{ tools: "x" }, /`tools` is "x", expected an array of tools/],
    [{ tools: [{}] }, /`tools\[0\]\.type` is undefined, expected "function"/],
    [{ tools: [{ type: "function" }] }, /`tools\[0\]\.function` is undefined/],
    [{ tools: [{ type: "function", function: { name: 1 } }] }, /`tools\[0\]\.function\.name` is 1/],
    [{ tools: [{ type: "function", function: { name: "a", parameters: 1 } }] }, /function\.parameters` is 1/],
    [{ tools: [{ type: "function", function: { name: "a", strict: true } }] }, /function\.strict` is not possible/],
    [{ tools: [WEATHER], parallel_tool_calls: false }, /`parallel_tool_calls: false` is not possible/],
    [{ tools: [WEATHER], response_format: { type: "json_object" } }, /`response_format` is not possible with `tools`/],
    [{ tools: [WEATHER], tool_choice: "required" }, /`tool_choice` is not possible/],
    [{ messages: [{ role: "tool", content: "A" }] }, /`messages\[0\]\.tool_call_id` is undefined, expected the `id` of a call before it/],
    [{ messages: [...ASKED, answer([{ id: "1" }]), ...ASKED] }, /messages\[1\]\.tool_calls\[0\]\.function` is undefined/],
    [{ messages: [...ASKED, answer([{ id: 1 }]), ...ASKED] }, /messages\[1\]\.tool_calls\[0\]\.id` is 1/],
    [{ tools: [WEATHER], messages: [...ASKED, { role: "assistant", content: "A" }] }, /last message must be of the role `user` or `tool`/],
    [
      { tools: [WEATHER], messages: [...ASKED, { role: "system", content: "A" }, ...ASKED] },
      /messages\[1\]: a system message can only be the first/,
    ],
  ];
  for (const [params, message] of wrong)
    await assert.rejects(ask({ messages: ASKED, ...params }), { name: "QwenVLError", code: "INVALID_ARGUMENT", message });
});
