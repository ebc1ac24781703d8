// Requests of the facade like OpenAI's client: `web/ts/api/openai-request.ts`, `openai-tools.ts`.

import { conversation, generation, hasTools, isLowDetail, toolConversation } from "../../../web/dist/api/openai-request.js";
import { CallReader } from "../../../web/dist/api/openai-tools.js";
import { nearly } from "../inputs.mjs";
import { outcome } from "../outcome.mjs";

const SEEDS = [
  {
    messages: [
      { role: "system", content: "Be short." },
      {
        role: "user",
        content: [
          { type: "text", text: "What?" },
          { type: "image_url", image_url: { url: "https://example.org/a.png", detail: "low" } },
        ],
      },
      { role: "assistant", content: "A cat.", raw: "A <ref>cat</ref>.", objects: [] },
      { role: "user", content: "Where?" },
    ],
    max_tokens: 10,
    temperature: 0.5,
    stop: ["a", "b"],
    logprobs: true,
    top_logprobs: 2,
    response_format: { type: "json_schema", json_schema: { name: "a", schema: { type: "object" } } },
    stream: true,
    stream_options: { include_usage: true },
    user: "x",
  },
  {
    messages: [
      { role: "user", content: "Call it" },
      { role: "assistant", content: null, tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: '{"a": 1}' } }] },
      { role: "tool", tool_call_id: "1", content: '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' },
    ],
    tools: [{ type: "function", function: { name: "f", description: "d", parameters: { type: "object", properties: {} } } }],
    tool_choice: "auto",
    parallel_tool_calls: true,
    n: 1,
    seed: 7,
  },
];
export const seeds = SEEDS.length;
export const input = nearly(SEEDS);

/** A request is read, or refused as a wrong argument. */
export function check(params) {
  const tooled = outcome(() => hasTools(params));
  const options = tooled === "ok" ? outcome(() => generation(params)) : tooled;
  if (tooled !== "ok") return tooled;
  const read = hasTools(params) ? outcome(() => toolConversation(params, {})) : outcome(() => conversation(params));
  if (read === "ok") {
    isLowDetail(params);
    const text = params.messages.map(({ content }) => (typeof content === "string" ? content : "")).join("");
    calls(text);
  }
  return `${read}, ${options}`;
}

/** The calls in an answer do not depend on its pieces. */
function calls(text) {
  const read = (pieces) => {
    const reader = new CallReader();
    const said = pieces.map((piece) => reader.push(piece));
    const found = said.flatMap(({ calls }) => calls.map((call) => call.function));
    return JSON.stringify([said.map(({ text }) => text).join("") + reader.finish(), found]);
  };
  if (read([text]) !== read([...text])) throw new Error(`pieces of ${JSON.stringify(text)} make another answer`);
}
