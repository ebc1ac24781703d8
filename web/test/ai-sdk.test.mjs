// The provider for the AI SDK: what calls become, what the model's answers become, and what is refused. Runs in Node with a model that records
// what it is asked.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { createQwenVL } from "../dist/ai-sdk.js";
import { Run } from "../dist/api/run.js";

const user = (...content) => ({
  role: "user",
  content: content.map((part) => (typeof part === "string" ? { type: "text", text: part } : part)),
});
const assistant = (...content) => ({ ...user(...content), role: "assistant" });
const system = (content) => ({ role: "system", content });
const file = (data, mediaType = "image/png") => ({ type: "file", data, mediaType });
const bytes = (data) => ({ type: "data", data });
const view = { imageOrientation: "from-image", imageColors: "display" };
const USED = { promptTokens: 9, completionTokens: 3, reusedTokens: 4, imageTokens: 0, droppedTurns: 0 };
const TIMINGS = { encodeMs: 1, prefillMs: 2, firstTokenMs: 3, decodeMs: 4, decodeTokensPerSecond: 5 };
const BOX = { ref: "cat", kind: "box", norm: [1, 2, 3, 4], range: [0, 3] };
const WEATHER = {
  type: "function",
  name: "weather",
  description: "Weather of a city",
  inputSchema: { $schema: "http://json-schema.org/draft-07/schema#", type: "object", properties: { city: { type: "string" } } },
};
const call = (name, args) => `<tool_call>\n{"name": "${name}", "arguments": ${args}}\n</tool_call>`;

const texts = (...deltas) => deltas.map((delta) => ({ type: "text", delta, raw: delta }));
const whole = (answer = {}) => ({ text: "Yes", raw: "Yes", objects: [], finishReason: "stop", usage: USED, timings: TIMINGS, ...answer });

/** An answer of these pieces, trimmed as the engine does. */
const spoken = (...pieces) => ({
  events: texts(...pieces),
  answer({ constraint, prefix }) {
    const said = pieces.join("");
    const raw = constraint ? said : prefix === undefined ? said.trim() : said.trimEnd();
    return whole({ text: raw, raw });
  },
});

/**
 * A loaded model whose runs emit `events`, and then fail with `error`, answer, or with `waits` last until they are aborted or cancelled.
 *
 * @returns the model, and what it was asked: `{ session, question }`, or `{ prepare }` with tools, each with `options`
 */
function fake({ family = "qwen3_vl", answer: given = whole(), events = texts(given.text), error, waits = false } = {}) {
  const asked = [];
  const run = ({ signal, ...options }) =>
    new Run((emit) => {
      const answer = typeof given === "function" ? given(options) : given;
      events.forEach(emit);
      const asking = asked.at(-1);
      let cancel;
      const ended = new Promise((resolve, reject) => {
        cancel = () => {
          asking.cancelled = true;
          resolve(answer);
        };
        signal?.addEventListener("abort", () => reject(signal.reason));
        if (error) reject(error);
        else if (!waits) resolve(answer);
      });
      return { answer: ended, cancel };
    });
  const model = {
    info: { source: "cat-model", family, pictureTokens: { min: 4, max: 100 } },
    imageView: view,
    createSession: (session) => ({
      ask: (question, options) => {
        asked.push({ session, question, options });
        return run(options);
      },
    }),
    start: (prepare, options) => {
      asked.push({ prepare, options });
      return run(options);
    },
  };
  return { model, asked };
}

/** Runs `doGenerate` with the options of a call. */
async function generate(options, answers) {
  const { model, asked } = fake(answers);
  const result = await createQwenVL(model)().doGenerate({ prompt: [user("A")], ...options });
  return { result, asked: asked[0], ...(await asked[0].prepare?.()) };
}

