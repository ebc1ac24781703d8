import type { ComponentChildren } from "preact";
import { isLater, model } from "../state/model";
import { change, DEFAULTS, RANGES, settings, type Settings } from "../state/settings";
import { LANGUAGES, texts, type Language } from "../texts";
import { Dialog } from "./dialog";
import "./settings.css";

export function SettingsDialog() {
  const t = texts.value;
  const now = settings.value;
  return (
    <Dialog name="settings" title={t.settings}>
      <div class="form">
        <label>
          {t.system}
          <textarea
            rows={3}
            placeholder={model.value?.info.family === "qwen3_vl" ? "" : t.systemPlaceholder}
            data-testid="system"
            value={now.system}
            onInput={(event) => change({ system: event.currentTarget.value })}
          />
        </label>
        <label>
          {t.sampling}
          <select
            data-testid="sampling"
            value={now.sampling}
            onChange={(event) => change({ sampling: event.currentTarget.value as Settings["sampling"] })}
          >
            <option value="model">{t.samplingModel}</option>
            <option value="greedy">{t.samplingGreedy}</option>
            <option value="own">{t.samplingOwn}</option>
          </select>
        </label>
        {now.sampling === "own" && (
          <div class="row">
            <NumberField name="temperature" label={t.temperature} />
            <NumberField name="topP" label={t.topP} />
            <NumberField name="topK" label={t.topK} />
          </div>
        )}
        <div class="row">
          <NumberField name="seed" label={t.seed} />
          <NumberField name="maxTokens" label={t.maxTokens} />
          {isLater.value && <NumberField name="presencePenalty" label={t.presencePenalty} />}
        </div>
        <div class="row">
          <label>
            {t.languageLabel}
            <select value={now.language} onChange={(event) => change({ language: event.currentTarget.value as Language })}>
              {Object.entries(LANGUAGES).map(([key, { language }]) => (
                <option key={key} value={key}>
                  {language}
                </option>
              ))}
            </select>
          </label>
          <label>
            {t.theme}
            <select
              value={now.theme}
              data-testid="theme"
              onChange={(event) => change({ theme: event.currentTarget.value as Settings["theme"] })}
            >
              {Object.entries(t.themes).map(([key, name]): ComponentChildren => (
                <option key={key} value={key}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        </div>
        <label>
          {t.hubUrl}
          <input
            type="url"
            required
            data-testid="hub"
            value={now.hubUrl}
            onChange={({ currentTarget: field }) => {
              // Otherwise the browser explains in its own words what is wrong.
              if (field.reportValidity()) change({ hubUrl: field.value.trim() });
            }}
          />
        </label>
      </div>
    </Dialog>
  );
}

/** A number that is kept if it is valid. An empty field stands for the default. */
function NumberField({ name, label }: { name: keyof typeof RANGES; label: string }) {
  const set = (value: number | null) => change({ [name]: value });
  return (
    <label class="number">
      {label}
      <input
        type="number"
        inputMode="decimal"
        {...RANGES[name]}
        value={settings.value[name] ?? ""}
        onChange={({ currentTarget: field }) => {
          if (field.value === "" && field.validity.valid) set(DEFAULTS[name]);
          // Otherwise the browser explains in its own words what is wrong.
          else if (field.reportValidity()) set(field.valueAsNumber);
        }}
      />
    </label>
  );
}
