import { turns } from "../state/chat";
import { model } from "../state/model";
import { formatBytes, formatMillis, formatNumber, texts } from "../texts";

/** For the curious: the machine, the model, and what the latest answer took. */
export function Panel() {
  const t = texts.value;
  const info = model.value?.info;
  if (!info) return null;
  const facts = turns.value.reduce<ReturnType<typeof factsOf>>((found, turn) => factsOf(turn) ?? found, undefined);
  const { adapter } = info;
  const rows: [string, string][] = [
    [t.panelModel, `${info.source}. ${info.modifications}`],
    [t.panelGpu, formatBytes(info.gpuBytes)],
    [t.panelContext, t.panelTokens(info.contextLength)],
    [t.panelAdapter, [adapter.name, adapter.driver, adapter.backend].filter(Boolean).join(" · ") || t.unknown],
  ];
  if (facts) {
    const { usage, timings } = facts;
    rows.push(
      [t.panelEncode, formatMillis(timings.encodeMs)],
      [t.panelPrefill, `${t.panelPrompt(usage.promptTokens, usage.imageTokens, usage.reusedTokens ?? 0)}: ${formatMillis(timings.prefillMs)}`],
      [t.panelFirst, formatMillis(timings.firstTokenMs)],
      [
        t.panelDecode,
        `${t.panelTokens(usage.completionTokens)}: ${formatMillis(timings.decodeMs)}, ${t.panelRate(formatNumber(timings.decodeTokensPerSecond))}`,
      ],
    );
  }
  return (
    <details class="panel" data-testid="panel">
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
    </details>
  );
}

const factsOf = ({ progress }: (typeof turns.value)[number]) => progress.value.facts;