/** Runs `doStream` with the options of a call, and collects the parts. */
async function stream(options, answers) {
  const { model, asked } = fake(answers);
  const { stream } = await createQwenVL(model)().doStream({ prompt: [user("A")], ...options });
  const parts = [];
  for await (const part of stream) parts.push(part);
  return { parts, asked: asked[0] };
}

const refused = (options, message) => assert.rejects(generate(options), { name: "QwenVLError", code: "INVALID_ARGUMENT", message });

test("a provider has one model, under its name", () => {
  const { model } = fake();
  const provider = createQwenVL(model);
  for (const made of [provider(), provider("cat-model"), provider.languageModel(), createQwenVL(model, { name: "cat-model" })()]) {
    assert.deepEqual([made.specificationVersion, made.provider, made.modelId], ["v4", "qwenVL", "cat-model"]);
  }
  assert.equal(createQwenVL(model, { name: "mine" })("mine").modelId, "mine");
  assert.throws(() => provider("gpt"), { code: "INVALID_ARGUMENT", message: /`modelId` is "gpt", expected "cat-model" or none/ });
  assert.throws(() => provider.embeddingModel("x"), { code: "INVALID_ARGUMENT", message: /makes no embeddings/ });
  assert.throws(() => provider.imageModel("x"), { code: "INVALID_ARGUMENT", message: /makes no images/ });
});

test("addresses of pictures are not downloaded by the AI SDK", () => {
  const { "image/*": patterns } = createQwenVL(fake().model)().supportedUrls;
  const supports = (url) => patterns.some((pattern) => pattern.test(url));
  for (const url of ["https://a.b/c.png", "http://a.b/c", "blob:https://a.b/1", "data:image/png;base64,AA=="])
    assert.ok(supports(url), url);
  assert.ok(!supports("ftp://a.b/c.png"));
});

test("messages become a system text, turns and a question", async () => {
  const { asked } = await generate({ prompt: [system("Be brief."), system("Be kind."), user("A"), assistant("B"), user("C", "D")] });
  assert.deepEqual(asked.session, {
    system: "Be brief.\nBe kind.",
    history: [
      { role: "user", content: ["A"] },
      { role: "assistant", content: "B" },
    ],
  });
  assert.deepEqual(asked.question, ["C", "D"]);
});

test("the model reads an answer that is sent back with its markup", async () => {
  const answer = whole({ text: "cat", raw: "<ref>cat</ref><box>(1,2),(3,4)</box>", objects: [BOX] });
  const { result } = await generate({}, { answer });
  const [part] = result.content;
  assert.deepEqual(part, { type: "text", text: "cat", providerMetadata: { qwenVL: { objects: [BOX], raw: answer.raw } } });
  // The AI SDK passes metadata of an answer as options of the message.
  const { type, text, providerMetadata } = part;
  const back = {
    role: "assistant",
    content: [
      { type: "reasoning", text: "Hm." },
      { type, text, providerOptions: providerMetadata },
    ],
  };
  const { asked } = await generate({ prompt: [user("A"), back, user("B")] });
  assert.deepEqual(asked.session.history[1], { role: "assistant", content: answer.raw });
});

test("an answer at the end is the beginning of the next", async () => {
  const { asked } = await generate({ prompt: [user("A"), assistant("It is")] });
  assert.deepEqual([asked.question, asked.options], [["A"], { prefix: "It is" }]);
  assert.deepEqual((await generate({ prompt: [user("A"), assistant()] })).asked.options, {});
  // The white space between them is kept.
  const answers = spoken(" a", " cat. ");
  const call = { prompt: [user("A"), assistant("It is")] };
  assert.equal((await generate(call, answers)).result.content[0].text, " a cat.");
  assert.equal((await stream(call, answers)).parts.map(({ delta = "" }) => delta).join(""), " a cat. ");
  assert.equal((await generate({}, answers)).result.content[0].text, "a cat.");
});

