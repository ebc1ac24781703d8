// The report of the benchmark as Markdown.

/** Returns a number with three or more digits, or `unknown`. */
export function figure(value) {
  if (value === null || value === undefined) return "unknown";
  if (value >= 100) return value.toFixed(0);
  if (value >= 1) return value.toFixed(value >= 10 ? 1 : 2);
  return value.toPrecision(3);
}

/** Returns the page of a report as `gpu.mjs` writes it. */
export function markdown(report) {
  const [kernels, models, inDawn, wllama] = ["kernels", "models", "package", "wllama"].map((name) =>
    report.stages.find((stage) => stage.name === name),
  );
  const parts = [
    "# Benchmark of a GPU",
    ...warnings(report),
    machine(report),
    section(kernels, kernelTables),
    section(models, modelTables),
    section(inDawn, packageTable),
    section(wllama, wllamaTable),
    leftOut(report),
    commands(report),
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

function warnings({ complete, dryRun, stages }) {
  const software = stages.filter((stage) => stage.software && stage.rows.length > 0);
  const of = [...new Set(software.map(({ adapter }) => adapter))].join(", ");
  const titles = software.map(({ title }) => `"${title}"`).join(", ");
  return [
    complete ? "" : "**Incomplete: the benchmark was still running, or was ended, when this was written.**",
    software.length === 0 ? "" : `**The figures of ${titles} are of a software adapter (${of}). They are not figures of a GPU.**`,
    dryRun ? "A dry run: the models and the number of measurements are small." : "",
  ];
}

function machine({ environment, bandwidth, date, commit, seconds, minutes }) {
  const { nvidia } = environment;
  const rows = [
    ["adapter", environment.adapter ?? `unknown: ${environment.error}`],
    ["driver", [environment.backend, environment.driver].filter(Boolean).join(", ") || "unknown"],
    ...(nvidia ? [["nvidia-smi", `${nvidia.name}, driver ${nvidia.driver}, limit ${figure(nvidia.limitWatts)} W`]] : []),
    ["memory bandwidth", bandwidthText(bandwidth)],
    ["an empty dispatch", `${figure(environment.emptyDispatch)} µs`],
    ["kernels that a load chooses", environment.chosenKernels ?? "unknown"],
    ["machine", `${environment.os}; ${environment.cpu}; Node ${environment.node}`],
    ["commit", commit ?? "unknown"],
    ["time", `${date}, ${figure(seconds)} s of ${figure(minutes * 60)} s`],
  ];
  return table(["", ""], rows);
}

function bandwidthText({ gigabytesPerSecond, source, copy, published }) {
  const sources = { given: "as given", copy: "measured by a copy of 64 MiB", published: "as published", unknown: "no source" };
  const others = Object.entries({ copy, published }).filter(([name]) => name !== source);
  const rates = others.map(([name, rate]) => `${name}: ${figure(rate)}`).join(", ");
  return `${figure(gigabytesPerSecond)} GB/s, ${sources[source]} (${rates}); percentages refer to it`;
}

/** Returns the section of a stage: its power and its tables, or the reason why it has none. */
function section(stage, tables) {
  const { title, status, reason, adapter, watts, rows } = stage;
  if (rows.length === 0) return `## ${title}\n\n${status}: ${reason}`;
  const power = watts
    ? `mean ${figure(watts.mean)} W, at most ${figure(watts.max)} W (${watts.source}, ${watts.samples} samples)`
    : "unknown";
  return [`## ${title}`, `Adapter: ${adapter}. Power: ${power}.${status === "failed" ? ` Failed: ${reason}.` : ""}`, ...tables(rows)].join(
    "\n\n",
  );
}

function kernelTables(rows) {
  const sets = [...new Set(rows.map(({ set }) => set))];
  return sets.flatMap((set) => [
    `### \`${set}\``,
    table(
      ["kernel", "ms", "GFLOP/s", "GB/s", "% of bandwidth"],
      rows.filter((row) => row.set === set).map((row) => [row.name, ...figures(row, ["millis", "gflopPerSecond", ...RATES])]),
    ),
  ]);
}

const RATES = ["gigabytesPerSecond", "bandwidthPercent"];
const RATE_TITLES = ["GB/s", "% of bandwidth", "dispatches a token", "µs a dispatch"];

function modelTables(rows) {
  const name = ({ model, set }) => [model, `\`${set}\``];
  return [
    "### Decoding",
    table(
      ["model", "kernels", "context", "tokens/s", ...RATE_TITLES],
      rows.flatMap((row) => row.decode.map((at) => [...name(row), at.context, figure(at.tokensPerSecond), ...decodingFigures(at)])),
    ),
    "### Prompts",
    table(
      ["model", "kernels", "tokens", "ms", "tokens/s"],
      rows.flatMap((row) => row.prompts.map((at) => [...name(row), at.tokens, ...figures(at, ["millis", "tokensPerSecond"])])),
    ),
    "### A picture of 448×448",
    table(
      ["model", "kernels", "ms", "GPU buffers, GB"],
      rows.map((row) => [...name(row), measured(row.pictureMillis), figure(row.gpuBytes / 1e9)]),
    ),
  ];
}

function packageTable(rows) {
  return [
    table(
      ["model", "load, ms", "first picture, ms", "prompt, tokens", "first prompt, ms", "tokens/s", ...RATE_TITLES],
      rows.map((row) => [
        row.model,
        figure(row.loadMs),
        measured(row.encodeMs),
        row.promptTokens,
        ...figures(row, ["prefillMs", "tokensPerSecond"]),
        ...decodingFigures(row),
      ]),
    ),
  ];
}

function wllamaTable(rows) {
  return [
    table(
      ["model", "program", "runs on", "prompt, tokens", "to the first token, ms", "tokens/s"],
      rows.map((row) => [row.model, row.who, row.where, row.promptTokens, ...figures(row, ["firstMs", "tokensPerSecond"])]),
    ),
  ];
}

function leftOut({ stages }) {
  // A stage without rows has its reasons in its section.
  const measured = stages.filter(({ rows }) => rows.length > 0);
  const lines = measured.flatMap((stage) => stage.leftOut.map(({ what, reason }) => `- ${stage.title}, ${what}: ${reason}`));
  return ["## Left out", lines.join("\n") || "Nothing, apart from the stages without figures."].join("\n\n");
}

function commands({ commands }) {
  const lines = commands.map(({ line, seconds, error }) => `${line}    # ${seconds.toFixed(1)} s${error ? `; ${error}` : ""}`);
  return ["## Commands", "In the root of the repository:", ["```sh", ...lines, "```"].join("\n")].join("\n\n");
}

/** Returns a time that only some rows have. */
function measured(millis) {
  return millis === null ? "not measured" : figure(millis);
}

function decodingFigures(row) {
  return [...figures(row, RATES), row.dispatches, figure(row.microsecondsPerDispatch)];
}

function figures(row, names) {
  return names.map((name) => figure(row[name]));
}

function table(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => String(cell).replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
