import assert from "node:assert/strict";
import { build } from "vite";

const PICTURE = "/sample/images/00000.png";
const SCRIPT = "/ai-sdk.js";
/** A question about the picture to which the model answers with a box around each thing. */
const BOXES = "Describe the picture with boxes.";

/** The parts of the AI SDK that the tests use. `Chat` is the class under `useChat`, with a state of plain objects. */
const ENTRY = `
import { AbstractChat } from "ai";
export { DirectChatTransport, generateObject, generateText, Output, streamObject, streamText, ToolLoopAgent } from "ai";
export { z } from "zod/v4";
export class Chat extends AbstractChat {
  constructor(transport) {
    const messages = [];
    super({
      transport,
      state: {
        status: "ready",
        error: undefined,
        messages,
        pushMessage: (message) => messages.push(message),
        popMessage: () => messages.pop(),
        replaceMessage: (index, message) => (messages[index] = message),
        snapshot: (value) => structuredClone(value),
      },
    });
  }
}`;

/** Bundles the AI SDK as one script. */
async function bundle() {
  const name = "virtual:ai-sdk";
  const entry = {
    name: "entry",
    resolveId: (id) => (id === name ? id : undefined),
    load: (id) => (id === name ? ENTRY : undefined),
  };
  const options = {
    write: false,
    minify: false,
    rolldownOptions: { input: name, preserveEntrySignatures: "strict" },
    modulePreload: false,
  };
  const { output } = await build({ root: import.meta.dirname, configFile: false, logLevel: "warn", plugins: [entry], build: options });
  assert.equal(output.length, 1, "the AI SDK is one script");
  return output[0].code;
}

/** Tests the provider with the AI SDK itself and the trained model of the repository. */
export function aiSdkTests(bed) {
  let code;
  const test = (name, body) =>
    bed.modelTest({ url: "/nano/", load: { backend: "webgpu" } }, `ai sdk: ${name}`, async (page) => {
      code ??= bundle();
      const script = await code;
      bed.handle = (path, response) => {
        if (path !== SCRIPT) return false;
        response.writeHead(200, { "content-type": "text/javascript" }).end(script);
        return true;
      };
      await page.evaluate(prepare, SCRIPT, PICTURE);
      await body(page);
    });
  texts(test);
  forms(test);
  agents(test);
  chats(test);
}

/** Runs in the page. Sets `window.ai`, `window.qwen` (the provider), and `window.look`, which returns messages with a question about the picture. */
async function prepare(script, picture) {
  const { createQwenVL } = await import("qwen-vl-web/ai-sdk");
  window.ai = await import(script);
  window.qwen = createQwenVL(window.model);
  window.look = (text, data = new URL(picture, location.href)) => {
    const content = [
      { type: "file", mediaType: "image", data },
      { type: "text", text },
    ];
    return { messages: [{ role: "user", content }], temperature: 0 };
  };
}

