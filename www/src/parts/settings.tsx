import type { ComponentChildren } from "preact";
import { change, settings, type Settings } from "../state/settings";
import { LANGUAGES, texts, type Language } from "../texts";
import { Dialog } from "./dialog";

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
            placeholder={t.systemPlaceholder}
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
            <NumberField
              label={t.temperature}
              value={now.temperature}
              min={0}
              max={2}
              step={0.05}
              onChange={(temperature) => change({ temperature: temperature ?? 1 })}
            />
            <NumberField label={t.topP} value={now.topP} min={0} max={1} step={0.05} onChange={(topP) => change({ topP: topP ?? 0.3 })} />
            <NumberField label={t.topK} value={now.topK} min={0} max={1000} step={1} onChange={(topK) => change({ topK: topK ?? 0 })} />
          </div>
        )}
        <div class="row">
          <NumberField label={t.seed} value={now.seed} min={0} max={2 ** 32 - 1} step={1} onChange={(seed) => change({ seed })} />
          <NumberField
            label={t.maxTokens}
            value={now.maxTokens}
            min={1}
            max={8192}
            step={1}
            onChange={(maxTokens) => change({ maxTokens })}
          />
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
      </div>
    </Dialog>
  );
}

interface NumberFieldProps {
  label: string;
  value: number | null;
  min: number;
  max: number;
  step: number;
  /** `null`: the field is empty. What does not fit is not told. */
  onChange: (value: number | null) => void;
}

function NumberField({ label, value, min, max, step, onChange }: NumberFieldProps) {
  return (
    <label class="number">
      {label}
      <input
        type="number"
        inputMode="decimal"
        min={min}
        max={max}
        step={step}
        value={value ?? ""}
        onChange={({ currentTarget }) => {
          if (currentTarget.value === "") onChange(null);
          else if (currentTarget.validity.valid) onChange(currentTarget.valueAsNumber);
        }}
      />
    </label>
  );
}
