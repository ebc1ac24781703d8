/** The known models, a conversion from the plan to the finished model, and the conversions that are not complete. */

import { useState } from "preact/hooks";
import type { UnfinishedConversion } from "qwen-vl-web";
import { convert, conversion, discard, KNOWN, offer, pause, resumption, unfinished, type Job } from "../state/conversion";
import { loadConverting, looking, propose } from "../state/model";
import { fail, failure } from "../state/notices";
import { settings } from "../state/settings";
import { formatBytes, texts } from "../texts";
import { opened } from "./dialog";
import { Reasons } from "./reasons";

/** Models that the Hub has: a click shows what would happen. */
export function KnownModels() {
  const t = texts.value;
  return (
    <section data-testid="known">
      <h3>{t.known}</h3>
      <p>{t.knownHint}</p>
      <ul class="list stored brief">
        {KNOWN.map(({ repository, source, kept, licence }) => (
          <li key={repository}>
            <span>
              <strong>{repository.split("/")[1]}</strong>
              <small>{t.knownSizes(formatBytes(source, 1), formatBytes(kept, 1), licence)}</small>
            </span>
            <button
              type="button"
              class="quiet"
              disabled={looking.value}
              aria-label={`${t.look}: ${repository}`}
              onClick={() => void propose(`hf:${repository}`)}
            >
              {t.look}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Scrolls to what appeared on a click elsewhere in the dialog. */
const show = (element: HTMLElement | null) => element?.scrollIntoView({ block: "nearest" });

/** Converts a checkpoint, and loads the model as it is made. */
async function convertAndLoad(job: Job): Promise<void> {
  const { from, url = from, runs = true } = job;
  const complete = await convert(job, runs ? (options) => loadConverting(from, url, options) : undefined);
  if (complete && runs && opened.value === "models") opened.value = undefined;
}

/** The plan of a conversion. */
export function Offer() {
  const t = texts.value;
  if (!offer.value) return null;
  const { job, plan } = offer.value;
  const { status, reasons } = plan.check;
  const verdict = { ok: t.checkOk, slow: t.checkSlow, unsupported: t.checkUnsupported }[status];
  const begun = unfinished.value.find(({ id }) => id === plan.id);
  const runs = conversion.value?.running === true && conversion.value.job.id === plan.id;
  return (
    <div ref={show} class="statement" data-testid="offer" data-status={status} role="status">
      <h4>{t.offer(plan.name)}</h4>
      <p class={`verdict ${status}`}>{verdict}</p>
      <Reasons reasons={reasons} />
      <p>
        {[
          `${t.generations[plan.family]}:`,
          t.offerSizes(formatBytes(plan.sourceBytes), formatBytes(plan.bytes)),
          ...(begun ? [t.offerBegun(formatBytes(begun.storedBytes))] : []),
          ...(plan.check.bytes ? [t.statementGpu(formatBytes(plan.check.bytes.gpu))] : []),
          ...(plan.check.storage ? [t.statementStorage(formatBytes(plan.check.storage.free))] : []),
          plan.licence ? t.offerLicence(plan.licence) : t.statementLicence,
        ].join(settings.value.language === "zh" ? "" : " ")}
      </p>
      {plan.notes.length > 0 && (
        <details>
          <summary>{t.offerNotes(plan.notes.length)}</summary>
          <ul>
            {plan.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </details>
      )}
      <button type="button" class="main" data-testid="convert" disabled={runs} onClick={() => void convertAndLoad(job)}>
        {begun ? t.resume : t.convertIt(formatBytes(plan.sourceBytes))}
      </button>
    </div>
  );
}

/** The conversion that runs or is paused. */
export function Conversion() {
  const t = texts.value;
  const now = conversion.value;
  if (!now) return null;
  const { job, progress, running } = now;
  const done = progress && progress.totalBytes > 0 ? progress.bytes / progress.totalBytes : undefined;
  return (
    <section ref={show} class="statement conversion" data-testid="conversion" data-running={running}>
      <h4>{running ? t.converting(job.name) : t.convertPaused(job.name)}</h4>
      {(running || done !== undefined) && <progress value={done} aria-label={t.converting(job.name)} />}
      <p role="status" data-testid="conversion-progress">
        {progress
          ? t.convertProgress(formatBytes(progress.bytes), formatBytes(progress.totalBytes), progress.shard, progress.shards)
          : running && t.convertPlan}{" "}
        {running && progress && progress.bytesPerSecond > 0 && t.convertRate(formatBytes(progress.bytesPerSecond), progress.etaSeconds)}
      </p>
      <div class="row">
        {running ? (
          <button type="button" class="quiet" data-testid="pause" onClick={pause}>
            {t.pause}
          </button>
        ) : (
          <>
            <button type="button" class="main" data-testid="resume" onClick={() => void convertAndLoad(job)}>
              {t.resume}
            </button>
            <button type="button" class="quiet" data-testid="discard" onClick={() => void discard(job.id)}>
              {t.deleteIt}
            </button>
          </>
        )}
      </div>
    </section>
  );
}

/** The conversions that are not complete, without the one that {@link Conversion} shows. */
export function Unfinished() {
  const t = texts.value;
  const others = unfinished.value.filter(({ id }) => id !== conversion.value?.job.id);
  if (others.length === 0) return null;
  return (
    <section data-testid="unfinished">
      <h3>{t.unfinished}</h3>
      <p>{t.unfinishedHint}</p>
      <ul class="list stored">
        {others.map((item) => (
          <UnfinishedItem key={item.id} item={item} />
        ))}
      </ul>
    </section>
  );
}

function UnfinishedItem({ item }: { item: UnfinishedConversion }) {
  const t = texts.value;
  const { id, name, source, bytes, storedBytes } = item;
  const [busy, setBusy] = useState(false);
  const work = async (action: () => Promise<void>) => {
    setBusy(true);
    failure.value = undefined;
    await action().catch(fail);
    setBusy(false);
  };
  const resume = (files?: readonly File[]) => work(async () => void convertAndLoad(await resumption(item, files)));
  const label = `${t.resume}: ${name}`;
  return (
    <li data-id={id}>
      <span>
        <strong>{name}</strong> · {t.storedPart(formatBytes(storedBytes), formatBytes(bytes))}
        {/* A commit is known by its first digits. */}
        <small title={source}>{source?.replace(/@([0-9a-f]{7})[0-9a-f]{33}$/, "@$1") ?? t.unfinishedFolder}</small>
      </span>
      <span class="row">
        {source === undefined ? (
          <label class="button quiet">
            {t.resumeFolder}
            <input
              type="file"
              class="hidden-input"
              data-testid="resume-folder"
              aria-label={`${t.resumeFolder}: ${name}`}
              disabled={busy}
              {...{ webkitdirectory: true }}
              onChange={(event) => void resume(Array.from(event.currentTarget.files ?? []))}
            />
          </label>
        ) : (
          <button
            type="button"
            class="quiet"
            data-testid="resume-unfinished"
            aria-label={label}
            disabled={busy}
            onClick={() => void resume()}
          >
            {t.resume}
          </button>
        )}
        <button
          type="button"
          class="quiet"
          data-testid="delete-unfinished"
          aria-label={`${t.deleteIt}: ${name}`}
          disabled={busy}
          onClick={() => void work(() => discard(id))}
        >
          {t.deleteIt}
        </button>
      </span>
    </li>
  );
}