function texts(test) {
  test("generateText answers as a session does, about an address, bytes, base64, a data URL and the address of a Blob", async (page) => {
    const { answer, generated } = await page.evaluate(async (picture) => {
      const question = "What is in the picture?";
      const answer = structuredClone(await window.model.createSession().ask([{ image: picture }, question], { greedy: true }));
      const blob = await (await fetch(picture)).blob();
      const bytes = new Uint8Array(await blob.arrayBuffer());
      const base64 = btoa(String.fromCharCode(...bytes));
      const generated = [];
      for (const data of [undefined, bytes, base64, `data:image/png;base64,${base64}`, new URL(URL.createObjectURL(blob))]) {
        const result = await window.ai.generateText({ model: window.qwen("nano-chat"), ...window.look(question, data) });
        const { text, finishReason, usage, warnings } = result;
        generated.push(structuredClone({ text, finishReason, usage, warnings }));
      }
      return { answer, generated };
    }, PICTURE);
    assert.ok(answer.text.length > 0);
    for (const { text, finishReason, usage, warnings } of generated) {
      assert.deepEqual([text, finishReason, warnings], [answer.text, "stop", []]);
      assert.deepEqual([usage.inputTokens, usage.outputTokens], [answer.usage.promptTokens, answer.usage.completionTokens]);
    }
  });

  test("streamText streams the text and the objects, and its messages continue the conversation", async (page) => {
    const { deltas, counts, whole, first, second } = await page.evaluate(async (question) => {
      const { messages, temperature } = window.look(question);
      const result = window.ai.streamText({ model: window.qwen(), messages, temperature });
      const [deltas, counts] = [[], []];
      for await (const part of result.stream) {
        if (part.type === "text-delta") deltas.push(part.text);
        const count = part.providerMetadata?.qwenVL.objects.length;
        if (count !== undefined && count !== counts.at(-1)) counts.push(count);
      }
      const next = { role: "user", content: "How many things are there?" };
      const conversation = [...messages, ...(await result.response).messages, next];
      const continued = await window.ai.generateText({ model: window.qwen(), messages: conversation, temperature });
      const session = window.model.createSession();
      const { raw, text } = await session.ask([{ image: messages[0].content[0].data }, question], { greedy: true });
      const second = await session.ask(next.content, { greedy: true });
      return {
        ...{ deltas, counts },
        whole: [await result.text, text],
        first: [(await result.response).messages[0].content[0].providerOptions.qwenVL.raw, raw],
        second: [continued.text, second.text, continued.usage.inputTokens, second.usage.promptTokens],
      };
    }, BOXES);
    assert.ok(deltas.filter(Boolean).length > 3, JSON.stringify(deltas));
    assert.deepEqual([deltas.join(""), whole[0]], [whole[1], whole[1]]);
    assert.deepEqual(counts, [1, 2, 3]);
    assert.equal(first[0], first[1]);
    assert.deepEqual([second[0], second[2]], [second[1], second[3]]);
  });

  test("an aborted stream ends, and the next call answers; two calls at once wait for each other", async (page) => {
    const { types, aborted, answers } = await page.evaluate(async (question) => {
      const controller = new AbortController();
      const failures = [];
      const settings = { abortSignal: controller.signal, onError: ({ error }) => failures.push(String(error)) };
      const result = window.ai.streamText({ model: window.qwen(), ...window.look(question), ...settings });
      const types = [];
      for await (const { type } of result.stream) {
        types.push(type);
        if (type === "text-delta") controller.abort();
      }
      const generated = window.ai.generateText({ model: window.qwen(), ...window.look(question), abortSignal: controller.signal });
      const aborted = await generated.then(
        () => "none",
        ({ name }) => name,
      );
      const questions = ["Is there a cat?", "Where is the airplane?"];
      const ask = (text) => window.ai.generateText({ model: window.qwen(), ...window.look(text) });
      const together = (await Promise.all(questions.map(ask))).map(({ text }) => text);
      const alone = [];
      for (const text of questions) alone.push((await ask(text)).text);
      return { types, aborted: [aborted, failures], answers: [together, alone] };
    }, BOXES);
    assert.equal(types.at(-1), "abort");
    assert.ok(!types.includes("finish") && !types.includes("error"), types.join(" "));
    assert.deepEqual(aborted, ["AbortError", []]);
    assert.deepEqual(answers[0], answers[1]);
    assert.notEqual(answers[0][0], answers[0][1]);
  });
}

