// Web Locks for tests in Node, in one process: `navigator.locks` of a browser with several tabs.

export class MemoryLocks {
  /** @type {{ name: string, mode: string }[]} */
  held = [];
  /** @type {{ name: string, mode: string, start: () => void }[]} */
  #waiting = [];

  async request(name, { mode = "exclusive", ifAvailable = false, signal }, work) {
    if (this.#isFree(name, mode)) return this.#hold(name, mode, work);
    if (ifAvailable) return work(null);
    await new Promise((start, reject) => {
      const waiting = { name, mode, start };
      this.#waiting.push(waiting);
      signal?.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((other) => other !== waiting);
        reject(signal.reason);
      });
    });
    return this.#hold(name, mode, work);
  }

  #isFree(name, mode) {
    return !this.held.some((lock) => lock.name === name && (mode === "exclusive" || lock.mode === "exclusive"));
  }

  async #hold(name, mode, work) {
    const lock = { name, mode };
    this.held.push(lock);
    try {
      return await work(lock);
    } finally {
      this.held = this.held.filter((other) => other !== lock);
      const next = this.#waiting.findIndex((waiting) => this.#isFree(waiting.name, waiting.mode));
      if (next >= 0) this.#waiting.splice(next, 1)[0].start();
    }
  }
}
