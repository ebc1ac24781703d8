/** The models that this device keeps: verified, deleted, and saved to a folder. */

import { useState } from "preact/hooks";
import { QwenVL, type CachedModel } from "qwen-vl-web";
import { load, progress } from "../state/model";
import { fail } from "../state/notices";
import { canSave, commandFor, estimate, look, outcome, save, saving, stopSaving, stored } from "../state/stored";
import { formatBytes, texts } from "../texts";
import type { Texts } from "../texts/en";
import { opened } from "./dialog";

export function Stored() {
  const t = texts.value;
  const [busy, setBusy] = useState(false);
  /** Address of the model whose saving is explained. */
  const [explained, explain] = useState<string>();
  const work = async (action: () => Promise<((texts: Texts) => string) | undefined>) => {
    setBusy(true);
    outcome.value = undefined;
    try {
      const found = await action();
      await look();
      outcome.value = found;
    } catch (error) {
      fail(error);
    } finally {
      setBusy(false);
    }
  };
  const verify = async ({ url }: CachedModel) => {
    const { complete } = await QwenVL.cache.verify(url);
    return (t: Texts) => (complete ? t.verified : t.verifiedNot);
  };
  const remove = async ({ url }: CachedModel) => {
    await QwenVL.cache.delete(url);
    return undefined;
  };
  const keep = async () => {
    const kept = await QwenVL.cache.persist();
    return (t: Texts) => (kept ? t.kept : t.keptNot);
  };
  const list = stored.value;
  const space = estimate.value;
  const disabled = busy || progress.value !== undefined || saving.value !== undefined;
  return (
    <section data-testid="stored">
      <h3>{t.stored}</h3>
      {list?.length === 0 && <p>{t.storedNone}</p>}
      <ul class="list stored">
        {list?.map((model) => {
          const { url, source, bytes, storedBytes, complete } = model;
          const button = (label: string, id: string, onClick: () => void) => (
            <button type="button" class="quiet" data-testid={id} aria-label={`${label}: ${source}`} disabled={disabled} onClick={onClick}>
              {label}
            </button>
          );
          return (
            <li key={url} data-url={url}>
              <span>
                <strong>{source}</strong> ·{" "}
                {complete ? t.storedWhole(formatBytes(bytes)) : t.storedPart(formatBytes(storedBytes), formatBytes(bytes))}
                <small>{url}</small>
              </span>
              <span class="row">
                {button(t.loadIt, "load-stored", () => {
                  opened.value = undefined;
                  void load(url);
                })}
                {complete && button(t.save, "save", () => (canSave ? void save(model) : explain(explained === url ? undefined : url)))}
                {button(t.verify, "verify", () => void work(() => verify(model)))}
                {button(t.deleteIt, "delete", () => void work(() => remove(model)))}
              </span>
              {saving.value?.model.url === url && <Saving />}
              {explained === url && <CannotSave source={source} />}
            </li>
          );
        })}
      </ul>
      <p role="status" data-testid="outcome">
        {outcome.value?.(t)}
      </p>
      {space && (
        <div class="row middle">
          <span>
            {t.storage(formatBytes(space.usage), formatBytes(space.quota))} {space.persisted ? t.kept : ""}
          </span>
          {!space.persisted && (
            <button type="button" class="quiet" onClick={() => void work(keep)}>
              {t.keep}
            </button>
          )}
        </div>
      )}
    </section>
  );
}

function Saving() {
  const t = texts.value;
  const { model, progress: now } = saving.value!;
  const label = t.saving(model.source);
  return (
    <div class="below" data-testid="saving">
      <progress aria-label={label} {...(now && now.totalBytes > 0 ? { value: now.bytes / now.totalBytes } : {})} />
      <div class="row middle">
        <span class="grow" role="status">
          {now ? t.progressBytes(formatBytes(now.bytes), formatBytes(now.totalBytes)) : label}
        </span>
        <button type="button" class="quiet" data-testid="stop-saving" onClick={stopSaving}>
          {t.stop}
        </button>
      </div>
    </div>
  );
}

/** Says how to get the folder where the browser cannot write one. */
function CannotSave({ source }: { source: string }) {
  const t = texts.value;
  return (
    <div class="below statement" role="status" data-testid="cannot-save">
      <p>{t.cannotSave}</p>
      <code>{commandFor(source)}</code>
    </div>
  );
}
