// Requests in OpenAI's form: what they become, and what is refused. Runs in Node with a model that records what it is asked.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "../dist/openai.js";

const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
const picture = (url) => user([{ type: "image_url", image_url: url }]);
const logprobs = [{ token: 1, text: "Yes", logprob: -0.5, top: [] }];

/** Answers every question with "Yes", written as `raw`, and returns what the model was asked. */
async function ask(params, raw = "Yes") {
  const asked = [];
  const usage = { promptTokens: 1, completionTokens: 1, reusedTokens: 0, imageTokens: 0, droppedTurns: 0 };
  const answer = { text: "Yes", raw, objects: [], finishReason: "stop", usage, ...(params.logprobs ? { logprobs } : {}) };
  const run = Object.assign(Promise.resolve(answer), {
    async *[Symbol.asyncIterator]() {
      yield { type: "text", delta: "Yes", raw: "Yes" };
      yield { type: "done", answer };
    },
  });
  const createSession = (session) => ({ ask: (question, options) => (asked.push({ ...session, question, options }), run) });
  const { chat } = createOpenAI({ info: { source: "model", pictureTokens: { min: 4, max: 100 } }, createSession });
  const reply = await chat.completions.create(params);
  const chunks = [];
  if (params.stream) for await (const chunk of reply) chunks.push(chunk);
  return { ...asked[0], reply, chunks };
}

const refused = (params, message) => assert.rejects(ask(params), { name: "QwenVLError", code: "INVALID_ARGUMENT", message });

test("messages become a system text, turns and a question", async () => {
  const { system, history, question } = await ask({
    messages: [
      { role: "system", content: "Be brief." },
      { role: "developer", content: [{ type: "text", text: "Be kind." }] },
      user("A"),
      assistant("B"),
      user("C"),
    ],
  });
  assert.equal(system, "Be brief.\nBe kind.");
  assert.deepEqual([history, question], [[user(["A"]), assistant("B")], ["C"]]);
});

test("messages of one role in a row are joined", async () => {
  const messages = [user("A"), picture({ url: "/a.png" }), user("B"), assistant("C"), assistant("D"), user("E"), user("F")];
  const { history, question } = await ask({ messages });
  assert.deepEqual(history, [user(["A", "\n", { image: "/a.png" }, "B"]), assistant("C\nD")]);
  assert.deepEqual(question, ["E", "\n", "F"]);
});

test("a picture is an object with `url`, with `detail`, or a string", async () => {
  const blob = new Blob(["x"]);
  for (const [image, expected] of [
    [{ url: "/a.png" }, "/a.png"],
    [{ url: "/a.png", detail: "low" }, "/a.png"],
    [{ url: blob }, blob],
    ["data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,iVBORw0KGgo="],
  ]) {
    assert.deepEqual((await ask({ messages: [picture(image)] })).question, [{ image: expected }]);
  }
});

test("low detail limits the pictures, if all have it", async () => {
  const image = (detail) => picture({ url: "/a.png", ...(detail === undefined ? {} : { detail }) });
  const limits = async (...messages) => (await ask({ messages })).options;
  // The model was loaded with less than the 256 tokens of low detail.
  assert.deepEqual(await limits(image("low")), { maxPictureTokens: 100 });
  assert.deepEqual(await limits(image("low"), assistant("A"), user("B")), { maxPictureTokens: 100 });
  for (const other of ["high", "auto", undefined]) assert.deepEqual(await limits(image("low"), assistant("A"), image(other)), {});
  await refused({ messages: [image("medium")] }, /image_url\.detail` is "medium", expected "auto" or "low" or "high"/);
});

test("a picture in another shape is refused, by its place", async () => {
  const expected = "expected \\{ url \\} with an address or a picture";
  for (const [image, message] of [
    [undefined, `\`messages\\[1\\]\\.content\\[0\\]\\.image_url\` is undefined, ${expected}`],
    [null, `image_url\` is null, ${expected}`],
    [{}, `image_url\\.url\` is undefined, ${expected}`],
    [{ url: 5 }, "messages\\[1\\]\\.content\\[0\\]\\.image_url\\.url` is 5, expected an address, a Blob"],
    [["/a.png"], "image_url` is .*, expected an address, a Blob"],
    [{ url: { href: "/a.png" } }, "image_url\\.url` is .*, expected an address, a Blob"],
  ]) {
    await refused({ messages: [{ role: "system", content: "S" }, picture(image)] }, new RegExp(message));
  }
});

