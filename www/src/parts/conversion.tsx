/** The known models, and a conversion from the plan to the finished model. */

import { convert, conversion, discard, KNOWN, offer, pause } from "../state/conversion";
import { load, looking, propose } from "../state/model";
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
      <ul class="list stored">
        {KNOWN.map(({ repository, source, kept, licence }) => (
          <li key={repository}>
            <span>
              <strong>{repository.split("/")[1]}</strong>
              <small>{t.knownSizes(formatBytes(source), formatBytes(kept), licence)}</small>
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

/** The plan of a conversion. */
export function Offer() {
  const t = texts.value;
  if (!offer.value) return null;
  const { from, plan } = offer.value;
  const { status, reasons } = plan.check;
  const verdict = { ok: t.checkOk, slow: t.checkSlow, unsupported: t.checkUnsupported }[status];
  const start = async () => {
    const url = await convert(from, plan.name);
    if (url === undefined) return;
    opened.value = undefined;
    await load(url);
  };
  return (
    <div ref={show} class="statement" data-testid="offer" data-status={status} role="status">
      <h4>{t.offer(plan.name)}</h4>
      <p class={`verdict ${status}`}>{verdict}</p>
      <Reasons reasons={reasons} />
      <p>
        {[
          `${t.generations[plan.family]}:`,
          t.offerSizes(formatBytes(plan.sourceBytes), formatBytes(plan.bytes)),
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
      <button type="button" class="main" data-testid="convert" onClick={() => void start()}>
        {t.convertIt(formatBytes(plan.sourceBytes))}
      </button>
    </div>
  );
}

/** The conversion that runs or is paused. */
export function Conversion() {
  const t = texts.value;
  const now = conversion.value;
  if (!now) return null;
  const { name, from, progress, running } = now;
  const done = progress && progress.totalBytes > 0 ? progress.bytes / progress.totalBytes : undefined;
  const resume = async () => {
    const url = await convert(from, name);
    if (url === undefined) return;
    opened.value = undefined;
    await load(url);
  };
  return (
    <section ref={show} class="statement conversion" data-testid="conversion" data-running={running}>
      <h4>{running ? t.converting(name) : t.convertPaused(name)}</h4>
      <progress value={done} aria-label={t.converting(name)} />
      {progress && (
        <p role="status" data-testid="conversion-progress">
          {t.convertProgress(formatBytes(progress.bytes), formatBytes(progress.totalBytes), progress.shard, progress.shards)}{" "}
          {running && progress.bytesPerSecond > 0 && t.convertRate(formatBytes(progress.bytesPerSecond), progress.etaSeconds)}
        </p>
      )}
      <div class="row">
        {running ? (
          <button type="button" class="quiet" data-testid="pause" onClick={pause}>
            {t.pause}
          </button>
        ) : (
          <>
            <button type="button" class="main" data-testid="resume" onClick={() => void resume()}>
              {t.resume}
            </button>
            <button type="button" class="quiet" data-testid="discard" onClick={() => void discard()}>
              {t.discardIt}
            </button>
          </>
        )}
      </div>
    </section>
  );
}
