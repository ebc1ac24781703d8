import { imagePayload, type ImageInput } from "./image.js";
import type { QwenVLModel } from "./model.js";
import type { ImagePayload } from "./protocol.js";
import { Run } from "./run.js";
import type { AskOptions, Box } from "./types.js";

/** A piece of a question. */
export type Part =
  | string
  | { text: string }
  | {
      image: ImageInput;
      /** Turn a photo by its EXIF orientation, as browsers show it. By default the pixels count as they are stored, as in the original. */
      upright?: boolean;
    }
  | {
      /** A name to point at. */
      ref: string;
      /** Where it is, in thousandths of the latest picture. */
      boxes?: Box[];
    };

/** A question: text, or text and pictures in order. */
export type Content = string | Part[];

/** A question and its answer. */
export interface Turn {
  question: Content;
  /** `Answer.raw` */
  answer: string;
}

export interface SessionOptions {
  /** What the assistant is told at the start. */
  system?: string;
  /** Turns so far. */
  history?: readonly Turn[];
  /** Defaults for every question. */
  generation?: Omit<AskOptions, "signal">;
}

/** A conversation with pictures. Questions are answered one after the other. */
export class Session {
  readonly #model: QwenVLModel;
  readonly #options: SessionOptions;
  readonly #history: Turn[];
  /** Settles when the latest question is answered or has failed. */
  #latest: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(model: QwenVLModel, options: SessionOptions) {
    this.#model = model;
    this.#options = options;
    this.#history = [...(options.history ?? [])];
  }

  /** Turns so far. A question that was cancelled or failed is not among them. */
  get history(): readonly Turn[] {
    return this.#history;
  }

  /** Asks a question. */
  ask(question: Content, options: AskOptions = {}): Run {
    const merged = { ...this.#options.generation, ...options };
    const earlier = this.#latest;
    const run = this.#model.start(async () => {
      await earlier;
      const pictures = new Pictures();
      const history = this.#history.map((turn): [string, string] => [pictures.promptText(turn.question), turn.answer]);
      const query = pictures.promptText(question);
      const { system } = this.#options;
      return {
        prompt: { kind: "chat", history, query, ...(system === undefined ? {} : { system }) },
        images: await pictures.payloads(merged.signal),
      };
    }, merged);
    this.#latest = run.then(
      (answer) => {
        if (answer.finishReason !== "cancelled") this.#history.push({ question, answer: answer.raw });
      },
      () => undefined,
    );
    return run;
  }
}

/** Numbers the pictures of a conversation and writes questions as the model was trained to read them. */
class Pictures {
  readonly #parts: { image: ImageInput; upright: boolean }[] = [];

  promptText(content: Content): string {
    if (typeof content === "string") return content;
    return content.map((part) => this.#partText(part)).join("");
  }

  payloads(signal?: AbortSignal): Promise<ImagePayload[]> {
    return Promise.all(this.#parts.map(({ image, upright }) => imagePayload(image, upright, signal)));
  }

  #partText(part: Part): string {
    if (typeof part === "string") return part;
    if ("text" in part) return part.text;
    if ("image" in part) {
      const number = this.#parts.push({ image: part.image, upright: part.upright ?? false });
      return `Picture ${number}: <img>picture-${number}</img>\n`;
    }
    const boxes = (part.boxes ?? []).map(([x1, y1, x2, y2]) => `<box>(${x1},${y1}),(${x2},${y2})</box>`);
    return `<ref>${part.ref}</ref>${boxes.join("")}`;
  }
}
