import { useEffect } from "preact/hooks";
import { run } from "../state/chat";
import { looking, model, progress, sourceName, stopLoading } from "../state/model";
import { announcement } from "../state/notices";
import { change, settings } from "../state/settings";
import { formatBytes, formatEta, texts } from "../texts";
import { opened } from "./dialog";
import "./header.css";
import { Icon } from "./icons";

export function Header() {
  const t = texts.value;
  const now = progress.value;
  const phase = now?.phase;
  useEffect(() => {
    if (phase) announcement.value = `${t.loading}: ${t.phases[phase]}`;
    else if (model.value) announcement.value = t.status.ready;
  }, [phase]);
  const other = settings.value.language === "en" ? ("zh" as const) : ("en" as const);
  return (
    <header class="top">
      <h1>
        <img src="./icon.svg" alt="" width="28" height="28" /> <span>{t.title}</span>
      </h1>
      <p class="tagline">{t.tagline}</p>
      <div class="row">
        <button type="button" class="quiet model" data-testid="models" onClick={() => (opened.value = "models")}>
          <Icon name="model" />
          <span class="model-name">{sourceName(t)}</span>
          <span class={`status ${model.value ? "ready" : ""}`} data-testid="status">
            {status()}
          </span>
        </button>
        <button
          type="button"
          class="quiet"
          lang={other === "zh" ? "zh-CN" : "en"}
          data-testid="language"
          onClick={() => change({ language: other })}
        >
          {other === "zh" ? "中文" : "English"}
        </button>
        <button type="button" class="quiet" aria-label={t.settings} data-testid="settings" onClick={() => (opened.value = "settings")}>
          <Icon name="gear" />
        </button>
      </div>
      {now && <Loading />}
    </header>
  );
}

function status(): string {
  const { status } = texts.value;
  if (progress.value) return status.loading;
  if (looking.value) return status.checking;
  if (!model.value) return status.none;
  return run.value ? status.thinking : status.ready;
}

function Loading() {
  const t = texts.value;
  const now = progress.value;
  if (!now) return null;
  const { bytes, totalBytes, bytesPerSecond, etaSeconds, retries, phase } = now;
  const details = [
    t.phases[phase],
    ...(totalBytes > 0 ? [t.progressBytes(formatBytes(bytes), formatBytes(totalBytes))] : []),
    ...(bytesPerSecond > 0 && bytes < totalBytes ? [t.progressRate(formatBytes(bytesPerSecond))] : []),
    ...(etaSeconds !== undefined && bytes < totalBytes ? [t.progressLeft(formatEta(etaSeconds))] : []),
    ...(retries > 0 ? [t.progressRetries(retries)] : []),
    ...(now.cacheProblem ? [t.notKept] : []),
  ];
  return (
    <div class="loading" data-testid="loading" data-phase={phase}>
      <progress
        data-testid="progress"
        aria-label={t.loading}
        max={1}
        // Phases without bytes are shown as an indeterminate bar.
        {...(phase === "compile" || totalBytes === 0 ? {} : { value: bytes / totalBytes })}
      />
      <span title={now.cacheProblem?.message}>{details.join(" · ")}</span>
      <button type="button" class="plain" aria-label={t.stopLoading} title={t.stopLoading} onClick={stopLoading}>
        <Icon name="close" />
      </button>
    </div>
  );
}
