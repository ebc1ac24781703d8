import { untilAborted } from "../../wire/abort.js";
import { stored } from "./chat.js";
import { Conversation } from "./conversation.js";
import { coreOptionsOf, createOptionsOf } from "./convert.js";
import { domException, loadFailure, quotaExceeded } from "./errors.js";
import { ModelHost, type LanguageModelSource, type Loaded } from "./host.js";
import { Monitor } from "./monitor.js";
import { minimum, paramsOf, samplingOf, unsupported, validatedCore, validatedOptions, type SessionOptions } from "./options.js";
import { encodeAll } from "./input.js";
import { CONSTRUCTION, PromptSession, type SessionParts } from "./session.js";
import type { Availability, GroundingLanguageModel, LanguageModel as Session, LanguageModelClass, LanguageModelParams } from "./types.js";

/**
 * Returns the class `LanguageModel` of the Prompt API over a model.
 *
 * @param source a loaded model; or the way to load one, which happens when the first session is created
 */
export function createLanguageModel(source: LanguageModelSource): LanguageModelClass<GroundingLanguageModel> {
  const host = new ModelHost(source);

  class LanguageModel extends PromptSession {
    static async create(options: unknown = {}): Promise<LanguageModel> {
      const converted = createOptionsOf(options);
      const checked = validatedOptions(converted);
      const { monitor: callback, signal } = converted;
      signal?.throwIfAborted();
      const monitor = new Monitor(signal);
      callback?.(monitor);
      const work = async () => {
        const parts = await sessionParts(host, checked, monitor, signal);
        await monitor.done();
        signal?.throwIfAborted();
        const session = new LanguageModel(CONSTRUCTION, parts);
        if (signal) session.follow(signal);
        return session;
      };
      return untilAborted(signal, work());
    }

    static async availability(options: unknown = {}): Promise<Availability> {
      const core = validatedCore(coreOptionsOf(options));
      const availability = minimum([
        await host.availability(),
        unsupported(core, host.loaded?.model.info.family) ? "unavailable" : "available",
      ]);
      if (availability === null) throw notKnown();
      return availability;
    }

    static async params(): Promise<LanguageModelParams | null> {
      const { loaded } = host;
      if (!loaded && (await host.availability()) === "unavailable") return null;
      return paramsOf(loaded?.model.info.family ?? "qwen3_vl");
    }
  }

  return LanguageModel as unknown as LanguageModelClass<GroundingLanguageModel>;
}

/**
 * Sets `globalThis.LanguageModel` where the browser has none, and returns the one in force. A browser that has one keeps it, even if it has no
 * model: then call {@link createLanguageModel}.
 */
export function installLanguageModel(source: LanguageModelSource): LanguageModelClass<Session> {
  const scope = globalThis as { LanguageModel?: LanguageModelClass<Session> };
  if (!scope.LanguageModel) {
    const value = createLanguageModel(source);
    Object.defineProperty(scope, "LanguageModel", { value, writable: true, configurable: true, enumerable: false });
  }
  return scope.LanguageModel as LanguageModelClass<Session>;
}

/** Loads the model if needed, and runs the initial messages ("initialize the language model", "create a language model object"). */
async function sessionParts(
  host: ModelHost,
  { core, types, initial }: SessionOptions,
  monitor: Monitor,
  signal: AbortSignal | undefined,
): Promise<SessionParts> {
  const availability = await host.availability();
  if (availability === null) throw notKnown();
  const refuse = (problem: string | undefined) => {
    if (problem !== undefined) throw domException("NotSupportedError", problem);
  };
  if (availability === "unavailable") {
    refuse(
      host.loaded
        ? "the model was disposed of: give a function that loads it"
        : "the model cannot run here: `QwenVL.check` has the reasons",
    );
  }
  refuse(unsupported(core, host.loaded?.model.info.family));
  monitor.report(0);
  try {
    const loaded = await host.load((fraction) => monitor.report(fraction), signal);
    monitor.report(1);
    const { model, meter } = loaded;
    refuse(unsupported(core, model.info.family));
    const window = await meter.window();
    const messages = stored(initial, model.imageView, signal);
    const conversation = new Conversation(messages, await usageOf(loaded, messages, window, signal));
    return { loaded, sampling: samplingOf(core, model.info.family), types, window, conversation };
  } catch (error) {
    signal?.throwIfAborted();
    throw loadFailure(error);
  }
}

async function usageOf(
  { model, meter }: Loaded,
  messages: Conversation["messages"],
  window: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  await encodeAll(model, messages, signal);
  const usage = await meter.count(messages, signal);
  if (usage > window) throw quotaExceeded(usage, window);
  return usage;
}

function notKnown(): DOMException {
  return domException("UnknownError", "the check of the model failed: try again later");
}
