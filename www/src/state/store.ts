/** Stores the conversation for the next visit, and writes and reads it as a file. */

import { effect, signal } from "@preact/signals";
import { get, set } from "idb-keyval";
import { draft, exampleId, newChat, pending, restored, run, storedTurn, turns, type Turn } from "./chat";
import { parseChat, type FilePicture, type StoredChat } from "./chat-file";
import { PageError } from "./notices";
import { makePicture, type Picture } from "./pictures";
import { change, settings } from "./settings";

interface StoredPicture {
  id: string;
  name: string;
  blob: Blob;
  video?: Blob;
}

const KEY = "chat";

/** False if the browser cannot store the conversation. */
const storable = signal(true);

/** Restores the conversation of the last visit. Returns true if there is one. */
export async function restore(): Promise<boolean> {
  try {
    const stored = await get<StoredChat<StoredPicture>>(KEY);
    if (stored?.version !== 1) return false;
    await show(stored, async ({ blob, video, name, id }) => ({ ...(await makePicture(blob, name, id)), ...(video ? { video } : {}) }));
    return stored.turns.length > 0;
  } catch {
    // Private windows can lack storage. The conversation then lasts as long as the page.
    storable.value = false;
    return false;
  } finally {
    restored.value = true;
  }
}

effect(() => {
  const done = turns.value.filter(({ progress }) => progress.value.stage === "done");
  if (!restored.value || !storable.value || run.value) return;
  const pictures = picturesOf(done).map(({ id, name, blob, video }) => ({ id, name, blob, ...(video ? { video } : {}) }));
  void set(KEY, stored(done, pictures)).catch(() => {
    storable.value = false;
  });
});

/** Writes the conversation as a file. */
export async function exportChat(): Promise<Blob> {
  const done = turns.value.filter(({ progress }) => progress.value.stage === "done");
  const pictures = await Promise.all(
    picturesOf(done).map(async ({ id, name, blob, video }) => {
      return { id, name, data: await dataUrl(blob), ...(video ? { video: await dataUrl(video) } : {}) };
    }),
  );
  return new Blob([JSON.stringify(stored<FilePicture>(done, pictures), null, 1)], { type: "application/json" });
}

export async function importChat(file: Blob): Promise<void> {
  let chat: StoredChat<FilePicture>;
  try {
    chat = parseChat(await file.text());
  } catch (cause) {
    throw notAChat(cause);
  }
  const blobOf = async (data: string) => (await fetch(data)).blob();
  await show(chat, async ({ data, video, name, id }) => {
    return { ...(await makePicture(await blobOf(data), name, id)), ...(video ? { video: await blobOf(video) } : {}) };
  });
}

function stored<P>(done: readonly Turn[], pictures: P[]): StoredChat<P> {
  return {
    format: "qwen-vl-web-chat",
    version: 1,
    system: settings.peek().system,
    pictures,
    turns: done.map(({ question, progress }) => ({
      text: question.text,
      pictures: question.pictures.map(({ id }) => id),
      ...(question.region ? { region: question.region } : {}),
      raw: progress.value.raw,
      answer: { text: progress.value.text, objects: [...progress.value.objects] },
      ...(progress.value.facts ? { facts: progress.value.facts } : {}),
    })),
  };
}

const notAChat = (cause: unknown) => new PageError((t) => [t.notAChat, t.notAChatStep], { cause });

/** Replaces the conversation. */
async function show<P extends { id: string }>(chat: StoredChat<P>, make: (picture: P) => Promise<Picture>): Promise<void> {
  const pictures = new Map<string, Picture>();
  for (const picture of chat.pictures) pictures.set(picture.id, await make(picture));
  const made: Turn[] = [];
  for (const { text, pictures: ids, region, raw, answer, facts } of chat.turns) {
    const own = ids.map((id) => {
      const picture = pictures.get(id);
      if (!picture) throw notAChat(`picture ${id} is missing`);
      return picture;
    });
    made.push(storedTurn({ text, pictures: own, region }, { ...answer, raw }, picturesOf(made), facts));
  }
  newChat();
  change({ system: chat.system });
  turns.value = made;
}

const picturesOf = (turns: readonly Turn[]): Picture[] => turns.flatMap(({ question }) => question.pictures);

function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error ?? new Error("could not read the picture"));
    reader.readAsDataURL(blob);
  });
}

/** Prepares the first visit. */
export function showExample(picture: Picture, question: string): void {
  if (turns.value.length > 0 || pending.value.length > 0) return;
  pending.value = [picture];
  exampleId.value = picture.id;
  draft.value = question;
}
