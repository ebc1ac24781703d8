/** Questions and answers. */

import { useEffect, useRef } from "preact/hooks";
import type { Grounded } from "qwen-vl-web";
import { editLast, highlighted, regenerate, run, showPicture, showTurn, stage, turns, type Turn } from "../state/chat";
import { announcement } from "../state/notices";
import { formatMillis, formatNumber, texts } from "../texts";
import { Icon } from "./icons";
import "./talk.css";

export function Talk() {
  const t = texts.value;
  const list = turns.value;
  return (
    <div class="talk">
      {list.length === 0 && <p class="empty">{t.empty}</p>}
      <ol class="list turns" data-testid="turns" aria-label={t.conversation}>
        {list.map((turn, index) => (
          <TurnItem key={turn.id} turn={turn} first={firstPicture(list, index)} last={index === list.length - 1} />
        ))}
      </ol>
    </div>
  );
}

/** Returns the number of the first picture of a turn. */
const firstPicture = (list: readonly Turn[], index: number): number =>
  list.slice(0, index).reduce((sum, { question }) => sum + question.pictures.length, 1);

function TurnItem({ turn, first, last }: { turn: Turn; first: number; last: boolean }) {
  const t = texts.value;
  const { question, progress } = turn;
  const { stage: at, done, total, objects, text, facts } = progress.value;
  const running = at !== "done";
  const item = useRef<HTMLLIElement>(null);
  const asked = useRef(running);
  // On a phone the picture is above the conversation, so the list of its objects pushes the answer out of sight.
  useEffect(() => {
    if (asked.current) item.current?.scrollIntoView({ block: "nearest" });
  }, [objects.length, running]);
  useEffect(() => {
    if (facts) announcement.value = t.answered(text);
  }, [facts]);
  return (
    <li ref={item} class={stage.value.turn === turn ? "shown" : ""}>
      <div class="asked">
        {question.pictures.length > 0 && (
          <span class="asked-pictures">
            {question.pictures.map((picture, index) => (
              <button
                type="button"
                key={picture.id}
                class="thumbnail"
                aria-label={t.pictureNamed(first + index, picture.name)}
                onClick={() => showPicture(picture)}
              >
                <img src={picture.url} alt="" width="48" height="48" />
                <span aria-hidden="true">{first + index}</span>
              </button>
            ))}
          </span>
        )}
        {question.region && <span class="chip">{t.region(question.region.join(", "))}</span>}
        <p data-testid="asked">{question.text}</p>
      </div>
      <div class="answered" onPointerEnter={() => showTurn(turn)} onFocusIn={() => showTurn(turn)} aria-busy={running}>
        <p class="answer" data-testid="answer">
          <Linked text={text} objects={objects} turn={turn} />
          {running && at === "write" && <span class="caret" aria-hidden="true" />}
        </p>
        {running && at === "encode" && <p class="step">{t.encoding}</p>}
        {running && at === "prefill" && <p class="step">{t.prefill(done, total)}</p>}
        <p class="facts" data-testid="timings" data-finished={facts?.finishReason}>
          {facts && <Facts facts={facts} />}
        </p>
        {last && !running && (
          <div class="row">
            <button type="button" class="quiet" data-testid="regenerate" disabled={run.value !== undefined} onClick={regenerate}>
              <Icon name="again" /> {t.regenerate}
            </button>
            <button type="button" class="quiet" data-testid="edit" disabled={run.value !== undefined} onClick={editLast}>
              <Icon name="edit" /> {t.edit}
            </button>
          </div>
        )}
      </div>
    </li>
  );
}

function Facts({ facts }: { facts: NonNullable<Turn["progress"]["value"]["facts"]> }) {
  const t = texts.value;
  const { usage, timings, finishReason } = facts;
  const words = [
    t.panelTokens(usage.completionTokens),
    t.panelRate(formatNumber(timings.decodeTokensPerSecond)),
    `${t.panelFirst} ${formatMillis(timings.firstTokenMs)}`,
  ];
  if (usage.droppedTurns) words.push(t.dropped(usage.droppedTurns));
  const end = t.ends[finishReason];
  if (end) words.push(end);
  return <>{words.join(" · ")}</>;
}

/** The answer, with its phrases linked to the objects that they name. */
function Linked({ text, objects, turn }: { text: string; objects: readonly Grounded[]; turn: Turn }) {
  const phrases = objects
    .map(({ range }, index) => ({ range, index }))
    .filter(({ range: [start, end] }, index, all) => end > start && all.findIndex(({ range }) => range[0] === start) === index)
    .sort((a, b) => a.range[0] - b.range[0]);
  const pieces = [];
  let at = 0;
  for (const { range, index } of phrases) {
    const [start, end] = range;
    if (start < at) continue;
    pieces.push(text.slice(at, start));
    const light = () => {
      showTurn(turn);
      highlighted.value = index;
    };
    const unlight = () => (highlighted.value = undefined);
    pieces.push(
      <button
        type="button"
        key={index}
        class={`phrase ${stage.value.turn === turn && highlighted.value === index ? "on" : ""}`}
        onPointerEnter={light}
        onPointerLeave={unlight}
        onFocus={light}
        onBlur={unlight}
      >
        {text.slice(start, end)}
      </button>,
    );
    at = end;
  }
  pieces.push(text.slice(at));
  return <>{pieces}</>;
}
