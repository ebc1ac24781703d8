// Compiled and never run: what the types must allow, and what they must refuse.

import {
  drawBoxes,
  parse,
  promptText,
  QwenVL,
  QwenVLError,
  type Answer,
  type AnswerEvent,
  type Box,
  type Content,
  type ErrorCode,
  type Grounded,
  type ImageInput,
  type ImageRef,
  type Message,
  type Point,
  type Quad,
  type SessionOptions,
} from "qwen-vl-web";
import { createOpenAI, type ChatCompletion, type ChatCompletionChunk } from "qwen-vl-web/openai";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Same<A, B>): void {}

export async function use(
  file: File,
  canvas: HTMLCanvasElement,
  video: HTMLVideoElement,
  frame: VideoFrame,
  folder: FileSystemDirectoryHandle,
) {
  const report = await QwenVL.check("/model/", { probeMemory: true });
  same<typeof report.status, "ok" | "slow" | "unsupported">(true);

  await QwenVL.load(folder);
  await QwenVL.load([file], { cache: "none" });
  // @ts-expect-error a model needs a source
  await QwenVL.load();
  // @ts-expect-error no such cache
  await QwenVL.load("/model/", { cache: "cookies" });
  await QwenVL.load("/model/", { backend: "cpu", worker: false, kv: "q8", seed: 1 });
  await QwenVL.load("/model/", { worker: new Worker("/own.js", { type: "module" }) });
  // @ts-expect-error no such format
  await QwenVL.load("/model/", { kv: "q3" });
  await using model = await QwenVL.load(new URL("https://example.org/model/"), {
    contextLength: 4096,
    onProgress: ({ bytes }) => bytes.toFixed(),
  });

  same<typeof model.info.backend, "webgpu" | "cpu">(true);

  const images: ImageInput[] = [file, "/a.png", new URL("https://a.b"), canvas, video, frame, new Uint8Array(), new ArrayBuffer(1)];
  const ref: ImageRef = await model.encodeImage(canvas);
  images.push(ref);

  const content: Content = [
    "Look: ",
    { image: ref, imageOrientation: "none" },
    { video, frames: 2 },
    { video: file, fps: 1, maxTokens: 500 },
    { video: [{ image: canvas, time: 0.5 }], minStepTokens: 16 },
    { video: await model.encodeVideo("/film.mp4", { maxFrames: 8 }) },
    { ref: "this", boxes: [[1, 2, 3, 4]] },
  ];
  const history: Message[] = [
    { role: "user", content },
    { role: "assistant", content: "Yes." },
  ];
  const session = model.createSession({ history, generation: { greedy: true }, onContextOverflow: "drop-oldest" });
  // @ts-expect-error an answer is text
  const wrong: Message = { role: "assistant", content: [{ image: file }] };
  // @ts-expect-error neither text nor picture
  session.ask([{ sound: file }]);
  // @ts-expect-error a box has four numbers
  session.ask([{ ref: "a", boxes: [[1, 2, 3]] }]);

  const run = session.ask(content, { stop: ["\n"], logprobs: 2, signal: AbortSignal.timeout(1) });
  for await (const event of run) {
    same<typeof event, AnswerEvent>(true);
    if (event.type === "text") same<typeof event.delta, string>(true);
    if (event.type === "object") same<typeof event.object, Grounded>(true);
    if (event.type === "done") same<typeof event.answer, Answer>(true);
  }
  const answer = await run;
  same<typeof answer, Answer>(true);
  for (const object of answer.objects) {
    if (object.kind === "box") same<typeof object.norm, Box>(true);
    else if (object.kind === "point") same<typeof object.norm, Point>(true);
    else same<typeof object.norm, Quad>(true);
  }
  const restored: SessionOptions = JSON.parse(JSON.stringify(session.fork()));
  model.createSession(restored).undo();

  same<Awaited<ReturnType<typeof model.ground>>, Grounded[]>(true);
  const [first] = await model.score({ prompt: "<img>a</img>", images }, [" A", " B"]);
  first?.logprob.toFixed();
  model.addEventListener("lost", ({ error }) => same<typeof error, QwenVLError>(true));
  // @ts-expect-error no such event
  model.addEventListener("found", () => undefined);
  String(await model.benchmark({ runs: 1 }));

  const { create } = createOpenAI(model).chat.completions;
  const messages = [{ role: "user" as const, content: "Hi" }];
  same<Awaited<ReturnType<typeof create>>, ChatCompletion | AsyncIterable<ChatCompletionChunk>>(true);
  const whole: ChatCompletion = await create({ messages });
  for await (const chunk of await create({ messages, stream: true })) same<typeof chunk, ChatCompletionChunk>(true);

  drawBoxes(canvas, null, parse(answer.raw, [{ width: 1, height: 1 }]).objects);
  promptText([{ image: "a.png" }, "What?"]);
  return [wrong, whole];
}

export function handle(error: unknown): ErrorCode | undefined {
  return error instanceof QwenVLError ? error.code : undefined;
}
