/** The conversation. The page keeps the turns and passes them to a new session with each question; the model reuses its KV cache. */

import { computed, effect, signal, untracked, type Signal } from "@preact/signals";
import { parse, type Answer, type Box, type Grounded, type Message, type Part, type Quad, type Run } from "qwen-vl-web";
import { isLater, model } from "./model";
import { readVideos, type Picture } from "./pictures";
import { generation, pictureLimits, settings } from "./settings";
import { fail } from "./notices";
import { REGION_MARK } from "./world";

export interface Question {
  text: string;
  pictures: readonly Picture[];
  /** A box on the latest picture, in thousandths of its sides. */
  region?: Box | undefined;
}

export type Facts = Pick<Answer, "finishReason" | "usage" | "timings">;

export interface Progress {
  stage: "encode" | "prefill" | "write" | "done";
  done: number;
  total: number;
  text: string;
  raw: string;
  objects: readonly Grounded[];
  facts?: Facts;
}

export interface Turn {
  id: string;
  question: Question;
  progress: Signal<Progress>;
}

export const turns = signal<readonly Turn[]>([]);
/** Pictures of the next question. */
export const pending = signal<readonly Picture[]>([]);
export const draft = signal("");
export const region = signal<Box | undefined>(undefined);
/** True while the visitor marks a region on the picture. */
export const choosingRegion = signal(false);
export const run = signal<Run | undefined>(undefined);
/** The example, until the visitor asks about it or adds a picture. */
export const exampleId = signal<string | undefined>(undefined);
/** True once the conversation of the last visit is restored, or there is none. */
export const restored = signal(false);

/** All pictures, in the order of the model's numbers: Picture 1 is the first. */
export const pictures = computed(() => [...turns.value.flatMap(({ question }) => question.pictures), ...pending.value]);

/** The visitor's choice for the stage: a picture, and the turn whose objects are drawn on it. */
const chosen = signal<{ picture?: string; turn?: string }>({});
/** Index of an object of the turn on the stage. */
export const highlighted = signal<number | undefined>(undefined);

/** An object of an answer, with its index and its pixels on the picture that is shown. */
export interface ShownObject {
  index: number;
  object: Grounded;
}

export const stage = computed(() => {
  const { picture: id, turn: turnId } = chosen.value;
  const list = turns.value;
  // Without a choice, show the picture of the next question, or else the latest answer.
  const latestTurn = id === undefined && pending.value.length === 0 ? list[list.length - 1] : undefined;
  const turn = list.find((turn) => turn.id === turnId) ?? latestTurn;
  const all = pictures.value;
  const latest = all[all.length - 1];
  const picture = all.find((picture) => picture.id === id) ?? (turn && pictureOf(turn)) ?? latest;
  const objects = turn && picture ? objectsOn(picture, turn, all) : [];
  return { picture, number: picture ? all.indexOf(picture) + 1 : 0, objects, turn };
});

/** Returns the pictures up to a turn's question. */
function picturesBefore(turn: Turn): Picture[] {
  const list = turns.value;
  return list.slice(0, list.indexOf(turn) + 1).flatMap(({ question }) => question.pictures);
}

/** Returns the picture of a turn's first object, or the latest one before the answer. */
function pictureOf(turn: Turn): Picture | undefined {
  const before = picturesBefore(turn);
  const known = turn.progress.value.objects.find(({ image }) => image !== undefined);
  return before[known?.image ?? before.length - 1];
}

/** Returns a turn's objects on a picture. An object of an unknown picture can be on each of the turn's pictures. */
function objectsOn(picture: Picture, turn: Turn, all: readonly Picture[]): ShownObject[] {
  const number = all.indexOf(picture);
  const possible = picturesBefore(turn).includes(picture);
  return turn.progress.value.objects.flatMap((object, index): ShownObject[] => {
    if (object.image === number) return [{ index, object }];
    return object.image === undefined && possible ? [{ index, object: withPixels(object, picture) }] : [];
  });
}

function withPixels(object: Grounded, { width, height }: Picture): Grounded {
  const x = (value: number) => Math.trunc((value / 1000) * width);
  const y = (value: number) => Math.trunc((value / 1000) * height);
  if (object.kind === "quad") return { ...object, pixels: object.norm.map((corner) => [x(corner[0]), y(corner[1])]) as Quad };
  if (object.kind === "point") return { ...object, pixels: [x(object.norm[0]), y(object.norm[1])] };
  const [x1, y1, x2, y2] = object.norm;
  return { ...object, pixels: [x(x1), y(y1), x(x2), y(y2)] };
}

export function showPicture(picture: Picture): void {
  const { turn } = chosen.value;
  chosen.value = { picture: picture.id, ...(turn ? { turn } : {}) };
  choosingRegion.value = false;
}

export function showTurn(turn: Turn): void {
  if (choosingRegion.value || chosen.value.turn === turn.id) return;
  chosen.value = { turn: turn.id };
}

export function attach(added: readonly Picture[]): void {
  if (added.length === 0) return;
  // The visitor's own picture replaces the example.
  const example = exampleId.value;
  const others = example ? pending.value.filter(({ id }) => id !== example) : pending.value;
  if (others.length < pending.value.length) {
    exampleId.value = undefined;
    draft.value = "";
  }
  pending.value = [...others, ...added];
  chosen.value = {};
  region.value = undefined;
}

export function detach(picture: Picture): void {
  pending.value = pending.value.filter((other) => other !== picture);
  chosen.value = {};
  region.value = undefined;
}

