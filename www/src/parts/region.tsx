/** Marks a region on the picture, by dragging or with the keyboard. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Box } from "qwen-vl-web";
import { choosingRegion } from "../state/chat";
import { texts } from "../texts";
import "./region.css";

/** In thousandths of the picture: the smallest side, and the step of an arrow key. */
const LEAST = 10;
const STEP = 20;

export function RegionChooser({ onChosen }: { onChosen: (box: Box) => void }) {
  const [box, setBox] = useState<Box>([300, 300, 700, 700]);
  const from = useRef<[number, number] | undefined>(undefined);
  const area = useRef<HTMLDivElement>(null);
  useEffect(() => {
    area.current?.focus();
    area.current?.scrollIntoView({ block: "nearest" });
  }, []);

  const place = (event: PointerEvent): [number, number] => {
    const { left, top, width, height } = area.current!.getBoundingClientRect();
    const part = (value: number, side: number) => Math.min(Math.max(Math.round((value / side) * 1000), 0), 999);
    return [part(event.clientX - left, width), part(event.clientY - top, height)];
  };
  const spanned = ([x, y]: [number, number]): Box => {
    const [fromX, fromY] = from.current!;
    return [Math.min(x, fromX), Math.min(y, fromY), Math.max(x, fromX), Math.max(y, fromY)];
  };
  const end = (event: PointerEvent) => {
    if (!from.current) return;
    const chosen = spanned(place(event));
    from.current = undefined;
    if (chosen[2] - chosen[0] >= LEAST && chosen[3] - chosen[1] >= LEAST) onChosen(chosen);
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter") onChosen(box);
    else if (event.key === "Escape") choosingRegion.value = false;
    else if (event.key.startsWith("Arrow")) setBox(moved(box, event.key, event.shiftKey));
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const [x1, y1, x2, y2] = box;
  return (
    <div
      ref={area}
      class="region-chooser"
      data-testid="region"
      tabIndex={0}
      role="application"
      aria-label={`${texts.value.regionBox}. ${box.join(", ")}`}
      onKeyDown={key}
      onPointerDown={(event) => {
        area.current?.setPointerCapture(event.pointerId);
        from.current = place(event);
      }}
      onPointerMove={(event) => from.current && setBox(spanned(place(event)))}
      onPointerUp={end}
      onPointerCancel={() => (from.current = undefined)}
    >
      <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
        <rect x={x1} y={y1} width={x2 - x1} height={y2 - y1} />
      </svg>
    </div>
  );
}

function moved([x1, y1, x2, y2]: Box, key: string, resize: boolean): Box {
  const dx = key === "ArrowLeft" ? -STEP : key === "ArrowRight" ? STEP : 0;
  const dy = key === "ArrowUp" ? -STEP : key === "ArrowDown" ? STEP : 0;
  const within = (value: number, least: number, most: number) => Math.min(Math.max(value, least), most);
  if (resize) return [x1, y1, within(x2 + dx, x1 + LEAST, 999), within(y2 + dy, y1 + LEAST, 999)];
  const x = within(x1 + dx, 0, 999 - (x2 - x1));
  const y = within(y1 + dy, 0, 999 - (y2 - y1));
  return [x, y, x + x2 - x1, y + y2 - y1];
}
