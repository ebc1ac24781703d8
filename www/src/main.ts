// The demo page: a plain user of the package. Whatever a model, a user or an error says is set as text, never as HTML.

import { drawBoxes, QwenVL, QwenVLError, type Answer, type Grounded, type Part, type QwenVLModel, type Run, type Session } from "qwen-vl-web";

function element<T extends HTMLElement>(id: string): T {
  const found = document.querySelector<T>(`[data-testid="${id}"]`);
  if (!found) throw new Error(`the page has no ${id}`);
  return found;
}

const status = element("status");
const progress = element<HTMLProgressElement>("progress");
const drop = element("drop");
const pictureInput = element<HTMLInputElement>("picture");
const canvas = element<HTMLCanvasElement>("canvas");
const objectList = element("objects");
const turns = element("turns");
const form = element<HTMLFormElement>("form");
const question = element<HTMLTextAreaElement>("question");
const askButton = element<HTMLButtonElement>("ask");
const stopButton = element<HTMLButtonElement>("stop");
const resetButton = element<HTMLButtonElement>("reset");
const errorBox = element("error");

let model: QwenVLModel | undefined;
let session: Session | undefined;
let run: Run | undefined;
/** The picture on the canvas, as browsers show it. */
let shown: ImageBitmap | undefined;
/** A picture that no question has brought to the model yet. */
let attached: Blob | undefined;

async function load(): Promise<void> {
  const source = new URLSearchParams(location.search).get("model") ?? "./model/";
  status.textContent = "Looking for the model …";
  model = await QwenVL.load(source, {
    onProgress({ phase, bytes, totalBytes }) {
      progress.value = totalBytes > 0 ? bytes / totalBytes : 0;
      status.textContent = phase === "ready" ? "Ready" : `Loading the model: ${megabytes(bytes)} of ${megabytes(totalBytes)}`;
    },
  });
  session = model.createSession();
  progress.hidden = true;
  status.textContent = "Ready";
  const { source: name, modifications, gpuBytes, contextLength } = model.info;
  element("model").textContent = `${name} · ${megabytes(gpuBytes)} on the GPU · context of ${contextLength} tokens. ${modifications}`;
  updateButtons();
}

async function showPicture(file: Blob): Promise<void> {
  try {
    shown = await createImageBitmap(file);
  } catch (cause) {
    throw new QwenVLError("IMAGE_DECODE", "the browser can not read this picture", { cause });
  }
  attached = file;
  canvas.hidden = false;
  showObjects([]);
}

function showObjects(objects: readonly Grounded[]): void {
  if (shown) drawBoxes(canvas, shown, objects);
  objectList.replaceChildren(
    ...objects.map((object) => {
      const item = document.createElement("li");
      item.dataset.object = JSON.stringify(object);
      item.textContent = `${object.ref ?? object.kind}  ${(object.pixels ?? object.norm).join(", ")}`;
      return item;
    }),
  );
}

async function ask(): Promise<void> {
  if (!session) return;
  const text = question.value.trim();
  const parts: Part[] = [];
  // The canvas shows photos upright, so boxes must be in that frame.
  if (attached) parts.push({ image: attached, upright: true });
  parts.push({ text });

  const turn = document.createElement("li");
  const [asked, answered, timings] = [paragraph("asked"), paragraph("answer"), paragraph("timings")];
  asked.textContent = text;
  turn.append(asked, answered, timings);
  turns.append(turn);
  question.value = "";
  clearError();

  let objects: Grounded[] = [];
  showObjects(objects);
  run = session.ask(parts);
  updateButtons();
  try {
    for await (const event of run) {
      if (event.type === "encode") timings.textContent = "Looking at the picture …";
      else if (event.type === "prefill") timings.textContent = `Reading the question: ${event.done} of ${event.total} tokens`;
      else if (event.type === "text") answered.textContent += event.delta;
      else if (event.type === "object") showObjects((objects = [...objects, event.object]));
      else finish(event.answer, answered, timings);
    }
  } catch (error) {
    // The question can be mended and asked again.
    turn.remove();
    question.value ||= text;
    throw error;
  } finally {
    run = undefined;
    updateButtons();
  }
}

function paragraph(name: string): HTMLElement {
  const made = document.createElement("p");
  made.className = name;
  made.dataset.testid = name;
  return made;
}

function finish(answer: Answer, answered: HTMLElement, timings: HTMLElement): void {
  answered.textContent = answer.text;
  showObjects(answer.objects);
  const { encodeMs, prefillMs, decodeTokensPerSecond } = answer.timings;
  const { promptTokens, completionTokens } = answer.usage;
  // A question that was stopped is not in the session, and neither is its picture.
  if (answer.finishReason !== "cancelled") attached = undefined;
  const ends = { stop: "", length: " · cut at the token limit", context: " · the context is full", cancelled: " · stopped" };
  timings.textContent =
    `picture ${seconds(encodeMs)} · ${promptTokens} prompt tokens ${seconds(prefillMs)} · ` +
    `${completionTokens} tokens, ${decodeTokensPerSecond.toFixed(1)} a second${ends[answer.finishReason]}`;
  timings.dataset.finished = answer.finishReason;
}

function showError(error: unknown): void {
  const known = error instanceof QwenVLError;
  element("error-code").textContent = known ? error.code : "ERROR";
  element("error-message").textContent = error instanceof Error ? error.message : String(error);
  element("error-hint").textContent = known ? error.hint : "";
  errorBox.hidden = false;
  if (!model) {
    status.textContent = "No model";
    progress.hidden = true;
  }
}

function clearError(): void {
  errorBox.hidden = true;
}

function updateButtons(): void {
  askButton.disabled = !session || run !== undefined;
  askButton.hidden = run !== undefined;
  stopButton.hidden = run === undefined;
  resetButton.disabled = run !== undefined;
}

function megabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

function take(file: Blob | null | undefined): void {
  if (!file) return;
  clearError();
  showPicture(file).catch(showError);
}

pictureInput.addEventListener("change", () => {
  take(pictureInput.files?.[0]);
  // So that the same file can be chosen again.
  pictureInput.value = "";
});
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer?.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = Array.from(event.clipboardData?.files ?? []).find(({ type }) => type.startsWith("image/"));
  if (file) event.preventDefault();
  take(file);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!askButton.disabled) ask().catch(showError);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
stopButton.addEventListener("click", () => run?.cancel());
resetButton.addEventListener("click", () => {
  session = model?.createSession();
  attached = shown = undefined;
  canvas.hidden = true;
  turns.replaceChildren();
  showObjects([]);
  clearError();
});

load().catch(showError);
