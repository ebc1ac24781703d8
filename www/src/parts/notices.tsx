import { useEffect, useRef, useState } from "preact/hooks";
import { load, lost, model, progress, recover, source } from "../state/model";
import { failure, offlineReady, update } from "../state/notices";
import { texts } from "../texts";
import { Icon } from "./icons";
import "./notices.css";

export function Notices() {
  const t = texts.value;
  const [online, setOnline] = useState(navigator.onLine);
  useEffect(() => {
    const changed = () => setOnline(navigator.onLine);
    addEventListener("online", changed);
    addEventListener("offline", changed);
    return () => {
      removeEventListener("online", changed);
      removeEventListener("offline", changed);
    };
  }, []);
  return (
    <div class="notices" role="status">
      {update.value && (
        <p class="notice" data-testid="update">
          {t.updateReady}
          <button type="button" class="quiet" onClick={() => update.value?.()}>
            {t.update}
          </button>
        </p>
      )}
      {offlineReady.value && (
        <p class="notice once" data-testid="offline-ready">
          {t.offlineReady}
          <button type="button" class="plain" aria-label={t.dismiss} onClick={() => (offlineReady.value = false)}>
            <Icon name="close" />
          </button>
        </p>
      )}
      {!online && (
        <p class="notice" data-testid="offline">
          {t.offline}
        </p>
      )}
    </div>
  );
}

/** Shows what went wrong, the next step, and the technical details on demand. */
export function ErrorMessage() {
  const t = texts.value;
  const problem = failure.value;
  const place = useRef<HTMLDivElement>(null);
  // The message follows the conversation, which can be longer than the screen.
  useEffect(() => place.current?.scrollIntoView({ block: "nearest" }), [problem]);
  if (!problem) return null;
  const { explain, details } = problem;
  const [title, step] = explain(t);
  return (
    <div class="error" role="alert" data-testid="error" ref={place}>
      <strong data-testid="error-title">{title}</strong>
      {step !== undefined && <span data-testid="error-step">{step}</span>}
      {details && (
        <details open={details.code === "INVALID_ARGUMENT"}>
          <summary>{t.details}</summary>
          <code data-testid="error-code">{details.code}</code> <span data-testid="error-message">{details.message}</span>
        </details>
      )}
      <span class="row">
        {!model.value && !progress.value && (
          <button type="button" class="quiet" onClick={() => void load(source.value)}>
            {t.tryAgain}
          </button>
        )}
        {lost.value && (
          <button type="button" class="quiet" onClick={() => void recover()}>
            {t.recover}
          </button>
        )}
        <button type="button" class="quiet" onClick={() => (failure.value = undefined)}>
          {t.dismiss}
        </button>
      </span>
    </div>
  );
}
