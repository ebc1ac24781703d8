/** The form for questions: tasks, pictures of the question, text field, tools. */

import { signal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { askDraft, choosingRegion, detach, draft, newChat, pending, pictures, region, run, stage, stop, turns } from "../state/chat";
import { kind, model } from "../state/model";
import { announcement, fail, failure, type Explanation } from "../state/notices";
import { exportChat } from "../state/store";
import { questionsFor } from "../state/tasks";
import { NAME_MARK } from "../state/world";
import { texts } from "../texts";
import "./composer.css";
import { opened } from "./dialog";
import { save, take } from "./files";
import { Icon } from "./icons";

const field = signal<HTMLTextAreaElement | null>(null);

export const focusQuestion = (): void => field.value?.focus();

export function Composer() {
  const t = texts.value;
  const chatFile = useRef<HTMLInputElement>(null);
  const busy = run.value !== undefined;
  const ready = model.value !== undefined && !busy;
  return (
    <form
      class="composer"
      data-testid="form"
      onSubmit={(event) => {
        event.preventDefault();
        failure.value = undefined;
        if (ready) askDraft();
      }}
    >
      <Tasks />
      {(pending.value.length > 0 || region.value) && (
        <ul class="list pending">
          {pending.value.map((picture) => {
            const number = pictures.value.indexOf(picture) + 1;
            return (
              <li key={picture.id} data-testid="pending">
                <img src={picture.url} alt={t.pictureNamed(number, picture.name)} width="44" height="44" />
                <button type="button" class="plain" aria-label={t.remove(t.picture(number))} onClick={() => detach(picture)}>
                  <Icon name="close" />
                </button>
              </li>
            );
          })}
          {region.value && (
            <li class="chip" data-testid="region-chip">
              {t.region(region.value.join(", "))}
              <button type="button" class="plain" aria-label={t.remove(t.region(""))} onClick={() => (region.value = undefined)}>
                <Icon name="close" />
              </button>
            </li>
          )}
        </ul>
      )}
      <div class="field">
        <textarea
          ref={(element) => {
            field.value = element;
          }}
          id="question"
          rows={2}
          required
          placeholder={t.questionPlaceholder}
          aria-label={t.question}
          data-testid="question"
          value={draft.value}
          onInput={(event) => (draft.value = event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            event.currentTarget.form?.requestSubmit();
          }}
        />
        {busy ? (
          <button type="button" class="main" data-testid="stop" onClick={stop}>
            <Icon name="stop" /> {t.stop}
          </button>
        ) : (
          <button type="submit" class="main" data-testid="ask" disabled={!ready}>
            <Icon name="send" /> {t.ask}
          </button>
        )}
      </div>
      <div class="row tools">
        <div class="row" role="group" aria-label={t.add}>
          <label class="button quiet" title={t.fromFileLong}>
            <Icon name="add" /> {t.fromFile}
            <input
              type="file"
              class="hidden-input"
              accept="image/*,video/*"
              multiple
              aria-label={t.fromFileLong}
              data-testid="picture"
              onChange={(event) => takeInput(event.currentTarget)}
            />
          </label>
          <button type="button" class="quiet" data-testid="camera" onClick={() => (opened.value = "camera")}>
            <Icon name="camera" /> {t.camera}
          </button>
          <button type="button" class="quiet" data-testid="gallery" onClick={() => (opened.value = "gallery")}>
            <Icon name="gallery" /> {t.gallery}
          </button>
          <button type="button" class="quiet" data-testid="scene" onClick={() => (opened.value = "scene")}>
            <Icon name="scene" /> {t.scene}
          </button>
        </div>
        <div class="row">
          <button
            type="button"
            class="quiet"
            data-testid="export"
            disabled={turns.value.length === 0 || busy}
            onClick={() => exportChat().then((file) => save(file, "chat.json"), fail)}
          >
            <Icon name="download" /> {t.exportChat}
          </button>
          <label class="button quiet">
            <Icon name="upload" /> {t.importChat}
            <input
              ref={chatFile}
              type="file"
              class="hidden-input"
              accept=".json,application/json"
              aria-label={t.importChat}
              data-testid="import"
              onChange={(event) => takeInput(event.currentTarget)}
            />
          </label>
          <button type="button" class="quiet" data-testid="reset" onClick={newChat}>
            {t.newChat}
          </button>
        </div>
      </div>
    </form>
  );
}

function takeInput(input: HTMLInputElement): void {
  void take(Array.from(input.files ?? []));
  // Reset the input, so that the same file can be chosen again.
  input.value = "";
}

function Tasks() {
  const t = texts.value;
  const questions = questionsFor(kind.value);
  /** Writes a question and selects the placeholder for a name. */
  const write = (text: string) => {
    draft.value = text;
    requestAnimationFrame(() => {
      const input = field.value;
      const at = text.indexOf(NAME_MARK);
      input?.focus();
      if (at >= 0) input?.setSelectionRange(at, at + NAME_MARK.length);
    });
  };
  const withPicture = (action: () => void) => () => {
    if (stage.value.picture) action();
    else ask((t) => [t.needsPicture]);
  };
  const numbers = (): [number, number] => [pictures.value.length - 1, pictures.value.length];
  const tasks: [keyof typeof t.task, () => void][] = [
    ["captionEn", withPicture(() => write(questions.captionEn))],
    ["captionZh", withPicture(() => write(questions.captionZh))],
    ["question", () => write("")],
    ["read", withPicture(() => write(questions.read))],
    ["find", withPicture(() => write(questions.find))],
    [
      "region",
      withPicture(() => {
        // The focus moves to the picture, so `write` is not used.
        draft.value = questions.region;
        choosingRegion.value = true;
      }),
    ],
    ["compare", () => (pictures.value.length < 2 ? ask((t) => [t.needsTwo]) : write(questions.compare(...numbers())))],
  ];
  return (
    <div class="tasks" role="group" aria-label={t.tasks}>
      {tasks.map(([name, action]) => (
        <button type="button" key={name} class="task" data-testid={`task-${name}`} lang={taskLanguage(name)} onClick={action}>
          {t.task[name]}
        </button>
      ))}
    </div>
  );
}

/** Two labels are in the language of the answer. */
const taskLanguage = (name: string): string | undefined => ({ captionEn: "en", captionZh: "zh-CN" })[name];

/** Asks the visitor for something that is missing. */
function ask(explain: Explanation): void {
  announcement.value = explain(texts.value)[0];
  failure.value = { explain };
}
