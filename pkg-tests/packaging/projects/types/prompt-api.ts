// Compiled and never run: the browser's declarations and those of the package fit together.

/// <reference types="dom-chromium-ai" />

import { QwenVL, type Grounded } from "qwen-vl-web";
import {
  createLanguageModel,
  installLanguageModel,
  type GroundingLanguageModel,
  type LanguageModelClass,
  type LanguageModelCreateOptions as PackageCreateOptions,
} from "qwen-vl-web/prompt-api";

export async function use(picture: Blob, canvas: HTMLCanvasElement, signal: AbortSignal) {
  const model = await QwenVL.load("/model/");
  const own = createLanguageModel(model);
  // Code for the browser's class takes the package's.
  const classes: (typeof LanguageModel)[] = [own, createLanguageModel((options) => QwenVL.load("/model/", options))];
  classes.push(installLanguageModel({ load: (options) => QwenVL.load("/model/", options), check: () => QwenVL.check("/model/") }));
  // @ts-expect-error a source loads a model
  createLanguageModel(() => Promise.resolve("/model/"));

  const options: LanguageModelCreateOptions = {
    initialPrompts: [{ role: "system", content: "Be brief." }],
    expectedInputs: [{ type: "image" }, { type: "text", languages: ["en"] }],
    monitor: (monitor) => monitor.addEventListener("downloadprogress", ({ loaded }) => loaded.toFixed()),
    signal,
  };
  const session: LanguageModel = await own.create(options);
  const prompt: LanguageModelPrompt = [
    {
      role: "user",
      content: [
        { type: "image", value: picture },
        { type: "image", value: canvas },
        { type: "text", value: "What is this?" },
      ],
    },
    { role: "assistant", content: "It is", prefix: true },
  ];
  const text: string = await session.prompt(prompt, { responseConstraint: { type: "string" }, signal });
  const stream: ReadableStream<string> = session.promptStreaming(prompt);
  await session.append("Look: ");
  session.oncontextoverflow = () => undefined;
  session.addEventListener("contextoverflow", ({ type }) => type.length);
  const clone: LanguageModel = await session.clone({ signal });
  const availability: Availability = await own.availability(options);
  const { maxTopK }: LanguageModelParams = await own.params();

  // The package's additions.
  const grounding: GroundingLanguageModel = await own.create({ samplingMode: "predictable" });
  const objects: readonly Grounded[] = (await grounding.clone()).objects;
  await grounding.prompt("What number?", { responseConstraint: /\d+/ });
  const both: PackageCreateOptions = options;
  // @ts-expect-error the class has no constructor
  new own();
  // @ts-expect-error no such role
  await own.create({ initialPrompts: [{ role: "developer", content: "Be brief." }] });
  // @ts-expect-error a session has no such mode
  await own.create({ samplingMode: "wild" });
  const plain: LanguageModelClass = own;
  return { text, stream, clone, availability, maxTopK, objects, both, plain };
}
