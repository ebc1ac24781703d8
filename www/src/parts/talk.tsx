/** Questions and answers, in a pane that follows the newest. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Grounded } from "qwen-vl-web";
import { highlighted, showPicture, showTurn, stage, turns, type Turn } from "../state/chat";
import { kind } from "../state/model";
import { announcement, failure } from "../state/notices";
import { formatMillis, formatNumber, texts } from "../texts";
import { Panel } from "./panel";
import "./talk.css";

/** Distance from the end, in pixels, at which a reader is at the end. */
const NEAR = 32;

/** @param children shown after the last answer */
export function Talk({ children }: { children: ComponentChildren }) {
  const t = texts.value;
  const list = turns.value;
  const pane = useRef<HTMLElement>(null);
  const atEnd = useRef(false);
  useEffect(() => {
    const element = pane.current!;
    let before = 0;
    const distance = () => element.scrollHeight - element.scrollTop - element.clientHeight;
    const scrolled = () => {
      const { scrollTop } = element;
      if (distance() < NEAR) atEnd.current = true;
      // Further down, but not at the end: the answer has grown since the pane was scrolled.
      else if (scrollTop < before) atEnd.current = false;
      before = scrollTop;
    };
    // The technical details open above the answers, and the reader stays there.
    const unfolded = () => (atEnd.current = distance() < NEAR);
    const resized = new ResizeObserver(() => {
      if (atEnd.current) element.scrollTop = element.scrollHeight;
    });
    element.addEventListener("scroll", scrolled);
    element.addEventListener("toggle", unfolded, true);
    for (const watched of [element, ...element.querySelectorAll(":scope > :not(.intro)")]) resized.observe(watched);
    return () => {
      element.removeEventListener("scroll", scrolled);
      element.removeEventListener("toggle", unfolded, true);
      resized.disconnect();
    };
  }, []);
  // A new question, another conversation and an error are shown, without them the introduction.
  useEffect(() => {
    atEnd.current = list.length > 0 || failure.value !== undefined;
    pane.current!.scrollTop = atEnd.current ? pane.current!.scrollHeight : 0;
  }, [list.length, failure.value]);
  return (
    <section ref={pane} class={list.length === 0 ? "talk blank" : "talk"} data-testid="talk" aria-label={t.conversation} tabIndex={0}>
      <div class="intro">
        {list.length === 0 && <p class="empty">{t.empty}</p>}
        <p>{t.about[kind.value]}</p>
        <p>
          {t.privacy}{" "}
          <a href="https://github.com/qwen-vl-web/qwen-vl-web" rel="noreferrer">
            {t.source}
          </a>
          {" · "}
          <a href="./licenses.txt">{t.licences}</a>
        </p>
        <Panel />
      </div>
      <ol class="list turns" data-testid="turns">
        {list.map((turn, index) => (
          <TurnItem key={turn.id} turn={turn} first={firstPicture(list, index)} />
        ))}
      </ol>
      <div>{children}</div>
    </section>
  );
}

/** Returns the number of the first picture of a turn. */
const firstPicture = (list: readonly Turn[], index: number): number =>
  list.slice(0, index).reduce((sum, { question }) => sum + question.pictures.length, 1);

function TurnItem({ turn, first }: { turn: Turn; first: number }) {
  const t = texts.value;
  const { question, progress } = turn;
  const { stage: at, done, total, objects, text, facts } = progress.value;
  const running = at !== "done";
  useEffect(() => {
    if (facts) announcement.value = t.answered(text);
  }, [facts]);
  return (
    <li class={stage.value.turn === turn ? "shown" : ""}>
      <div class="asked">
        {question.pictures.length > 0 && (
          <span class="asked-pictures">
            {question.pictures.map((picture, index) => (
              <button
                type="button"
                key={picture.id}
                class="thumbnail"
                data-video={picture.video ? "" : undefined}
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
