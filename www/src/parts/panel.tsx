import { createRef } from "preact";
import { useState } from "preact/hooks";
import { run, turns } from "../state/chat";
import { adapter, model } from "../state/model";
import { fail } from "../state/notices";
import { formatBytes, formatMillis, formatNumber, texts } from "../texts";
import "./panel.css";

const place = createRef<HTMLDetailsElement>();

/** Opens the technical details and scrolls to them. */
export function showPanel(): void {
  const panel = place.current;
  if (!panel) return;
  panel.open = true;
  panel.scrollIntoView({ block: "start" });
  panel.querySelector("summary")?.focus({ preventScroll: true });
}

/** Technical details: the model, the device, and the times of the latest answer. */
export function Panel() {
  const t = texts.value;
  const info = model.value?.info;
  if (!info) return null;
  const facts = turns.value.reduce<ReturnType<typeof factsOf>>((found, turn) => factsOf(turn) ?? found, undefined);
  const { vendor, architecture, isFallback } = adapter.value ?? {};
  const gpu = [vendor, architecture, isFallback ? t.panelFallback : ""].filter(Boolean).join(", ") || t.unknown;
  const rows: [string, string][] = [
    [t.panelModel, `${info.source}. ${info.modifications}`],
    [t.panelGeneration, t.generations[info.family]],
    [info.backend === "cpu" ? t.panelMemory : t.panelGpu, formatBytes(info.gpuBytes)],
    [t.panelContext, t.panelTokens(info.contextLength)],
    [t.panelAdapter, info.backend === "cpu" ? t.panelCpu : gpu],
  ];
  if (info.backend === "webgpu") rows.push([t.panelKernels, info.adapter.kernels]);
  if (facts) {
    const { usage, timings } = facts;
    rows.push(
      [t.panelEncode, formatMillis(timings.encodeMs)],
      [
        t.panelPrefill,
        `${t.panelPrompt(usage.promptTokens, usage.imageTokens, usage.reusedTokens ?? 0)}: ${formatMillis(timings.prefillMs)}`,
      ],
      [t.panelFirst, formatMillis(timings.firstTokenMs)],
      [
        t.panelDecode,
        `${t.panelTokens(usage.completionTokens)}: ${formatMillis(timings.decodeMs)}, ${t.panelRate(formatNumber(timings.decodeTokensPerSecond))}`,
      ],
    );
  }
  return (
    <details ref={place} class="panel" data-testid="panel">
      <summary>{t.panel}</summary>
      <dl data-testid="model">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {!facts && <p>{t.panelNone}</p>}
      <Benchmark />
    </details>
  );
}

/** Sequence lengths, in tokens, at which answers are timed. */
const CONTEXTS = [512, 2048];

function Benchmark() {
  const t = texts.value;
  const [report, setReport] = useState("");
  const [measuring, setMeasuring] = useState(false);
  const measure = async () => {
    setMeasuring(true);
    try {
      setReport(String(await model.value?.benchmark({ contexts: CONTEXTS, runs: 1 })));
    } finally {
      setMeasuring(false);
    }
  };
  return (
    <>
      <div class="row">
        <button
          type="button"
          class="quiet"
          data-testid="benchmark"
          title={t.panelMeasureHint}
          disabled={measuring || run.value !== undefined}
          onClick={() => measure().catch(fail)}
        >
          {measuring ? t.panelMeasuring : t.panelMeasure}
        </button>
      </div>
      {report !== "" && (
        // Focusable, because it scrolls sideways on narrow screens.
        <pre tabIndex={0} data-testid="report">
          {report}
        </pre>
      )}
    </>
  );
}

const factsOf = ({ progress }: (typeof turns.value)[number]) => progress.value.facts;
