// Calls of the AI SDK: `web/ts/api/ai-sdk-request.ts`. The AI SDK checks prompts itself, so that only the values in them are outside input.

import fc from "fast-check";
import { readCall } from "../../../web/dist/api/ai-sdk-request.js";
import { outcome } from "../outcome.mjs";

const text = fc.string({ maxLength: 8 });
const data = fc.oneof(
  fc.record({ type: fc.constant("data"), data: fc.oneof(text, fc.uint8Array({ maxLength: 4 })) }),
  fc.record({ type: fc.constant("url"), url: fc.constant(new URL("https://example.org/a.png")) }),
  fc.record({ type: fc.constant("text"), text }),
  fc.record({ type: fc.constant("reference"), reference: fc.constant({ other: "x" }) }),
);
const file = fc.record({ type: fc.constant("file"), mediaType: fc.oneof(text, fc.constantFrom("image/png", "image", "image/*")), data });
const said = fc.record({
  type: fc.constant("text"),
  text,
  providerOptions: fc.option(fc.dictionary(text, fc.dictionary(text, fc.jsonValue())), { nil: undefined }),
});
const call = fc.record({ type: fc.constant("tool-call"), toolCallId: text, toolName: text, input: fc.jsonValue() });
const output = fc.oneof(
  fc.record({ type: fc.constantFrom("text", "error-text"), value: text }),
  fc.record({ type: fc.constantFrom("json", "error-json"), value: fc.jsonValue() }),
  fc.record({ type: fc.constant("execution-denied"), reason: fc.option(text, { nil: undefined }) }),
  fc.record({
    type: fc.constant("content"),
    value: fc.array(fc.oneof(fc.record({ type: fc.constant("text"), text }), file), { maxLength: 3 }),
  }),
);
const result = fc.record({ type: fc.constant("tool-result"), toolCallId: text, toolName: text, output });
const list = (...parts) => fc.array(fc.oneof(...parts), { maxLength: 3 });
const message = fc.oneof(
  fc.record({ role: fc.constant("system"), content: text }),
  fc.record({ role: fc.constant("user"), content: list(said, file) }),
  fc.record({
    role: fc.constant("assistant"),
    content: list(said, call, file, result, fc.record({ type: fc.constant("reasoning"), text })),
  }),
  fc.record({ role: fc.constant("tool"), content: list(result) }),
);
const tool = fc.record({ type: fc.constant("function"), name: text, inputSchema: fc.dictionary(text, fc.jsonValue()) });

export const seeds = 0;
export const input = fc.record({
  family: fc.constantFrom("qwen_vl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
  options: fc.record(
    {
      prompt: fc.array(message, { maxLength: 5 }),
      tools: fc.array(fc.oneof(tool, fc.record({ type: fc.constant("provider"), id: fc.constant("a.b"), name: text })), { maxLength: 2 }),
      toolChoice: fc.oneof(
        fc.record({ type: fc.constantFrom("auto", "none", "required") }),
        fc.record({ type: fc.constant("tool"), toolName: text }),
      ),
      responseFormat: fc.oneof(
        fc.record({ type: fc.constantFrom("text", "json") }),
        fc.record({ type: fc.constant("json"), schema: fc.object({ maxDepth: 1 }) }),
      ),
      temperature: fc.double(),
      providerOptions: fc.dictionary(fc.constantFrom("qwenVL", "other"), fc.dictionary(text, fc.jsonValue())),
      reasoning: fc.constantFrom("none", "provider-default", "high"),
    },
    { requiredKeys: ["prompt"] },
  ),
});

/** A call is read with its warnings, or refused. */
export function check({ family, options }) {
  const copy = JSON.stringify(options);
  const end = outcome(() => {
    const { params, settings } = readCall(options, family);
    if (!Array.isArray(params.messages) || typeof settings !== "object") throw new Error("a call without messages");
  });
  if (JSON.stringify(options) !== copy) throw new Error("the call was changed");
  return end;
}
