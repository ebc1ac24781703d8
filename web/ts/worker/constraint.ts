/** The model's side of the connection to the worker of constraints. */

import { QwenVLError } from "../wire/errors.js";
import type { AllowedReply, LatestToken } from "../wire/protocol.js";

/** Time after an abort in which the worker of constraints still can answer: an answer that is cancelled ends after a whole token. */
const PATIENCE_MS = 2000;

/** The tokens that an answer may have. */
export class RemoteConstraint {
  readonly #port: MessagePort;
  readonly #signal: AbortSignal;
  #answer: ((reply: AllowedReply) => void) | undefined;

  /** @param signal aborts the answer */
  constructor(port: MessagePort, signal: AbortSignal) {
    this.#port = port;
    this.#signal = signal;
    port.onmessage = ({ data }: MessageEvent<AllowedReply>) => this.#answer?.(data);
  }

  /** Takes the latest token of the answer, and returns the tokens that may follow, a bit each. Called by the engine. */
  async next(token?: number): Promise<Uint32Array> {
    const latest: LatestToken = token === undefined ? {} : { token };
    let timer: ReturnType<typeof setTimeout> | undefined;
    let giveUp: (() => void) | undefined;
    try {
      const reply = await new Promise<AllowedReply>((resolve, reject) => {
        giveUp = () => {
          timer = setTimeout(reject, PATIENCE_MS, new QwenVLError("INTERNAL", "the worker of constraints does not answer"));
        };
        this.#answer = resolve;
        this.#port.postMessage(latest);
        if (this.#signal.aborted) giveUp();
        else this.#signal.addEventListener("abort", giveUp);
      });
      if (reply.allowed) return reply.allowed;
      throw QwenVLError.fromData(reply.error);
    } finally {
      clearTimeout(timer);
      if (giveUp) this.#signal.removeEventListener("abort", giveUp);
    }
  }

  /** Ends the connection. */
  close(): void {
    this.#port.postMessage(undefined);
    this.#port.close();
  }
}
