/** Makes pictures of the embedded model's world. */

import { useRef, useState } from "preact/hooks";
import { attach } from "../state/chat";
import { fail } from "../state/notices";
import { makePicture } from "../state/pictures";
import { settings } from "../state/settings";
import { ATLAS, BACKGROUNDS, COLUMNS, ink, KINDS, paint, placed, resized, ROWS, shuffled, type Scene, type SceneItem } from "../state/world";
import { texts } from "../texts";
import { Dialog, opened } from "./dialog";
import { Icon } from "./icons";

const STEP = 0.02;
const GROWTH = 1.15;

export function SceneComposer() {
  const t = texts.value;
  const { language } = settings.value;
  const [scene, setScene] = useState<Scene>(shuffled);
  const [selected, setSelected] = useState<number>();
  const [filter, setFilter] = useState("");
  const [word, setWord] = useState("");
  const board = useRef<HTMLDivElement>(null);
  const dragged = useRef<{ id: number; dx: number; dy: number } | undefined>(undefined);

  const nameOf = ({ what }: SceneItem) => ("word" in what ? what.word : (KINDS[what.kind]?.[language] ?? ""));
  const change = (id: number, changed: (item: SceneItem) => SceneItem) =>
    setScene((now) => ({ ...now, items: now.items.map((item) => (item.id === id ? changed(item) : item)) }));
  const remove = (id: number) => {
    setScene((now) => ({ ...now, items: now.items.filter((item) => item.id !== id) }));
    setSelected(undefined);
  };
  const add = (what: SceneItem["what"], x = 0.25 + Math.random() * 0.5, y = 0.25 + Math.random() * 0.5) => {
    const id = Math.max(-1, ...scene.items.map((item) => item.id)) + 1;
    const item = placed({ id, what, x, y, size: "word" in what ? 0.1 : 0.24 }, x, y);
    setScene((now) => ({ ...now, items: [...now.items, item] }));
    setSelected(id);
  };
  const place = (event: { clientX: number; clientY: number }): [number, number] => {
    const { left, top, width, height } = board.current!.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  };
  const key = (event: KeyboardEvent, { id }: SceneItem) => {
    const moves: Record<string, [number, number]> = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const move = moves[event.key];
    if (move) change(id, (item) => placed(item, item.x + move[0], item.y + move[1]));
    else if (event.key === "+" || event.key === "=") change(id, (item) => resized(item, GROWTH));
    else if (event.key === "-") change(id, (item) => resized(item, 1 / GROWTH));
    else if (event.key === "Delete" || event.key === "Backspace") remove(id);
    else return;
    event.preventDefault();
  };
  const use = async () => {
    const picture = await makePicture(await paint(scene), t.sceneName);
    opened.value = undefined;
    attach([picture]);
  };
  const shown = KINDS.filter(({ en, zh }) => `${en} ${zh}`.toLowerCase().includes(filter.trim().toLowerCase()));
  return (
    <Dialog name="scene" title={t.scene}>
      <p>{t.sceneIntro}</p>
      <div class="scene-columns">
        <div>
          <div
            ref={board}
            class="board"
            role="group"
            aria-label={t.sceneBoard}
            data-testid="board"
            style={{ background: scene.background, color: ink(scene.background) }}
            onDragOver={(event) => event.preventDefault()}
            onDrop={(event) => {
              event.preventDefault();
              event.stopPropagation();
              const kind = Number.parseInt(event.dataTransfer?.getData("text/plain") ?? "", 10);
              if (KINDS[kind]) add({ kind }, ...place(event));
            }}
          >
            {scene.items.map((item) => (
              <button
                type="button"
                key={item.id}
                class={`item ${item.id === selected ? "on" : ""}`}
                aria-label={t.sceneItem(nameOf(item))}
                style={{
                  left: `${item.x * 100}%`,
                  top: `${item.y * 100}%`,
                  ...("kind" in item.what ? sprite(item.what.kind, item.size) : { fontSize: `${item.size * 100}cqw` }),
                }}
                onFocus={() => setSelected(item.id)}
                onKeyDown={(event) => key(event, item)}
                onPointerDown={(event) => {
                  const [x, y] = place(event);
                  dragged.current = { id: item.id, dx: item.x - x, dy: item.y - y };
                  event.currentTarget.setPointerCapture(event.pointerId);
                  setSelected(item.id);
                }}
                onPointerMove={(event) => {
                  if (!dragged.current) return;
                  const { id, dx, dy } = dragged.current;
                  const [x, y] = place(event);
                  change(id, (item) => placed(item, x + dx, y + dy));
                }}
                onPointerUp={() => (dragged.current = undefined)}
                onPointerCancel={() => (dragged.current = undefined)}
              >
                {"word" in item.what ? item.what.word : ""}
              </button>
            ))}
          </div>
          <div class="row">
            <button type="button" class="quiet" data-testid="shuffle" onClick={() => setScene(shuffled())}>
              <Icon name="again" /> {t.sceneShuffle}
            </button>
            <button type="button" class="quiet" onClick={() => setScene({ ...scene, items: [] })}>
              {t.sceneClear}
            </button>
            {selected !== undefined && (
              <>
                <button type="button" class="quiet" aria-label={t.sceneLarger} onClick={() => change(selected, (item) => resized(item, GROWTH))}>
                  +
                </button>
                <button type="button" class="quiet" aria-label={t.sceneSmaller} onClick={() => change(selected, (item) => resized(item, 1 / GROWTH))}>
                  −
                </button>
                <button type="button" class="quiet" aria-label={t.sceneDelete} onClick={() => remove(selected)}>
                  <Icon name="close" />
                </button>
              </>
            )}
          </div>
        </div>
        <div class="palette">
          <fieldset class="row">
            <legend>{t.sceneBackground}</legend>
            {BACKGROUNDS.map((color) => (
              <input
                type="radio"
                key={color}
                name="background"
                class="swatch"
                aria-label={color}
                style={{ background: color }}
                checked={scene.background === color}
                onChange={() => setScene({ ...scene, background: color })}
              />
            ))}
          </fieldset>
          <form
            class="row"
            onSubmit={(event) => {
              event.preventDefault();
              if (word.trim()) add({ word: word.trim() });
              setWord("");
            }}
          >
            <label class="grow">
              {t.sceneWord}
              <input value={word} maxLength={12} onInput={(event) => setWord(event.currentTarget.value)} />
            </label>
            <button type="submit" class="quiet">
              {t.sceneAddWord}
            </button>
          </form>
          <label>
            {t.sceneFilter}
            <input type="search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
          </label>
          <ul class="kinds" aria-label={t.sceneObjects}>
            {shown.map((kind) => (
              <li key={kind.index}>
                <button
                  type="button"
                  class="kind"
                  draggable
                  aria-label={kind[language]}
                  title={kind[language]}
                  style={sprite(kind.index)}
                  onDragStart={(event) => event.dataTransfer?.setData("text/plain", String(kind.index))}
                  onClick={() => add({ kind: kind.index })}
                />
              </li>
            ))}
          </ul>
        </div>
      </div>
      <div class="row end">
        <button type="button" class="main" data-testid="scene-use" onClick={() => use().catch(fail)}>
          {t.sceneUse}
        </button>
      </div>
    </Dialog>
  );
}

/** Shows one pictogram of the atlas as a background. */
function sprite(kind: number, size?: number): Record<string, string> {
  const [column, row] = [kind % COLUMNS, Math.floor(kind / COLUMNS)];
  return {
    backgroundImage: `url(${ATLAS})`,
    backgroundSize: `${COLUMNS * 100}% ${ROWS * 100}%`,
    backgroundPosition: `${(column / (COLUMNS - 1)) * 100}% ${ROWS > 1 ? (row / (ROWS - 1)) * 100 : 0}%`,
    ...(size === undefined ? {} : { width: `${size * 100}%`, height: `${size * 100}%` }),
  };
}
