/** The side of the converter's worker in the connection to the page: answers calls one after the other. */

import { errorData, QwenVLError } from "../wire/errors.js";
import type { ConversionPlan } from "../wire/generated.js";
import type { Call, CallKind, Calls, ConvertStep, FinishedShard, OutputSpec, Reply, Request } from "../wire/protocol.js";
import type { ConvertSettings } from "../wire/types.js";
import type { ConversionRecord } from "../weights/cache.js";
import { DirectoryStore } from "../weights/directory.js";
import { INTERVAL_MS } from "../weights/progress.js";
import type { Listing, RangeSource } from "../weights/ranges.js";
import { PipeSender } from "../weights/pipe.js";
import { makeRanges, openStore, type RangeSpec } from "../weights/spec.js";
import { Converter, type ConverterEdge, type ConverterHooks } from "./converter.js";
import { CacheOutput, FolderOutput, type Output } from "./output.js";

/** The parts of a worker's global scope that are used. */
export interface ConverterScope {
  postMessage(message: Reply): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

type CallOf<K extends CallKind> = Extract<Call, { kind: K }>;

type About = Pick<ConversionRecord, "name" | "source" | "settings">;

/** Opens sources and outputs, which differ between browsers and Node. */
export interface Environment {
  source(spec: RangeSpec): RangeSource;
  /**
   * @param others names of the files that are neither shards nor the manifest
   * @param about facts for the record of a conversion into the cache
   */
  output(spec: OutputSpec, plan: ConversionPlan, others: readonly string[], about: About): Promise<Output>;
}

/** Answers the calls of a page that arrive at `scope`. */
export function serveConverter(scope: ConverterScope, edge: ConverterEdge, environment: Environment = BROWSER): void {
  const server = new ConverterServer(scope, edge, environment);
  scope.onmessage = ({ data }) => server.receive(data);
}

class ConverterServer {
  readonly #scope: ConverterScope;
  readonly #edge: ConverterEdge;
  readonly #environment: Environment;
  readonly #controllers = new Map<number, AbortController>();
  #queue: Promise<void> = Promise.resolve();
  #open: { converter: Converter; output: Output } | undefined;
  /** The load that takes the shards as they are made. */
  #pipe: PipeSender | undefined;

  constructor(scope: ConverterScope, edge: ConverterEdge, environment: Environment) {
    this.#scope = scope;
    this.#edge = edge;
    this.#environment = environment;
  }

  receive(request: Request): void {
    if (request.kind === "cancel") {
      this.#controllers.get(request.id)?.abort();
      return;
    }
    if (request.kind === "dispose") for (const controller of this.#controllers.values()) controller.abort();
    const controller = new AbortController();
    this.#controllers.set(request.id, controller);
    this.#queue = this.#queue.then(() => this.#answer(request, controller.signal));
  }

  /** Never rejects. */
  async #answer(call: Call, signal: AbortSignal): Promise<void> {
    const { id } = call;
    try {
      signal.throwIfAborted();
      this.#scope.postMessage({ kind: "done", id, result: await this.#result(call, signal) });
    } catch (error) {
      const data = errorData(error);
      // After a trap the module's memory is in an unknown state.
      this.#scope.postMessage(
        error instanceof WebAssembly.RuntimeError ? { kind: "fatal", error: data } : { kind: "error", id, error: data },
      );
    } finally {
      this.#controllers.delete(id);
    }
  }