test("an answer can come first, after an empty question, and answers in a row are joined", async () => {
  for (const [prompt, first, history, question, prefix] of [
    [[assistant("Hello."), user("A")], undefined, [[[], "Hello."]], ["A"]],
    [[system("S"), system("T"), assistant("Hello."), assistant("Ask me."), user("A")], "S\nT", [[[], "Hello.\nAsk me."]], ["A"]],
    [[user("A"), assistant("B"), assistant("C"), user("D")], undefined, [[["A"], "B\nC"]], ["D"]],
    [[user("A"), assistant("B"), assistant("C")], undefined, [], ["A"], "B\nC"],
    [[user("A"), assistant("B"), assistant()], undefined, [], ["A"], "B"],
    [[system("S"), assistant("It is")], "S", [], [], "It is"],
  ]) {
    const { asked } = await generate({ prompt });
    const turns = history.flatMap(([content, said]) => [
      { role: "user", content },
      { role: "assistant", content: said },
    ]);
    assert.deepEqual(asked.session, { history: turns, ...(first === undefined ? {} : { system: first }) });
    assert.deepEqual([asked.question, asked.options], [question, prefix === undefined ? {} : { prefix }]);
  }
  const { prompt, asked } = await generate({ tools: [WEATHER], prompt: [assistant("Hello."), user("A"), assistant("B"), assistant("C")] });
  assert.deepEqual(
    prompt.messages.map(({ role, content }) => [role, content.map(({ text }) => text)]),
    [
      ["user", []],
      ["assistant", ["Hello."]],
      ["user", ["A"]],
    ],
  );
  assert.equal(asked.options.prefix, "B\nC");
});

test("files are pictures: bytes, base64 and addresses", async () => {
  const png = new Uint8Array([0x89, 0x50]);
  const url = new URL("https://example.org/cat.png");
  for (const [part, image] of [
    [file(bytes(png)), png],
    [file(bytes("iVBORw0KGgo=")), "data:image/png;base64,iVBORw0KGgo="],
    [file(bytes("iVBORw0KGgo="), "image"), "data:image;base64,iVBORw0KGgo="],
    [file({ type: "url", url }, "image/*"), url],
  ]) {
    assert.deepEqual((await generate({ prompt: [user("What?", part)] })).asked.question, ["What?", { image }]);
  }
  const note = file({ type: "text", text: "a note" }, "text/plain");
  assert.deepEqual((await generate({ prompt: [user("What?", note)] })).asked.question, ["What?", "a note"]);
});

test("messages that the model cannot read are refused by their place", async () => {
  for (const [prompt, message] of [
    [
      [user(file(bytes("JVBER"), "application/pdf"))],
      /`prompt\[0\]\.content\[0\]\.mediaType` is "application\/pdf", expected a type of pictures/,
    ],
    [[user("A"), assistant("B"), user(file(bytes(""), "video/mp4"))], /`prompt\[2\]\.content\[0\]\.mediaType` is "video\/mp4"/],
    [[user(file({ type: "reference", reference: { openai: "x" } }))], /`prompt\[0\]\.content\[0\]\.data` is a reference/],
    [[user("A"), assistant(file(bytes(""))), user("B")], /`prompt\[1\]\.content\[0\]` is a file, expected text or a call/],
    [[user("A"), system("S"), user("B")], /messages\[1\]: a system message can only be at the beginning/],
    [[system("S")], /the last message must be of the role `user`/],
  ]) {
    await refused({ prompt }, message);
  }
});

test("settings become options of the run", async () => {
  const { asked, result } = await generate({
    maxOutputTokens: 5,
    temperature: 0,
    topP: 0.5,
    topK: 3,
    presencePenalty: 1.5,
    stopSequences: ["x"],
    seed: 7,
    frequencyPenalty: undefined,
    reasoning: "provider-default",
    toolChoice: { type: "auto" },
    headers: { a: "b" },
    providerOptions: { openai: { user: "u" }, qwenVL: { repetitionPenalty: 1.1, maxPictureTokens: 50 } },
  });
  assert.deepEqual(asked.options, {
    ...{ maxTokens: 5, temperature: 0, topP: 0.5, topK: 3, presencePenalty: 1.5, stop: ["x"], seed: 7 },
    ...{ repetitionPenalty: 1.1, maxPictureTokens: 50 },
  });
  assert.deepEqual(result.warnings, []);
  assert.deepEqual((await generate({})).asked.options, {});
});

