/** The form for questions: pictures of the question, text field, menus. */

import { signal } from "@preact/signals";
import { useRef } from "preact/hooks";
import {
  askDraft,
  choosingRegion,
  detach,
  draft,
  editLast,
  newChat,
  pending,
  pictures,
  regenerate,
  region,
  run,
  stage,
  stop,
  turns,
} from "../state/chat";
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
import { Item, Menu } from "./menu";
import { showPanel } from "./panel";

const field = signal<HTMLTextAreaElement | null>(null);

export const focusQuestion = (): void => field.value?.focus();

export function Composer() {
  const t = texts.value;
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
      {(pending.value.length > 0 || region.value) && (
        <ul class="list pending">
          {pending.value.map((picture) => {
            const number = pictures.value.indexOf(picture) + 1;
            return (
              <li key={picture.id} data-testid="pending" data-video={picture.video ? "" : undefined}>
                <img src={picture.url} alt={t.pictureNamed(number, picture.name)} width="36" height="36" />
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
      <div class="tools">
        <Attach />
        <Tasks />
        <Chat />
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
    </form>
  );
}

function Attach() {
  const t = texts.value;
  const file = useRef<HTMLInputElement>(null);
  return (
    <>
      <input
        ref={file}
        hidden
        type="file"
        accept="image/*,video/*"
        multiple
        data-testid="picture"
        onChange={(event) => takeInput(event.currentTarget)}
      />
      <Menu name="attach" label={t.attach} icon="add">
        <Item id="file" icon="upload" onClick={() => file.current?.click()}>
          {t.fromFile}
        </Item>
        <Item id="camera" icon="camera" onClick={() => (opened.value = "camera")}>
          {t.camera}
        </Item>
        <Item id="gallery" icon="gallery" onClick={() => (opened.value = "gallery")}>
          {t.gallery}
        </Item>
        <Item id="scene" icon="scene" onClick={() => (opened.value = "scene")}>
          {t.scene}
        </Item>
      </Menu>
    </>
  );
}

function Chat() {
  const t = texts.value;
  const file = useRef<HTMLInputElement>(null);
  const last = turns.value[turns.value.length - 1];
  const disabled = last === undefined || run.value !== undefined;
  const copy = async () => navigator.clipboard.writeText(last?.progress.value.text ?? "");
  return (
    <>
      <input
        ref={file}
        hidden
        type="file"
        accept=".json,application/json"
        data-testid="import"
        onChange={(event) => takeInput(event.currentTarget)}
      />
      <Menu name="chat" label={t.chat} icon="chat" end>
        <Item id="reset" icon="add" onClick={newChat}>
          {t.newChat}
        </Item>
        <Item id="regenerate" icon="again" disabled={disabled} onClick={regenerate}>
          {t.regenerate}
        </Item>
        <Item
          id="edit"
          icon="edit"
          disabled={disabled}
          onClick={() => {
            editLast();
            focusQuestion();
          }}
        >
          {t.edit}
        </Item>
        <Item id="copy-answer" icon="copy" disabled={disabled} onClick={() => void copy().catch(fail)}>
          {t.copyAnswer}
        </Item>
        <Item
          id="export"
          icon="download"
          disabled={disabled}
          onClick={() => void exportChat().then((file) => save(file, "chat.json"), fail)}
        >
          {t.exportChat}
        </Item>
        <Item id="open" icon="upload" onClick={() => file.current?.click()}>
          {t.importChat}
        </Item>
        <Item id="details" icon="model" disabled={!model.value} onClick={showPanel}>
          {t.panel}
        </Item>
      </Menu>
    </>
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
    <Menu name="tasks" label={t.tasks} icon="tasks">
      {tasks.map(([name, action]) => (
        <Item key={name} id={`task-${name}`} onClick={action} {...taskLanguage(name)}>
          {t.task[name]}
        </Item>
      ))}
    </Menu>
  );
}

/** Two labels are in the language of the answer. */
const taskLanguage = (name: string) => ({ captionEn: { lang: "en" }, captionZh: { lang: "zh-CN" } })[name];

/** Asks the visitor for something that is missing. */
function ask(explain: Explanation): void {
  announcement.value = explain(texts.value)[0];
  failure.value = { explain };
}
