import type { ModelInfo } from "./model.js";
import type { EngineBenchmarkReport, Steps } from "../wire/protocol.js";

export interface BenchmarkOptions {
  /** Lengths of the sequence at which decoding is timed; 512 and 2048 by default, as far as the context allows. */
  contexts?: readonly number[];
  /** Lengths of the prompts that are timed; 128, 320 and 1024 by default, as far as the context allows. */
  prompts?: readonly number[];
  /** Tokens that are decoded at each length; 32 by default. */
  decodeTokens?: number;
  /** Times that everything is repeated, of which the median counts; 3 by default. */
  runs?: number;
  /** Whether a picture is timed, too; `true` by default. */
  picture?: boolean;
  /** What the GPU's memory can do by its data sheet, GB/s: decoding is told as a part of that, or else of what a copy does. */
  bandwidth?: number;
  signal?: AbortSignal;
  onProgress?: (progress: Steps) => void;
}

/** How fast a model is on this machine: wall-clock medians. `String(report)` is a table. */
export class BenchmarkReport {
  readonly model: string;
  /** What the browser tells of the GPU; most tell little. */
  readonly adapter: string;
  readonly browser: string;
  /** Whether the adapter is a program on the processor: such speeds say nothing about a GPU. */
  readonly software: boolean;
  readonly contextLength: number;
  /** From the call of `load` to its end. */
  readonly loadMs: number;
  /** Bytes of the model's files that came from the cache in that load, and all. */
  readonly restoredBytes: number;
  readonly downloadBytes: number;
  /** Bytes of all GPU buffers, by our own count. */
  readonly gpuBytes: number;
  readonly runs: number;
  /** One picture through vision tower and resampler; 0 if it was not asked for. */
  readonly encodeMs: number;
  /** Its parts: one block of the vision tower, and the resampler. Not where the model runs on the processor. */
  readonly visionBlockMs?: number;
  readonly resamplerMs?: number;
  readonly prefill: readonly {
    /** Length of the prompt. */
    tokens: number;
    tokensPerSecond: number;
  }[];
  readonly decode: readonly {
    /** Length of the sequence. */
    context: number;
    tokensPerSecond: number;
    /** Weights, keys and values read, GB/s. */
    gigabytesPerSecond: number;
    /** Of the bandwidth that was given, or else of a copy's. */
    percentOfBandwidth?: number;
  }[];
  readonly dispatchesPerToken: number;
  /** What the adapter can do at best. Not where the model runs on the processor. */
  readonly limits?: {
    /** Bytes read and as many written, both counted, by a copy on the GPU. */
    copyGigabytesPerSecond: number;
    /** Bytes written to the GPU. */
    uploadGigabytesPerSecond: number;
    /** A launch that does next to nothing, one of many. */
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
    this.software = (adapter?.isFallbackAdapter ?? false) || /swiftshader|llvmpipe|lavapipe|basic render|software/i.test(this.adapter);
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
      ["adapter", this.adapter + (this.software ? " (software: not a speed of any GPU)" : "")],
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
      ["dispatches a token", String(this.dispatchesPerToken)],
      ...this.#limitRows(),
      ["GPU memory", megabytes(this.gpuBytes)],
      ["runs", `${this.runs}, medians of wall-clock times`],
    ];
    const width = Math.max(...rows.map(([name]) => name.length));
    return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
  }

  #parts(): string {
    if (this.visionBlockMs === undefined || this.resamplerMs === undefined) return "";
    return `, of it a block of the tower ${this.visionBlockMs.toFixed(2)} ms and the resampler ${this.resamplerMs.toFixed(2)} ms`;
  }

  #limitRows(): [string, string][] {
    if (!this.limits) return [];
    const { copyGigabytesPerSecond, uploadGigabytesPerSecond, microsecondsPerDispatch } = this.limits;
    const copy = `copies ${copyGigabytesPerSecond.toPrecision(3)} GB/s, uploads ${uploadGigabytesPerSecond.toPrecision(3)} GB/s`;
    return [["at best", `${copy}, ${microsecondsPerDispatch.toPrecision(3)} µs a dispatch`]];
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