test("a JSON schema constrains the answer, which keeps what looks like objects", async () => {
  const schema = { type: "object", properties: { bbox_2d: { type: "array" } } };
  const raw = '{"bbox_2d": [1, 2, 3, 4]}';
  const answers = { events: [{ type: "text", delta: "", raw: raw.slice(0, 8) }], answer: whole({ text: "", raw, objects: [BOX] }) };
  const { asked, result } = await generate({ responseFormat: { type: "json", schema, name: "box" } }, answers);
  assert.deepEqual(asked.options, { constraint: { jsonSchema: schema } });
  assert.equal(result.content[0].text, raw);
  const { parts } = await stream({ responseFormat: { type: "json" } }, answers);
  assert.equal(parts.map(({ delta = "" }) => delta).join(""), raw);
  assert.deepEqual((await generate({ responseFormat: { type: "json" } })).asked.options, {
    constraint: { jsonSchema: { type: "object" } },
  });
  assert.deepEqual((await generate({ responseFormat: { type: "text" } })).asked.options, {});
});

test("a constraint of the options constrains the answer, which keeps markup and white space", async () => {
  const constraint = { lark: 'start: " " /.+/ "\\n"' };
  const providerOptions = { qwenVL: { constraint } };
  const raw = " <ref>cat</ref>\n";
  const answers = {
    events: [
      { type: "text", delta: " ", raw: " <re" },
      { type: "text", delta: "cat", raw: raw.slice(4, -7) },
    ],
    answer: whole({ text: " cat\n", raw }),
  };
  for (const more of [{}, { prompt: [user("A"), assistant("It is")] }, { tools: [WEATHER] }]) {
    const { asked, result } = await generate({ providerOptions, ...more }, answers);
    assert.deepEqual(asked.options.constraint, constraint);
    const [{ text, providerMetadata }] = result.content;
    assert.deepEqual([text, providerMetadata.qwenVL.raw], [raw, raw]);
    const { parts } = await stream({ providerOptions, ...more }, answers);
    assert.equal(parts.map(({ delta = "" }) => delta).join(""), raw);
    assert.equal(parts.at(-2).providerMetadata.qwenVL.raw, raw);
  }
  // A form that is white space alone.
  const { parts } = await stream({ providerOptions }, spoken("\n", "\n"));
  assert.equal(parts.map(({ delta = "" }) => delta).join(""), "\n\n");
  // Without a form, and with tools, the answer is trimmed where it begins.
  const call = { tools: [WEATHER], prompt: [user("A"), assistant("It is")] };
  const { result } = await generate(call, spoken(" a", " cat. "));
  const [{ text, providerMetadata }] = result.content;
  assert.deepEqual([text, providerMetadata.qwenVL.raw], [" a cat.", " a cat."]);
  assert.equal((await generate({ tools: [WEATHER] }, spoken(" a", " cat. "))).result.content[0].text, "a cat.");
});

