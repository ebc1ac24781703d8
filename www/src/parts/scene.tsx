/** Composes a picture of things that the embedded model knows. */

import { useRef, useState } from "preact/hooks";
import { attach } from "../state/chat";
import { fail } from "../state/notices";
import { makePicture } from "../state/pictures";
import { settings } from "../state/settings";
import {
  BACKGROUNDS,
  COLORS,
  KINDS,
  nameOf,
  paint,
  placed,
  resized,
  SHAPES,
  shuffled,
  spriteStyle,
  usualSize,
  type Scene,
  type SceneItem,
  type Thing,
} from "../state/world";
import { texts } from "../texts";
import { Dialog, opened } from "./dialog";
import { Icon } from "./icons";
import "./scene.css";

const STEP = 0.02;
const GROWTH = 1.15;

export function SceneComposer() {
  const t = texts.value;
  const { language } = settings.value;
  const [scene, setScene] = useState<Scene>(shuffled);
  const [selected, setSelected] = useState<number>();
  const [color, setColor] = useState(0);
  const [word, setWord] = useState("");
  const board = useRef<HTMLDivElement>(null);
  const dragged = useRef<{ id: number; dx: number; dy: number } | undefined>(undefined);

  const change = (id: number, changed: (item: SceneItem) => SceneItem) =>
    setScene((now) => ({ ...now, items: now.items.map((item) => (item.id === id ? changed(item) : item)) }));
  const remove = (id: number) => {
    setScene((now) => ({ ...now, items: now.items.filter((item) => item.id !== id) }));
    setSelected(undefined);
  };
  const add = (thing: Thing, x = 0.25 + Math.random() * 0.5, y = 0.25 + Math.random() * 0.5) => {
    const id = Math.max(-1, ...scene.items.map((item) => item.id)) + 1;
    const item = placed({ id, thing, x, y, size: usualSize(thing) }, x, y);
    setScene((now) => ({ ...now, items: [...now.items, item] }));
    setSelected(id);
  };
  const place = (event: { clientX: number; clientY: number }): [number, number] => {
    const { left, top, width, height } = board.current!.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  };
  const key = (event: KeyboardEvent, { id }: SceneItem) => {
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP],
    };
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
  const background = BACKGROUNDS[scene.background]?.css;
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
            style={{ background }}
            onDragOver={(event) => event.preventDefault()}
            onDrop={(event) => {
              event.preventDefault();
              event.stopPropagation();
              const thing = palette(color).find((thing) => nameOf(thing, "en") === event.dataTransfer?.getData("text/plain"));
              if (thing) add(thing, ...place(event));
            }}
          >
            {scene.items.map((item) => (
              <button
                type="button"
                key={item.id}
                class={`item ${item.id === selected ? "on" : ""}`}
                aria-label={t.sceneItem(nameOf(item.thing, language))}
                style={{
                  left: `${item.x * 100}%`,
                  top: `${item.y * 100}%`,
                  ...("word" in item.thing
                    ? { fontSize: `${item.size * 100}cqw` }
                    : { width: `${item.size * 100}%`, height: `${item.size * 100}%`, ...spriteStyle(item.thing) }),
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
                <Drawn thing={item.thing} />
              </button>
            ))}
          </div>
          <div class="row">
            <button type="button" class="quiet" data-testid="shuffle" onClick={() => setScene(shuffled())}>
              <Icon name="again" /> {t.sceneShuffle}
            </button>
            <button type="button" class="quiet" data-testid="scene-clear" onClick={() => setScene({ ...scene, items: [] })}>
              {t.sceneClear}
            </button>
            {selected !== undefined && (
              <>
                <button
                  type="button"
                  class="quiet"
                  aria-label={t.sceneLarger}
                  onClick={() => change(selected, (item) => resized(item, GROWTH))}
                >
                  +
                </button>
                <button
                  type="button"
                  class="quiet"
                  aria-label={t.sceneSmaller}
                  onClick={() => change(selected, (item) => resized(item, 1 / GROWTH))}
                >
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
          <Swatches
            legend={t.sceneBackground}
            name="background"
            colors={BACKGROUNDS}
            value={scene.background}
            onChange={(background) => setScene({ ...scene, background })}
          />
          <ul class="list kinds" aria-label={t.sceneObjects}>
            {palette(color).map((thing) => (
              <li key={nameOf(thing, "en")}>
                <button
                  type="button"
                  class="kind"
                  draggable
                  aria-label={nameOf(thing, language)}
                  title={nameOf(thing, language)}
                  style={spriteStyle(thing)}
                  onDragStart={(event) => event.dataTransfer?.setData("text/plain", nameOf(thing, "en"))}
                  onClick={() => add(thing)}
                >
                  <Drawn thing={thing} />
                </button>
              </li>
            ))}
          </ul>
          <Swatches legend={t.sceneColor} name="color" colors={COLORS} value={color} onChange={setColor} />
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

/** Returns the things to choose from: pictograms, and shapes in the chosen colour. */
const palette = (color: number): Thing[] => [
  ...KINDS.map(({ index }) => ({ kind: index })),
  ...SHAPES.map((_, shape) => ({ shape, color })),
];

function Drawn({ thing }: { thing: Thing }) {
  if ("word" in thing) return <>{thing.word}</>;
  if ("kind" in thing) return null;
  return (
    <svg viewBox="-1 -1 2 2" aria-hidden="true">
      <path d={SHAPES[thing.shape]?.path ?? ""} fill={COLORS[thing.color]?.css ?? ""} />
    </svg>
  );
}

interface SwatchesProps {
  legend: string;
  name: string;
  colors: readonly { en: string; zh: string; css: string }[];
  value: number;
  onChange: (index: number) => void;
}

function Swatches({ legend, name, colors, value, onChange }: SwatchesProps) {
  const { language } = settings.value;
  return (
    <fieldset class="row">
      <legend>{legend}</legend>
      {colors.map((color, index) => (
        <input
          type="radio"
          key={color.en}
          name={name}
          class="swatch"
          aria-label={color[language]}
          title={color[language]}
          style={{ background: color.css }}
          checked={value === index}
          onChange={() => onChange(index)}
        />
      ))}
    </fieldset>
  );
}
