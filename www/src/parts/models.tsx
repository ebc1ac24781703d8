/** Chooses the model, describes a download before it starts, and manages stored models. */

import { useEffect, useState } from "preact/hooks";
import type { CheckReport } from "qwen-vl-web";
import { EMBEDDED, isLater, kind, load, looking, model, proposal, propose, source, sourceName } from "../state/model";
import { fail, PageError } from "../state/notices";
import { change, CONTEXT_LENGTHS, PICTURE_TOKENS, settings } from "../state/settings";
import { look, stored } from "../state/stored";
import { formatBytes, texts } from "../texts";
import { addressOf, plan } from "../state/conversion";
import { Conversion, KnownModels, Offer, Unfinished } from "./conversion";
import { Dialog, opened } from "./dialog";
import { take } from "./files";
import { Reasons } from "./reasons";
import { Stored } from "./stored";
import "./models.css";

export function Models() {
  const t = texts.value;
  const [url, setUrl] = useState(typeof source.value === "string" && source.value !== EMBEDDED ? source.value : "");
  useEffect(() => {
    // Without storage the list is empty.
    look().catch(() => (stored.value = []));
  }, [model.value]);
  const start = (action: () => Promise<void>) => () => {
    opened.value = undefined;
    action().catch(fail);
  };
  return (
    <Dialog name="models" title={t.models}>
      <Conversion />
      <Unfinished />
      <section>
        <h3>{t.modelNow}</h3>
        <p>
          <strong>{sourceName(t)}</strong>
          {model.value && (
            <span data-testid="generation">
              {" "}
              · {t.generations[model.value.info.family]} · {formatBytes(model.value.info.downloadBytes)}
            </span>
          )}
        </p>
        <p>{t.about[kind.value]}</p>
        <div class="row">
          <button type="button" class="quiet" data-testid="load-embedded" onClick={start(() => load(EMBEDDED))}>
            {t.embeddedUse}
          </button>
          <label class="inline">
            {t.contextLength}
            <select
              value={String(settings.value.contextLength)}
              onChange={(event) => change({ contextLength: Number(event.currentTarget.value) })}
            >
              {CONTEXT_LENGTHS.map((length) => (
                <option key={length}>{length}</option>
              ))}
            </select>
          </label>
          {isLater.value && (
            <label class="inline">
              {t.maxPictureTokens}
              <select
                data-testid="picture-tokens"
                value={String(settings.value.maxPictureTokens)}
                onChange={(event) => change({ maxPictureTokens: Number(event.currentTarget.value) })}
              >
                {PICTURE_TOKENS.map((tokens) => (
                  <option key={tokens}>{tokens}</option>
                ))}
              </select>
            </label>
          )}
        </div>
      </section>
      <KnownModels />
      <section>
        <h3>{t.fromUrl}</h3>
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            void propose(addressOf(url.trim()));
          }}
        >
          <label class="grow">
            {t.urlLabel}
            <input
              type="text"
              inputMode="url"
              required
              placeholder="Qwen/Qwen3-VL-2B-Instruct"
              data-testid="url"
              value={url}
              onInput={(event) => setUrl(event.currentTarget.value)}
            />
          </label>
          <button type="submit" class="quiet" data-testid="look" disabled={looking.value}>
            {t.look}
          </button>
        </form>
        {looking.value && <p role="status">{t.checking}</p>}
        {proposal.value && <Statement report={proposal.value.report} onLoad={start(() => load(proposal.value!.url))} />}
        <Offer />
      </section>
      <section>
        <h3>{t.fromFolder}</h3>
        <p>{t.folderHint}</p>
        <label class="button quiet">
          {t.chooseFolder}
          <input
            type="file"
            class="hidden-input"
            data-testid="folder"
            aria-label={t.chooseFolder}
            {...{ webkitdirectory: true }}
            onChange={(event) => {
              const files = Array.from(event.currentTarget.files ?? []);
              // Without a model the one in use stays.
              if (files.some(({ name }) => name === "config.json")) return void plan(files).catch(fail);
              opened.value = undefined;
              if (files.some(({ name }) => name === "manifest.json")) void take(files);
              else fail(new PageError((t) => [t.notAModel, t.notAModelStep]));
            }}
          />
        </label>
      </section>
      <Stored />
    </Dialog>
  );
}

function Statement({ report, onLoad }: { report: CheckReport; onLoad: () => void }) {
  const t = texts.value;
  const { bytes, storage, status, reasons } = report;
  const unusable = status === "unsupported" && !bytes;
  const verdict = unusable ? t.checkUnusable : { ok: t.checkOk, slow: t.checkSlow, unsupported: t.checkUnsupported }[status];
  return (
    <div class="statement" data-testid="statement" data-status={status} role="status">
      {!unusable && <h4>{t.statement}</h4>}
      <p class={`verdict ${status}`}>{verdict}</p>
      <Reasons reasons={reasons} />
      {bytes && (
        <p>
          {[
            t.statementTotal(formatBytes(bytes.total)),
            bytes.cached > 0 ? t.statementCached(formatBytes(bytes.cached)) : t.statementNothingCached,
            bytes.download > 0 ? t.statementDownload(formatBytes(bytes.download)) : t.statementNoDownload,
            t.statementGpu(formatBytes(bytes.gpu)),
            ...(storage ? [t.statementStorage(formatBytes(storage.free))] : []),
            t.statementLicence,
          ].join(settings.value.language === "zh" ? "" : " ")}
        </p>
      )}
      {status !== "unsupported" && (
        <button type="button" class="main" data-testid="load" onClick={onLoad}>
          {bytes && bytes.download > 0 ? t.downloadAndLoad(formatBytes(bytes.download)) : t.loadIt}
        </button>
      )}
    </div>
  );
}