test("settings that cannot be followed become warnings", async () => {
  const features = async (options, answers) => {
    const { result } = await generate(options, answers);
    const { parts } = await stream(options, answers);
    assert.deepEqual(parts[0], { type: "stream-start", warnings: result.warnings });
    for (const { type, details } of result.warnings) assert.ok(type === "unsupported" && details);
    return result.warnings.map(({ feature }) => feature);
  };
  assert.deepEqual(await features({ frequencyPenalty: 1, reasoning: "high" }), ["frequencyPenalty", "reasoning"]);
  assert.deepEqual(await features({ reasoning: "none", frequencyPenalty: 0 }), []);
  assert.deepEqual(await features({ tools: [WEATHER] }, { family: "qwen2_5_vl" }), ["tools"]);
  assert.deepEqual(await features({ tools: [WEATHER], toolChoice: { type: "required" } }), ["toolChoice"]);
  assert.deepEqual(await features({ tools: [WEATHER], toolChoice: { type: "tool", toolName: "weather" } }), ["toolChoice"]);
  const search = { type: "provider", id: "openai.web_search", name: "search", args: {} };
  assert.deepEqual(await features({ tools: [search, { ...WEATHER, strict: true }] }), [
    "provider-defined tool openai.web_search",
    "strict of the tool weather",
  ]);
  const json = { type: "json", schema: { type: "object" } };
  assert.deepEqual(await features({ tools: [WEATHER], responseFormat: json }), ["responseFormat"]);
  const { asked } = await generate({ tools: [WEATHER], responseFormat: json });
  assert.deepEqual(asked.options, {});
});

test("an answer has its text, usage and metadata", async () => {
  const logprobs = [{ token: 1, text: "Yes", logprob: -0.5, top: [] }];
  const { result } = await generate({ providerOptions: { qwenVL: { logprobs: true } } }, { answer: whole({ objects: [BOX], logprobs }) });
  const { content, finishReason, usage, providerMetadata, response } = result;
  assert.deepEqual(content, [{ type: "text", text: "Yes", providerMetadata: { qwenVL: { objects: [BOX], raw: "Yes" } } }]);
  assert.deepEqual(finishReason, { unified: "stop", raw: "stop" });
  assert.deepEqual(usage.inputTokens, { total: 9, noCache: 5, cacheRead: 4, cacheWrite: undefined });
  assert.deepEqual(usage.outputTokens, { total: 3, text: 3, reasoning: undefined });
  assert.deepEqual(usage.raw, USED);
  assert.deepEqual(providerMetadata, { qwenVL: { objects: [BOX], timings: TIMINGS, logprobs } });
  assert.ok(response.modelId === "cat-model" && response.timestamp instanceof Date);
});

test("an answer without text is empty text", async () => {
  const answer = whole({ text: "", raw: "" });
  assert.deepEqual(
    (await generate({}, { answer })).result.content.map(({ type, text }) => [type, text]),
    [["text", ""]],
  );
});

test("reasons of the end", async () => {
  for (const [raw, unified] of [
    ["stop", "stop"],
    ["stop-string", "stop"],
    ["length", "length"],
    ["context", "length"],
    ["loop", "other"],
    ["cancelled", "other"],
  ]) {
    assert.deepEqual((await generate({}, { answer: whole({ finishReason: raw }) })).result.finishReason, { unified, raw });
  }
});

test("a stream has its parts in order, and objects as they are found", async () => {
  const events = [{ type: "encode", done: 1, total: 1 }, ...texts(" ", " A cat"), { type: "object", object: BOX }, ...texts(" sits.")];
  const answer = whole({ text: "A cat sits.", raw: "A <ref>cat</ref> sits.", objects: [BOX] });
  const { parts } = await stream({}, { events, answer });
  const { timestamp, ...response } = parts[1];
  assert.ok(timestamp instanceof Date);
  const finish = parts.at(-1);
  assert.deepEqual(
    [parts[0], response, ...parts.slice(2, -1)],
    [
      { type: "stream-start", warnings: [] },
      { type: "response-metadata", modelId: "cat-model" },
      { type: "text-start", id: "0" },
      { type: "text-delta", id: "0", delta: "A cat" },
      { type: "text-delta", id: "0", delta: "", providerMetadata: { qwenVL: { objects: [BOX] } } },
      { type: "text-delta", id: "0", delta: " sits." },
      { type: "text-end", id: "0", providerMetadata: { qwenVL: { objects: [BOX], raw: answer.raw } } },
    ],
  );
  assert.deepEqual([finish.type, finish.finishReason.unified, finish.usage.outputTokens.total], ["finish", "stop", 3]);
  assert.deepEqual(finish.providerMetadata, { qwenVL: { objects: [BOX], timings: TIMINGS } });
});