  async #result(call: Call, signal: AbortSignal): Promise<Calls[CallKind]["result"]> {
    switch (call.kind) {
      case "convertOpen":
        return this.#openCheckpoint(call, signal);
      case "convertFinished":
        return this.#finished();
      case "convertPipe":
        return this.#startPipe(call, signal);
      case "convertShard":
        return this.#shard(call, signal);
      case "convertFinish":
        return this.#finish(call);
      case "convertDiscard":
        await this.#opened().output.discard();
        return undefined;
      case "dispose":
        this.#open?.converter.free();
        this.#open = undefined;
        return 0;
      default:
        throw new QwenVLError("INTERNAL", `the converter does not answer \`${call.kind}\``);
    }
  }

  async #openCheckpoint(call: CallOf<"convertOpen">, signal: AbortSignal): Promise<Calls["convertOpen"]["result"]> {
    try {
      await (call.wasm === undefined ? this.#edge.default() : this.#edge.default({ module_or_path: call.wasm }));
    } catch (cause) {
      throw new QwenVLError("DOWNLOAD", "the converter's wasm file could not be loaded", { cause });
    }
    const steps = new Steps(this.#scope, call.id);
    const hooks = steps.hooks(signal);
    const source = this.#environment.source(call.source);
    if (call.listing) source.adopt?.(call.listing);
    const listing = call.listing ?? (await source.list(hooks));
    const { supplies } = call;
    const converter = await Converter.open(this.#edge, source, listing, call.settings, supplies, hooks);
    const { plan } = converter;
    if (call.output)
      this.#open = {
        converter,
        output: await this.#environment.output(
          call.output,
          plan,
          converter.smallFiles().map(([name]) => name),
          about(call, listing),
        ),
      };
    else converter.free();
    return { plan, listing, supplies };
  }

  async #startPipe({ port, files }: CallOf<"convertPipe">, signal: AbortSignal): Promise<undefined> {
    this.#pipe = new PipeSender(port);
    for (const [name, bytes] of this.#opened().converter.smallFiles()) {
      if (files.includes(name)) await this.#pipe.send(name, bytes, signal);
    }
  }

  #finished(): Promise<Map<number, FinishedShard>> {
    const { converter, output } = this.#opened();
    return output.finished((index, record) => converter.isFinished(index, record));
  }

  async #shard({ id, index, finished }: CallOf<"convertShard">, signal: AbortSignal): Promise<FinishedShard> {
    const { converter, output } = this.#opened();
    const steps = new Steps(this.#scope, id);
    const name = converter.plan.shards[index]?.file ?? "";
    const pipe = this.#pipe;
    const hooks = { ...steps.hooks(signal), ...(pipe ? { pass: (bytes: Uint8Array) => pipe.send(name, bytes, signal) } : {}) };
    if (finished) {
      if (await passOn(converter, output, index, finished, hooks)) {
        steps.flush();
        return finished;
      }
      pipe?.restart(name);
    }
    const file = await output.begin(index);
    try {
      const shard = await converter.shard(index, file, hooks);
      steps.flush();
      await file.done(shard);
      return shard;
    } catch (error) {
      await file.abandon().catch(() => undefined);
      throw error;
    }
  }

  async #finish({ shards }: CallOf<"convertFinish">): Promise<string> {
    const { converter, output } = this.#opened();
    const manifest = converter.manifest(shards);
    await output.finish(manifest, converter.smallFiles(shards));
    return manifest;
  }

  #opened(): { converter: Converter; output: Output } {
    if (!this.#open) throw new QwenVLError("DISPOSED", "no conversion is open");
    return this.#open;
  }
}

/** Reads a finished shard for a load. Returns false if its bytes are wrong. */
async function passOn(converter: Converter, output: Output, index: number, shard: FinishedShard, hooks: ConverterHooks): Promise<boolean> {
  const file = await output.open(index, shard);
  try {
    return file.bytes === shard.bytes && (await converter.reread(index, file, shard, hooks));
  } finally {
    await file.close();
  }
}

function about({ source, settings }: CallOf<"convertOpen">, { name, place }: Listing): About {
  const remote = source.kind === "hub" || source.kind === "url";
  return { name, ...(remote ? { source: place } : {}), settings: settings as ConvertSettings };
}

async function openOutput(
  spec: OutputSpec,
  { fingerprint, shards, bytes }: ConversionPlan,
  others: readonly string[],
  about: About,
): Promise<Output> {
  const names = shards.map(({ file }) => file);
  if (spec.kind === "directory") return new FolderOutput(new DirectoryStore(spec.folder), fingerprint, names, others);
  if (spec.kind === "path") throw new QwenVLError("INTERNAL", "a browser has no paths");
  const store = await openStore(spec.cache);
  if (!store) throw new QwenVLError("INVALID_ARGUMENT", '`cache` is "none", expected a store to convert into');
  if (spec.kind === "store") return new FolderOutput(store, fingerprint, names, others);
  return new CacheOutput(store, fingerprint, { ...about, url: spec.url, bytes });
}

const BROWSER: Environment = { source: makeRanges, output: openOutput };

/** Collects progress, so that the page is not flooded. */
class Steps {
  readonly #scope: ConverterScope;
  readonly #id: number;
  #step: ConvertStep = { read: 0, written: 0, retries: 0 };
  #sentAt = performance.now();

  constructor(scope: ConverterScope, id: number) {
    this.#scope = scope;
    this.#id = id;
  }

  hooks(signal: AbortSignal): ConverterHooks {
    return {
      signal,
      onBytes: (read) => this.add({ read }),
      onWritten: (written) => this.add({ written }),
      onRetry: () => this.add({ retries: 1 }),
    };
  }

  add({ read = 0, written = 0, retries = 0 }: Partial<ConvertStep>): void {
    const step = this.#step;
    this.#step = { read: step.read + read, written: step.written + written, retries: step.retries + retries };
    if (performance.now() - this.#sentAt > INTERVAL_MS) this.flush();
  }

  flush(): void {
    this.#scope.postMessage({ kind: "event", id: this.#id, event: this.#step });
    this.#step = { read: 0, written: 0, retries: 0 };
    this.#sentAt = performance.now();
  }
}
