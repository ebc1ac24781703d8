import { isSoftware, namesSoftware } from "../wire/adapter.js";
import type { EngineBenchmarkReport } from "../wire/engine.js";
import type { ModelInfo, Steps } from "../wire/protocol.js";
import { abortSignal, anyBoolean, anyFunction, arrayOf, whole, type Checks } from "./options.js";

export interface BenchmarkOptions {
  /** Sequence lengths at which decoding is timed, in tokens; 512 and 2048 by default, if the context allows them. */
  contexts?: readonly number[];
  /** Prompt lengths that are timed, in tokens; 128, 320 and 1024 by default, if the context allows them. */
  prompts?: readonly number[];
  /** Tokens to decode at each length; 32 by default. */
  decodeTokens?: number;
  /** Repetitions, of which the median counts; 3 by default. */
  runs?: number;
  /** True (default) if a picture is timed, too. */
  picture?: boolean;
  /** Bandwidth of the GPU's memory according to its data sheet, in GB/s; that of a copy by default. Decoding is reported as a part of it. */
  bandwidth?: number;
  signal?: AbortSignal;
  onProgress?: (progress: Steps) => void;
}

/** Checks of the options. Lengths that do not fit the context are refused by the runtime. */
export const BENCHMARK_CHECKS: Checks<BenchmarkOptions> = {
  contexts: arrayOf(whole(1), "whole numbers from 1"),
  prompts: arrayOf(whole(1), "whole numbers from 1"),
  decodeTokens: whole(1),
  runs: whole(1),
  picture: anyBoolean,
  bandwidth: { expected: "a number above 0", accepts: (value) => typeof value === "number" && value > 0 && Number.isFinite(value) },
  signal: abortSignal,
  onProgress: anyFunction,
};

/** Speed of a model on this machine: medians of wall-clock times. `String(report)` is a table. */
export class BenchmarkReport {
  readonly model: string;
  /** Description of the GPU by the browser; most browsers say little. */
  readonly adapter: string;
  readonly browser: string;
  /** True if the adapter is software: such speeds say nothing about a GPU. */
  readonly software: boolean;
  readonly contextLength: number;
  /** Duration of the load, in milliseconds. */
  readonly loadMs: number;
  /** Bytes that the load took from the cache. */
  readonly restoredBytes: number;
  /** Bytes of the model's files. */
  readonly downloadBytes: number;
  /** Bytes of all GPU buffers, by our own accounting. */
  readonly gpuBytes: number;
  readonly runs: number;
  /** Duration of vision tower and resampler for one picture, in milliseconds; 0 if pictures were not timed. */
  readonly encodeMs: number;
  /** Parts of it, in milliseconds: one block of the vision tower, and the resampler. Absent on the CPU backend. */
  readonly visionBlockMs?: number;
  readonly resamplerMs?: number;
  readonly prefill: readonly {
    /** Length of the prompt, in tokens. */
    tokens: number;
    tokensPerSecond: number;
  }[];
  readonly decode: readonly {
    /** Length of the sequence, in tokens. */
    context: number;
    tokensPerSecond: number;
    /** Weights, keys and values that are read, in GB/s. */
    gigabytesPerSecond: number;
    /** Part of `BenchmarkOptions.bandwidth`, or of the bandwidth of a copy. */
    percentOfBandwidth?: number;
  }[];
  readonly dispatchesPerToken: number;
  /** Limits of the adapter. Absent on the CPU backend. */
  readonly limits?: {
    /** Copy on the GPU; bytes read and bytes written are both counted. */
    copyGigabytesPerSecond: number;
    /** Writing from the page to the GPU. */
    uploadGigabytesPerSecond: number;
    /** Duration of a nearly empty dispatch among many. */
    microsecondsPerDispatch: number;
  };