/** Uses a region of the picture on the stage. Regions belong to the latest picture, so an earlier one is attached again. */
export function chooseRegion(box: Box): void {
  const { picture } = untracked(() => stage.value);
  const all = pictures.value;
  if (picture && all[all.length - 1] !== picture) attach([{ ...picture, id: crypto.randomUUID() }]);
  region.value = box;
  choosingRegion.value = false;
}

function parts({ pictures, region, text }: Question): Part[] {
  // The 2023 model sees one frame of a video that was added for another model, so that pictures keep their numbers.
  const images = pictures.map(({ id, blob, video }): Part => {
    return video && isLater.peek() ? { video: readVideos.get(id) ?? video } : { image: blob };
  });
  if (!region) return [...images, { text }];
  const marked: Part = { ref: "this", boxes: [region] };
  const at = text.indexOf(REGION_MARK);
  if (at < 0) return [...images, marked, { text }];
  return [...images, { text: text.slice(0, at) }, marked, { text: text.slice(at + REGION_MARK.length) }];
}

/** Returns a turn as messages. The answer is passed as its model wrote it, with the markup of its generation. */
function asHistory({ question, progress }: Turn): Message[] {
  return [
    { role: "user", content: parts(question) },
    { role: "assistant", content: progress.peek().raw },
  ];
}

/** Asks a question. If it fails or is stopped before the first word, the question returns to the composer. */
export async function ask(question: Question, options: { seed?: number } = {}): Promise<void> {
  const engine = model.value;
  if (!engine || run.value) return;
  const history = turns.value.flatMap(asHistory);
  const turn: Turn = {
    id: crypto.randomUUID(),
    question,
    progress: signal<Progress>({ stage: "encode", done: 0, total: 0, text: "", raw: "", objects: [] }),
  };
  const update = (changes: Partial<Progress>) => (turn.progress.value = { ...turn.progress.value, ...changes });
  const takeBack = () => {
    // After "New chat" or an import, the turn belongs to a conversation that is closed.
    if (!turns.value.includes(turn)) return;
    turns.value = turns.value.filter((other) => other !== turn);
    pending.value = [...question.pictures, ...pending.value];
    region.value ??= question.region;
    draft.value ||= question.text;
  };
  turns.value = [...turns.value, turn];
  pending.value = [];
  draft.value = "";
  region.value = undefined;
  exampleId.value = undefined;
  choosingRegion.value = false;
  chosen.value = { turn: turn.id };
  highlighted.value = undefined;

  const { system } = settings.value;
  try {
    const session = engine.createSession({ history, onContextOverflow: "drop-oldest", ...(system ? { system } : {}) });
    const started = session.ask(parts(question), { ...generation(engine.info.family), ...pictureLimits(engine.info), ...options });
    run.value = started;
    for await (const event of started) {
      if (event.type === "encode" || event.type === "prefill") update({ stage: event.type, done: event.done, total: event.total });
      else if (event.type === "text") update({ stage: "write", text: turn.progress.value.text + event.delta });
      else if (event.type === "object") update({ objects: [...turn.progress.value.objects, event.object] });
      else {
        const { text, raw, objects, finishReason, usage, timings } = event.answer;
        update({ stage: "done", text, raw, objects, facts: { finishReason, usage, timings } });
      }
    }
    if (turn.progress.value.raw === "" && turn.progress.value.facts?.finishReason === "cancelled") takeBack();
  } catch (error) {
    // No error message if the visitor closed the conversation or replaced the model.
    if (turns.value.includes(turn) && model.value === engine) fail(error);
    takeBack();
  } finally {
    run.value = undefined;
  }
}

export function askDraft(): void {
  const text = draft.value.trim();
  if (text) void ask({ text, pictures: pending.value, region: region.value });
}

export const stop = (): void => run.value?.cancel();

export function regenerate(): void {
  const last = turns.value[turns.value.length - 1];
  if (!last || run.value) return;
  turns.value = turns.value.slice(0, -1);
  // The same seed would produce the same answer.
  const seed = settings.value.seed === null ? { seed: crypto.getRandomValues(new Uint32Array(1))[0] ?? 0 } : {};
  void ask(last.question, seed);
}

export function editLast(): void {
  const last = turns.value[turns.value.length - 1];
  if (!last || run.value) return;
  turns.value = turns.value.slice(0, -1);
  pending.value = [...last.question.pictures, ...pending.value];
  region.value = last.question.region;
  draft.value = last.question.text;
  chosen.value = {};
}

export function newChat(): void {
  stop();
  turns.value = [];
  pending.value = [];
  draft.value = "";
  region.value = undefined;
  choosingRegion.value = false;
  exampleId.value = undefined;
  chosen.value = {};
}

/** An answer as it is stored. Files of earlier versions of this page have only its `raw`, with tags. */
export type StoredAnswer = Pick<Answer, "raw"> & Partial<Pick<Answer, "text" | "objects">>;

/** Makes a turn of a stored conversation. */
export function storedTurn(question: Question, answer: StoredAnswer, earlier: readonly Picture[], facts?: Facts): Turn {
  const { raw, text, objects } = { ...parse(answer.raw, [...earlier, ...question.pictures], question.text), ...answer };
  const progress: Progress = { stage: "done", done: 0, total: 0, text, raw, objects, ...(facts ? { facts } : {}) };
  return { id: crypto.randomUUID(), question, progress: signal(progress) };
}

effect(() => {
  // The highlight is an index into the objects on the stage.
  void stage.value.objects;
  highlighted.value = undefined;
});