test("calls of tools, and the conversation with their results", async () => {
  const raw = `Let me see. \n${call("weather", '{"city":  "Paris"}')}`;
  const answers = { events: texts(...raw), answer: whole({ text: raw, raw }) };
  const { result, prompt } = await generate({ tools: [WEATHER], prompt: [system("S"), user("Weather?")] }, answers);
  assert.deepEqual(prompt, {
    kind: "messages",
    messages: [
      { role: "system", content: [{ text: "S" }] },
      { role: "user", content: [{ text: "Weather?" }] },
    ],
    tools: [
      `{"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}`,
    ],
  });
  const [said, { toolCallId, ...called }] = result.content;
  assert.deepEqual([said.text, said.providerMetadata.qwenVL.raw], ["Let me see.", "Let me see."]);
  assert.deepEqual(called, { type: "tool-call", toolName: "weather", input: '{"city":  "Paris"}' });
  assert.deepEqual(result.finishReason, { unified: "tool-calls", raw: "stop" });

  const outputs = [
    [{ type: "text", value: "Sun" }, "Sun"],
    [{ type: "error-text", value: "No such city" }, "No such city"],
    [{ type: "json", value: { sky: "blue", at: [1, 2] } }, '{"sky": "blue", "at": [1, 2]}'],
    [{ type: "execution-denied", reason: "Not now" }, "Not now"],
    [{ type: "execution-denied" }, "The user has denied the call."],
    [
      {
        type: "content",
        value: [
          { type: "text", text: "Sun" },
          { type: "text", text: "Wind" },
        ],
      },
      "Sun\nWind",
    ],
  ];
  const asked = assistant("Let me see.", { type: "tool-call", toolCallId, toolName: "weather", input: { city: "Paris" } });
  const results = (output) => ({ role: "tool", content: [{ type: "tool-result", toolCallId, toolName: "weather", output }] });
  for (const [output, text] of outputs) {
    const { prompt } = await generate({ tools: [WEATHER], prompt: [user("Weather?"), asked, results(output)] });
    assert.deepEqual(prompt.messages.slice(1), [
      { role: "assistant", content: [{ text: "Let me see." }], tool_calls: [{ name: "weather", arguments: '{"city": "Paris"}' }] },
      { role: "tool", content: [{ text }] },
    ]);
  }
  const picture = { type: "content", value: [file(bytes(""))] };
  await refused(
    { prompt: [user("W"), asked, results(picture)] },
    /`prompt\[2\]\.content\[0\]\.output\.value\[0\]` is a file, expected text/,
  );
  const hidden = await generate({ tools: [WEATHER], toolChoice: { type: "none" }, prompt: [user("W"), asked, results(outputs[0][0])] });
  assert.deepEqual(hidden.prompt.tools, []);
});

