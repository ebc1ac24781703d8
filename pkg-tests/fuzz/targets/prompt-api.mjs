// Arguments of the Prompt API: `web/ts/api/prompt-api/convert.ts`, `messages.ts`, `options.ts`, `constraint.ts`.

import fc from "fast-check";
import { responseConstraint } from "../../../web/dist/api/prompt-api/constraint.js";
import { createOptionsOf, promptOf, promptOptionsOf } from "../../../web/dist/api/prompt-api/convert.js";
import { expectedTypes, validated } from "../../../web/dist/api/prompt-api/messages.js";
import { samplingOf, unsupported, validatedOptions } from "../../../web/dist/api/prompt-api/options.js";
import { nearly } from "../inputs.mjs";
import { kindOfPlatform, outcome } from "../outcome.mjs";

const PROMPTS = [
  "What is in the picture?",
  [
    { role: "system", content: "Be short." },
    {
      role: "user",
      content: [
        { type: "text", value: "What?" },
        { type: "image", value: new Uint8Array(3) },
      ],
    },
    { role: "assistant", content: "It is", prefix: true },
  ],
];
const OPTIONS = [
  {
    expectedInputs: [{ type: "image" }, { type: "text", languages: ["en", "zh-Hans"] }],
    expectedOutputs: [{ type: "text", languages: ["en"] }],
    initialPrompts: [{ role: "system", content: "You are a cat." }],
    temperature: 0.5,
    topK: 3,
  },
  { samplingMode: "balanced", responseConstraint: { type: "object" }, omitResponseConstraintInput: true },
  { responseConstraint: /a+/i },
];
export const seeds = PROMPTS.length + OPTIONS.length;
export const input = fc.record({ prompt: nearly(PROMPTS), options: nearly(OPTIONS) });

/** Arguments are read, or refused with the platform's errors and our words. */
export function check({ prompt, options }) {
  const ends = [
    outcome(() => validated(promptOf(prompt), expectedTypes([{ type: "image" }]), false), kindOfPlatform),
    outcome(() => responseConstraint(promptOptionsOf(options)), kindOfPlatform),
    outcome(() => {
      const { core } = validatedOptions(createOptionsOf(options));
      if (unsupported(core, "qwen3_vl") === undefined) samplingOf(core, "qwen3_vl");
    }, kindOfPlatform),
  ];
  return ends.join(", ");
}