test("bare base64 is refused with the missing beginning and not echoed", async () => {
  for (const [begins, type] of [
    ["iVBORw0KGgo", "image/png"],
    ["/9j/", "image/jpeg"],
    ["R0lGOD", "image/gif"],
    ["UklGR", "image/webp"],
    ["Qk0", "image/png"],
  ]) {
    const base64 = begins + "Abc+/9".repeat(50_000);
    await refused(
      { messages: [picture({ url: base64 })] },
      new RegExp(`^.{0,80} is base64 without an address: put \`data:${type};base64,\` before it$`),
    );
    await refused({ messages: [picture(base64)] }, /messages\[0\]\.content\[0\]\.image_url` is base64/);
  }
  for (const address of ["/9j/photos/a", "iVBORw0KGgo", `/p/${"a".repeat(500)}`, `https://example.org/${"a".repeat(5000)}`]) {
    assert.deepEqual((await ask({ messages: [picture({ url: address })] })).question, [{ image: address }]);
  }
});

test("parameters become options; null and empty values are absent", async () => {
  const { options } = await ask({
    messages: [user("A")],
    ...{
      model: "any",
      temperature: 0.5,
      top_p: 0.9,
      seed: 3,
      stop: ["x"],
      max_completion_tokens: 9,
      repetition_penalty: 1.1,
      presence_penalty: 1.5,
      logprobs: true,
      top_logprobs: 2,
    },
    ...{
      tools: [],
      tool_choice: "none",
      logit_bias: {},
      frequency_penalty: null,
      parallel_tool_calls: false,
      n: 1,
      user: "u",
      store: true,
    },
    ...{ response_format: { type: "text" }, stream: null },
  });
  const sampling = { maxTokens: 9, temperature: 0.5, topP: 0.9, seed: 3, stop: ["x"], logprobs: 2 };
  assert.deepEqual(options, { ...sampling, repetitionPenalty: 1.1, presencePenalty: 1.5 });
  assert.deepEqual((await ask({ messages: [user("A")], temperature: null, max_tokens: null, stop: null })).options, {});
  assert.deepEqual((await ask({ messages: [user("A")], temperature: 0 })).options, { temperature: 0 });
});

test("an answer that is sent back as it came is accepted", async () => {
  const { reply } = await ask({ messages: [user("A")] });
  const { history } = await ask({ messages: [user("A"), reply.choices[0].message, user("B")] });
  assert.deepEqual(history, [user(["A"]), assistant("Yes")]);
});

test("an answer is sent back with its markup of objects", async () => {
  const raw = 'Yes [{"bbox_2d": [1, 2, 3, 4]}]';
  const { message } = (await ask({ messages: [user("A")] }, raw)).reply.choices[0];
  assert.deepEqual([message.content, message.raw], ["Yes", raw]);
  const { chunks } = await ask({ messages: [user("A")], stream: true }, raw);
  const streamed = Object.assign({}, ...chunks.map(({ choices }) => choices[0].delta));
  for (const answer of [message, { ...assistant("Yes"), raw: streamed.raw }]) {
    const { history } = await ask({ messages: [user("A"), answer, user("B")] });
    assert.deepEqual(history, [user(["A"]), assistant(raw)]);
  }
});

test("nothing is ignored: what cannot be followed is refused by name", async () => {
  const messages = [user("A")];
  for (const [params, message] of [
    [{ messages, tool_choice: "required" }, /`tool_choice` is not possible/],
    [{ messages, n: 2 }, /`n` is 2, expected 1/],
    [{ messages, response_format: "json_object" }, /`response_format` is "json_object", expected an object/],
    [{ messages, response_format: {} }, /`response_format\.type` is undefined, expected "text" or "json_object" or "json_schema"/],
    [{ messages, response_format: { type: "xml" } }, /`response_format\.type` is "xml"/],
    [{ messages, response_format: { type: "json_schema" } }, /`response_format\.json_schema` is undefined, expected an object/],
    [
      { messages, response_format: { type: "json_schema", json_schema: { name: "a", schema: "b" } } },
      /`response_format\.json_schema\.schema` is "b", expected an object/,
    ],
    [{ messages, temperature: "0.8" }, /`temperature` is "0.8", expected a number/],
    [{ messages, temperature: NaN }, /`temperature` is NaN, expected a number/],
    [{ messages, max_tokens: 0 }, /`max_tokens` is 0, expected a whole number from 1/],
    [{ messages, max_tokens: 5, max_completion_tokens: 6 }, /give one of them/],
    [{ messages, top_logprobs: 2 }, /`top_logprobs` needs `logprobs: true`/],
    [{ messages, stream_options: { include_usage: true } }, /`stream_options` needs `stream: true`/],
    [{ messages, stop: [1] }, /`stop` is .*expected a string or an array of strings/],
    [{ messages, stream: "yes" }, /`stream` is "yes", expected true or false/],
    [{ messages: undefined }, /`messages` is undefined, expected an array of messages/],
    [{ messages: [] }, /`messages` is .*, expected an array of messages/],
    [{ messages: ["A"] }, /`messages\[0\]` is "A", expected an object/],
    [{ messages: [{ role: "function", content: "A" }] }, /`messages\[0\]\.role` is "function", expected "system"/],
    [{ messages: [user(null)] }, /`messages\[0\]\.content` is null, expected a string or an array of parts/],
    [
      { messages: [user([{ type: "input_audio" }])] },
      /`messages\[0\]\.content\[0\]\.type` is "input_audio", expected "text" or "image_url"/,
    ],
    [{ messages: [user([{ type: "text", text: 5 }])] }, /`messages\[0\]\.content\[0\]\.text` is 5, expected a string/],
    [{ messages: [{ ...user("A"), name: "Ann" }] }, /messages\[0\]\.name is not possible/],
    [{ messages: [assistant("A"), user("B")] }, /messages\[0\]: an answer has no question before it/],
    [
      { messages: [user("A"), { role: "system", content: "S" }, user("B")] },
      /messages\[1\]: a system message can only be at the beginning/,
    ],
    [
      { messages: [user("A"), assistant([{ type: "image_url", image_url: { url: "/a.png" } }]), user("B")] },
      /messages\[1\]\.content\[0\]: only messages of the role `user`/,
    ],
    [{ messages: [user("A"), { ...assistant("B"), raw: 5 }, user("C")] }, /messages\[1\]\.raw` is 5, expected a string/],
    [{ messages: [{ ...user("A"), raw: "A" }] }, /messages\[0\]\.raw is not possible/],
    [{ messages: [user("A"), assistant("B")] }, /the last message must be of the role `user`/],
  ]) {
    await refused(params, message);
  }
});

test("a form of the answer is a constraint, and the answer keeps all of its JSON", async () => {
  const schema = { type: "object", properties: { bbox_2d: { type: "array" } } };
  const raw = '{"bbox_2d": [1, 2, 3, 4]}';
  for (const [response_format, constraint] of [
    [{ type: "json_object" }, { jsonSchema: { type: "object" } }],
    [{ type: "json_schema", json_schema: { name: "box", description: "A box", schema, strict: true } }, { jsonSchema: schema }],
    [{ type: "json_schema", json_schema: { name: "any" } }, { jsonSchema: { type: "object" } }],
  ]) {
    const { options, reply } = await ask({ messages: [user("A")], response_format }, raw);
    assert.deepEqual(options, { constraint });
    assert.equal(reply.choices[0].message.content, raw);
    const { chunks } = await ask({ messages: [user("A")], response_format, stream: true }, `Yes${raw}`);
    assert.equal(chunks.map(({ choices }) => choices[0].delta.content ?? "").join(""), `Yes${raw}`);
  }
  for (const response_format of [{ type: "text" }, null]) {
    const { options, reply } = await ask({ messages: [user("A")], response_format }, raw);
    assert.deepEqual([options, reply.choices[0].message.content], [{}, "Yes"]);
  }
});

test("a stream has the text, and usage and logprobs if they are requested", async () => {
  const { chunks } = await ask({ messages: [user("A")], stream: true, stream_options: { include_usage: true }, logprobs: true });
  assert.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join(""), "Yes");
  assert.equal(chunks.at(-2).choices[0].logprobs.content[0].token, "Yes");
  assert.equal(chunks.at(-1).usage.total_tokens, 2);
});