test("calls are streamed whole, within the text", async () => {
  const raw = `Look:\n${call("weather", '{"city": "Paris"}')}\n${call("clock", "{}")}`;
  const answers = { events: texts(...raw), answer: whole({ text: raw, raw }) };
  const { parts } = await stream({ tools: [WEATHER] }, answers);
  const ids = parts.filter(({ type }) => type === "tool-call").map(({ toolCallId }) => toolCallId);
  assert.equal(new Set(ids).size, 2);
  const calls = [
    ["weather", '{"city": "Paris"}', ids[0]],
    ["clock", "{}", ids[1]],
  ];
  assert.equal(parts.map(({ type, delta = "" }) => (type === "text-delta" ? delta : "")).join(""), "Look:");
  assert.deepEqual(
    parts.filter(({ type }) => type.startsWith("tool")),
    calls.flatMap(([toolName, input, id]) => [
      { type: "tool-input-start", id, toolName },
      { type: "tool-input-delta", id, delta: input },
      { type: "tool-input-end", id },
      { type: "tool-call", toolCallId: id, toolName, input },
    ]),
  );
  const [end, finish] = parts.slice(-2);
  assert.deepEqual([end.type, end.providerMetadata.qwenVL.raw], ["text-end", "Look:"]);
  assert.deepEqual(finish.finishReason, { unified: "tool-calls", raw: "stop" });
  const only = call("clock", "{}");
  const alone = await stream({ tools: [WEATHER] }, { events: texts(...only), answer: whole({ text: only, raw: only }) });
  assert.ok(alone.parts.every(({ type }) => !type.startsWith("text")));
  const { result } = await generate({ tools: [WEATHER] }, { answer: whole({ text: only, raw: only }) });
  assert.deepEqual(
    result.content.map(({ type }) => type),
    ["tool-call"],
  );
});

test("an aborted call rejects with the signal's reason, and a stream fails with it", async () => {
  const started = new AbortController();
  const generated = generate({ abortSignal: started.signal }, { waits: true });
  const { model } = fake({ waits: true });
  const { stream } = await createQwenVL(model)().doStream({ prompt: [user("A")], abortSignal: started.signal });
  const reader = stream.getReader();
  const types = [];
  for (let at = 0; at < 4; at += 1) types.push((await reader.read()).value.type);
  assert.deepEqual(types, ["stream-start", "response-metadata", "text-start", "text-delta"]);
  const reason = new Error("enough");
  started.abort(reason);
  await assert.rejects(generated, reason);
  await assert.rejects(reader.read(), reason);
});

test("a stream that is cancelled ends its run", async () => {
  const { model, asked } = fake({ waits: true });
  const { stream } = await createQwenVL(model)().doStream({ prompt: [user("A")] });
  const reader = stream.getReader();
  for (let at = 0; at < 3; at += 1) await reader.read();
  assert.ok(!asked[0].cancelled);
  await reader.cancel();
  assert.ok(asked[0].cancelled);
});

test("a run that fails is an error of the call, and a part of a stream", async () => {
  const error = new Error("the device is lost");
  await assert.rejects(generate({}, { error }), error);
  const { parts } = await stream({}, { error });
  const [failed, finish] = parts.slice(-2);
  assert.deepEqual(failed, { type: "error", error });
  assert.deepEqual([finish.type, finish.finishReason.unified, finish.usage.inputTokens.total], ["finish", "error", undefined]);
});

test("the README's page of Next disposes of its model when it is left, also of one that arrives later", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const [, effect] = /useEffect\(\(\) => \{\n([\s\S]*?)\n {2}\}, \[\]\);/.exec(readme);
  const names = ["QwenVL", "setTransport", "DirectChatTransport", "ToolLoopAgent", "createQwenVL", "console"];
  const run = new Function(...names, effect);
  const loaded = { dispose: async () => void (loaded.disposed = true) };
  for (const leavesEarly of [false, true]) {
    loaded.disposed = false;
    let [shown, arrive] = [];
    const QwenVL = { load: () => new Promise((resolve) => (arrive = resolve)) };
    const leave = run(
      QwenVL,
      (transport) => (shown = transport),
      Object,
      Object,
      () => () => loaded,
    );
    if (leavesEarly) leave();
    arrive(loaded);
    await new Promise((resolve) => setTimeout(resolve));
    assert.deepEqual([shown !== undefined, loaded.disposed], [true, leavesEarly]);
    if (!leavesEarly) leave();
    await new Promise((resolve) => setTimeout(resolve));
    assert.ok(loaded.disposed);
  }
  // A load that fails because the page was left is not reported.
  const load = ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const reported = [];
  run({ load }, ...Array(4), { error: (error) => reported.push(error) })();
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(reported, []);
});
