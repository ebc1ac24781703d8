import { useEffect, useRef, useState } from "preact/hooks";
import { choosingRegion, run } from "./state/chat";
import { kind, load, looking, lost, model, progress, recover, source, stopLoading } from "./state/model";
import { announcement, failure, offlineReady, update } from "./state/notices";
import { change, settings } from "./state/settings";
import { formatBytes, formatEta, texts } from "./texts";
import { Camera } from "./parts/camera";
import { Composer } from "./parts/composer";
import { opened } from "./parts/dialog";
import { droppedFiles, take } from "./parts/files";
import { Gallery } from "./parts/gallery";
import { Icon } from "./parts/icons";
import { Models, sourceName } from "./parts/models";
import { Panel } from "./parts/panel";
import { SceneComposer } from "./parts/scene";
import { SettingsDialog } from "./parts/settings";
import { Stage } from "./parts/stage";
import { Talk } from "./parts/talk";

const DIALOGS = { models: Models, settings: SettingsDialog, gallery: Gallery, camera: Camera, scene: SceneComposer };

export function App() {
  const t = texts.value;
  const Open = opened.value && DIALOGS[opened.value];
  useDocumentDrops();
  return (
    <>
      <a class="skip" href="#question">
        {t.skip}
      </a>
      <Header />
      <Notices />
      <main>
        <Stage />
        <section class="side" aria-label={t.conversation}>
          <Talk />
          <Failed />
          <Composer />
        </section>
      </main>
      <footer>
        <p>{t.about[kind.value]}</p>
        <Panel />
        <p>
          {t.privacy}{" "}
          <a href="https://github.com/qwen-vl-web/qwen-vl-web" rel="noreferrer">
            {t.source}
          </a>
        </p>
      </footer>
      <p class="visually-hidden" role="status">
        {announcement.value}
      </p>
      {Open && <Open />}
    </>
  );
}

function Header() {
  const t = texts.value;
  const now = progress.value;
  const status = useStatus();
  const phase = now?.phase;
  useEffect(() => {
    if (phase) announcement.value = `${t.loading}: ${t.phases[phase] ?? phase}`;
    else if (model.value) announcement.value = t.status.ready;
  }, [phase]);
  const other = settings.value.language === "en" ? ("zh" as const) : ("en" as const);
  return (
    <header class="top">
      <h1>
        <img src="./icon.svg" alt="" width="28" height="28" /> {t.title}
      </h1>
      <p class="tagline">{t.tagline}</p>
      <div class="row">
        <button type="button" class="quiet model" data-testid="models" onClick={() => (opened.value = "models")}>
          <Icon name="model" />
          <span class="model-name">{sourceName()}</span>
          <span class={`status ${model.value ? "ready" : ""}`} data-testid="status">
            {status}
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

function useStatus(): string {
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
    t.phases[phase] ?? phase,
    ...(totalBytes > 0 ? [t.progressBytes(formatBytes(bytes), formatBytes(totalBytes))] : []),
    ...(bytesPerSecond > 0 && bytes < totalBytes ? [t.progressRate(formatBytes(bytesPerSecond))] : []),
    ...(etaSeconds !== undefined && bytes < totalBytes ? [t.progressLeft(formatEta(etaSeconds))] : []),
    ...(retries > 0 ? [t.progressRetries(retries)] : []),
    ...(now.cacheProblem ? [now.cacheProblem.message] : []),
  ];
  return (
    <div class="loading" data-testid="loading" data-phase={phase}>
      <progress
        data-testid="progress"
        aria-label={t.loading}
        max={1}
        // Steps without bytes show that something goes on, not how far.
        {...(phase === "compile" || totalBytes === 0 ? {} : { value: bytes / totalBytes })}
      />
      <span>{details.join(" · ")}</span>
      <button type="button" class="plain" aria-label={t.stopLoading} title={t.stopLoading} onClick={stopLoading}>
        <Icon name="close" />
      </button>
    </div>
  );
}

function Notices() {
  const t = texts.value;
  const [online, setOnline] = useState(navigator.onLine);
  useEffect(() => {
    const look = () => setOnline(navigator.onLine);
    addEventListener("online", look);
    addEventListener("offline", look);
    return () => {
      removeEventListener("online", look);
      removeEventListener("offline", look);
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
      {!online && <p class="notice">{t.offline}</p>}
    </div>
  );
}

/** Reasons for which there will be no model in this browser. */
const NO_WEBGPU = ["WEBGPU_UNAVAILABLE", "NO_ADAPTER", "INSECURE_CONTEXT"];

function Failed() {
  const t = texts.value;
  const problem = failure.value;
  const place = useRef<HTMLDivElement>(null);
  // It comes behind the conversation, which may be long.
  useEffect(() => place.current?.scrollIntoView({ block: "nearest" }), [problem]);
  if (!problem) return null;
  const { code, message, hint } = problem;
  const noWebGpu = NO_WEBGPU.includes(code);
  return (
    <div class="error" role="alert" data-testid="error" ref={place}>
      <strong>
        {noWebGpu ? t.noWebGpu : code === "" ? message : t.failed} {code !== "" && <code data-testid="error-code">{code}</code>}
      </strong>
      {code !== "" && <span data-testid="error-message">{message}</span>}
      {hint !== "" && <span data-testid="error-hint">{hint}</span>}
      {noWebGpu && <span>{t.noWebGpuHelp}</span>}
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

/** What is dropped or pasted anywhere on the page is taken. */
function useDocumentDrops(): void {
  useEffect(() => {
    const over = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) document.body.classList.remove("dropping");
    };
    const drop = (event: DragEvent) => {
      document.body.classList.remove("dropping");
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      void droppedFiles(event.dataTransfer).then(take);
    };
    const paste = (event: ClipboardEvent) => {
      const files = Array.from(event.clipboardData?.files ?? []);
      if (files.length === 0) return;
      event.preventDefault();
      void take(files);
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key === "Escape") choosingRegion.value = false;
    };
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", leave);
    document.addEventListener("drop", drop);
    document.addEventListener("paste", paste);
    document.addEventListener("keydown", escape);
    return () => {
      document.removeEventListener("dragover", over);
      document.removeEventListener("dragleave", leave);
      document.removeEventListener("drop", drop);
      document.removeEventListener("paste", paste);
      document.removeEventListener("keydown", escape);
    };
  }, []);
}