function forms(test) {
  test("a schema is the form of the answer: generateText, streamText, generateObject, streamObject, and OpenAI's response_format", async (page) => {
    const { generated, streamed, partial, old, oldStreamed, facade, json } = await page.evaluate(async (picture) => {
      const { createOpenAI } = await import("qwen-vl-web/openai");
      const { generateObject, generateText, Output, streamObject, streamText, z } = window.ai;
      const schema = z.object({ cat: z.boolean(), side: z.enum(["left", "right"]) });
      const call = { model: window.qwen(), ...window.look("Is there a cat?"), maxOutputTokens: 250 };
      const structured = { ...call, output: Output.object({ schema }) };
      const generated = (await generateText(structured)).output;
      const stream = streamText(structured);
      const partial = [];
      for await (const object of stream.partialOutputStream) partial.push(structuredClone(object));
      const old = (await generateObject({ ...call, schema })).object;
      const oldStream = streamObject({ ...call, schema });
      for await (const _ of oldStream.partialObjectStream);
      const content = [
        { type: "image_url", image_url: { url: picture } },
        { type: "text", text: "Is there a cat?" },
      ];
      const completion = await createOpenAI(window.model).chat.completions.create({
        messages: [{ role: "user", content }],
        response_format: { type: "json_schema", json_schema: { name: "cat", schema: z.toJSONSchema(schema) } },
        temperature: 0,
      });
      const facade = JSON.parse(completion.choices[0].message.content);
      // It can be cut off at the limit of tokens, which is an error with the text.
      const json = await generateText({ ...call, output: Output.json(), maxOutputTokens: 20 }).catch((error) => error);
      return { generated, streamed: await stream.output, partial, old, oldStreamed: await oldStream.object, facade, json: json.text };
    }, PICTURE);
    const keys = ["cat", "side"];
    assert.deepEqual(Object.keys(generated), keys);
    assert.ok(typeof generated.cat === "boolean" && ["left", "right"].includes(generated.side));
    // The model is greedy: each way gives the same object.
    for (const object of [streamed, partial.at(-1), old, oldStreamed, facade]) assert.deepEqual(object, generated);
    assert.ok(partial.length > 1 && Object.keys(partial[0]).length < keys.length, JSON.stringify(partial));
    assert.match(json, /^\s*\{/);
  });

  test("a constraint of the options keeps the white space of an answer, and an answer can come first", async (page) => {
    const { generated, streamed, greeted, own } = await page.evaluate(async () => {
      const { messages, temperature } = window.look("Is there a cat?");
      const call = { model: window.qwen(), messages, temperature, providerOptions: { qwenVL: { constraint: { regex: " (Yes|No)\\n" } } } };
      const generated = (await window.ai.generateText(call)).text;
      const streamed = await window.ai.streamText(call).text;
      const greeting = [
        { role: "assistant", content: "Hello." },
        { role: "assistant", content: "Ask me." },
      ];
      const greeted = (await window.ai.generateText({ model: window.qwen(), messages: [...greeting, ...messages], temperature })).text;
      const history = [
        { role: "user", content: "" },
        { role: "assistant", content: "Hello.\nAsk me." },
      ];
      const [{ data }, { text }] = messages[0].content;
      const own = await window.model.createSession({ history }).ask([{ image: data }, text], { greedy: true });
      return { generated, streamed, greeted, own: own.text };
    });
    assert.match(generated, /^ (Yes|No)\n$/);
    assert.equal(streamed, generated);
    assert.ok(greeted.length > 0);
    assert.equal(greeted, own);
  });

  test("an answer at the end of the messages is continued", async (page) => {
    const { whole, rest } = await page.evaluate(async () => {
      const { messages, temperature } = window.look("What is in the picture?");
      const generate = (more) => window.ai.generateText({ model: window.qwen(), messages: [...messages, ...more], temperature });
      const whole = (await generate([])).text;
      return { whole, rest: (await generate([{ role: "assistant", content: whole.slice(0, whole.indexOf(",") + 1) }])).text };
    });
    assert.ok(rest.startsWith(" ") && rest.length < whole.length, rest);
    assert.ok(whole.endsWith(rest), `${whole} | ${rest}`);
  });
}

/** With a model that is played: the trained one calls no tools. */
function agents(test) {
  test("an agent calls a tool, and answers with its result", async (page) => {
    const { generated, streamed, prompts } = await page.evaluate(async () => {
      const { createQwenVL } = await import("qwen-vl-web/ai-sdk");
      const { Run } = await import("qwen-vl-web");
      const { ToolLoopAgent, z } = window.ai;
      const usage = { promptTokens: 5, completionTokens: 2, reusedTokens: 0, imageTokens: 0, droppedTurns: 0 };
      const says = (raw) =>
        new Run((emit) => {
          for (const delta of raw) emit({ type: "text", delta, raw: delta });
          const answer = { text: raw, raw, objects: [], finishReason: "stop", usage, timings: {} };
          return { answer: Promise.resolve(answer), cancel: () => undefined };
        });
      const call = `Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>`;
      const prompts = [];
      const start = (prepare) => {
        prompts.push(prepare().then(({ prompt }) => prompt));
        return says(prompts.length % 2 === 1 ? call : "Sunny.");
      };
      const model = createQwenVL({ info: { source: "played", family: "qwen3_vl" }, imageView: {}, start })();
      const weather = { inputSchema: z.object({ city: z.string() }), execute: ({ city }) => ({ city, sky: "blue" }) };
      const agent = new ToolLoopAgent({ model, tools: { weather } });
      const outcome = ({ text, steps, totalUsage }) =>
        structuredClone({ text, reasons: steps.map(({ finishReason }) => finishReason), tokens: totalUsage.totalTokens });
      const generated = outcome(await agent.generate({ prompt: "Weather?" }));
      const { text, steps, totalUsage } = await agent.stream({ prompt: "Weather?" });
      const streamed = outcome({ text: await text, steps: await steps, totalUsage: await totalUsage });
      return { generated, streamed, prompts: await Promise.all(prompts) };
    });
    for (const outcome of [generated, streamed]) {
      assert.deepEqual(outcome, { text: "Sunny.", reasons: ["tool-calls", "stop"], tokens: 14 });
    }
    assert.equal(prompts.length, 4);
    assert.deepEqual([prompts[2], prompts[3]], [prompts[0], prompts[1]]);
    assert.match(prompts[0].tools[0], /^\{"type": "function", "function": \{"name": "weather", "parameters": \{"type": "object", /);
    assert.deepEqual(prompts[1].messages.slice(1), [
      { role: "assistant", content: [{ text: "Let me see." }], tool_calls: [{ name: "weather", arguments: '{"city": "Paris"}' }] },
      { role: "tool", content: [{ text: '{"city": "Paris", "sky": "blue"}' }] },
    ]);
  });
}

function chats(test) {
  test("the class under useChat, with an agent in the page: a picture, a second question, and a stop", async (page) => {
    const { statuses, messages, expected, stopped } = await page.evaluate(
      async (picture, question) => {
        const { Chat, DirectChatTransport, ToolLoopAgent } = window.ai;
        const agent = new ToolLoopAgent({ model: window.qwen(), temperature: 0 });
        const chat = new Chat(new DirectChatTransport({ agent }));
        const blob = await (await fetch(picture)).blob();
        const url = await new Promise((resolve) => {
          const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result) });
          reader.readAsDataURL(blob);
        });
        const statuses = [];
        const send = async (message) => {
          await chat.sendMessage(message);
          statuses.push(String(chat.error ?? chat.status));
        };
        await send({ text: question, files: [{ type: "file", mediaType: blob.type, url }] });
        await send({ text: "How many things are there?" });
        const messages = structuredClone(chat.messages);
        const session = window.model.createSession();
        const expected = [];
        // The files of a message come before its text.
        for (const content of [[{ image: picture }, question], "How many things are there?"]) {
          expected.push(structuredClone(await session.ask(content, { greedy: true })));
        }
        const sent = chat.sendMessage({ text: question });
        while (chat.status !== "error" && !chat.lastMessage.parts.some(({ text }) => chat.lastMessage.role === "assistant" && text)) {
          await new Promise((resolve) => setTimeout(resolve));
        }
        await chat.stop();
        await sent;
        const stopped = [
          String(chat.error ?? chat.status),
          structuredClone(chat.lastMessage.parts.find(({ type }) => type === "text")).text,
        ];
        return { statuses, messages, expected, stopped };
      },
      PICTURE,
      BOXES,
    );
    assert.deepEqual(statuses, ["ready", "ready"]);
    const answers = messages.filter(({ role }) => role === "assistant").map(({ parts }) => parts.find(({ type }) => type === "text"));
    assert.deepEqual(
      answers.map(({ text }) => text),
      expected.map(({ text }) => text),
    );
    const { objects, raw } = answers[0].providerMetadata.qwenVL;
    assert.deepEqual([objects, raw], [expected[0].objects, expected[0].raw]);
    assert.equal(objects.length, 3);
    assert.equal(stopped[0], "ready");
    assert.ok(stopped[1].length > 0 && stopped[1].length < expected[0].text.length, stopped[1]);
  });
}