  /** @internal */
  constructor(
    info: ModelInfo,
    adapter: GPUAdapterInfo | undefined,
    load: { ms: number; restoredBytes: number },
    report: EngineBenchmarkReport,
    { runs = 3, bandwidth = report.limits?.copy_gigabytes_per_second }: BenchmarkOptions,
  ) {
    this.model = info.source;
    const { name, driver, backend } = info.adapter;
    this.adapter = [adapter?.vendor, adapter?.architecture, adapter?.description, name, driver].filter(Boolean).join(" ") || backend;
    this.browser = globalThis.navigator?.userAgent ?? "";
    this.software = (isSoftware({ info: adapter }) ?? false) || namesSoftware(this.adapter);
    this.contextLength = info.contextLength;
    this.loadMs = load.ms;
    this.restoredBytes = load.restoredBytes;
    this.downloadBytes = info.downloadBytes;
    this.gpuBytes = info.gpuBytes;
    this.runs = runs;
    this.encodeMs = report.encode_ms;
    if (report.picture_parts) {
      this.visionBlockMs = report.picture_parts.block_ms;
      this.resamplerMs = report.picture_parts.resampler_ms;
    }
    this.prefill = report.prefill.map(({ tokens, tokens_per_second }) => ({ tokens, tokensPerSecond: tokens_per_second }));
    this.decode = report.decode.map(({ context, tokens_per_second, bytes_per_token }) => {
      const gigabytesPerSecond = (bytes_per_token * tokens_per_second) / 1e9;
      const percent = bandwidth === undefined ? {} : { percentOfBandwidth: (gigabytesPerSecond / bandwidth) * 100 };
      return { context, tokensPerSecond: tokens_per_second, gigabytesPerSecond, ...percent };
    });
    this.dispatchesPerToken = report.dispatches_per_token;
    if (report.limits) {
      this.limits = {
        copyGigabytesPerSecond: report.limits.copy_gigabytes_per_second,
        uploadGigabytesPerSecond: report.limits.upload_gigabytes_per_second,
        microsecondsPerDispatch: report.limits.microseconds_per_dispatch,
      };
    }
  }

  toString(): string {
    const rows: [string, string][] = [
      ["model", `${this.model}, context of ${this.contextLength}`],
      ["adapter", this.adapter + (this.software ? " (software: not the speed of a GPU)" : "")],
      ["browser", this.browser],
      ["load", `${seconds(this.loadMs)}, ${megabytes(this.restoredBytes)} of ${megabytes(this.downloadBytes)} from the cache`],
      ...(this.encodeMs > 0 ? [["encode a picture", `${this.encodeMs.toFixed(1)} ms${this.#parts()}`] satisfies [string, string]] : []),
      ...this.prefill.map(({ tokens, tokensPerSecond }): [string, string] => [
        `prefill, ${tokens} tokens`,
        `${tokensPerSecond.toFixed(1)} tokens/s`,
      ]),
      ...this.decode.map(({ context, tokensPerSecond, gigabytesPerSecond, percentOfBandwidth }): [string, string] => [
        `decode at ${context}`,
        `${tokensPerSecond.toFixed(1)} tokens/s, ${gigabytesPerSecond.toPrecision(3)} GB/s` +
          (percentOfBandwidth === undefined ? "" : `, ${percentOfBandwidth.toPrecision(3)} % of the bandwidth`),
      ]),
      ["dispatches per token", String(this.dispatchesPerToken)],
      ...this.#limitRows(),
      ["GPU memory", megabytes(this.gpuBytes)],
      ["runs", `${this.runs}, medians of wall-clock times`],
    ];
    const width = Math.max(...rows.map(([name]) => name.length));
    return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
  }

  #parts(): string {
    if (this.visionBlockMs === undefined || this.resamplerMs === undefined) return "";
    return `, of which a block of the tower takes ${this.visionBlockMs.toFixed(2)} ms and the resampler ${this.resamplerMs.toFixed(2)} ms`;
  }

  #limitRows(): [string, string][] {
    if (!this.limits) return [];
    const { copyGigabytesPerSecond, uploadGigabytesPerSecond, microsecondsPerDispatch } = this.limits;
    const copy = `copies ${copyGigabytesPerSecond.toPrecision(3)} GB/s, uploads ${uploadGigabytesPerSecond.toPrecision(3)} GB/s`;
    return [["limits", `${copy}, ${microsecondsPerDispatch.toPrecision(3)} µs per dispatch`]];
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
