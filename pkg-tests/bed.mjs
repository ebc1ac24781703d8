// The test bed: one browser, one server, and the tests that run on them, each of which can run alone.

import assert from "node:assert/strict";
import { test } from "node:test";

/** Registers tests. With `QWEN_VL_TEST`, registers only those whose name holds that text; see `assertSome`. */
export class Registry {
  #wanted = process.env.QWEN_VL_TEST ?? "";
  #names = new Set();
  #registered = 0;

  /**
   * Registers a test. Tests run in this order, one at a time.
   *
   * @param {string} name unique
   * @param {{ skip?: string | false }} options `skip`: the reason why this bed cannot run the test
   * @param {(context: import("node:test").TestContext) => Promise<void>} body
   */
  test(name, options, body) {
    if (typeof options === "function") [options, body] = [{}, options];
    assert.ok(!this.#names.has(name), `two tests are called "${name}"`);
    this.#names.add(name);
    if (!name.includes(this.#wanted)) return;
    this.#registered += 1;
    const { skip = false } = options;
    assert.ok(skip === false || typeof skip === "string", `${name}: a skipped test needs a reason`);
    test(name, { skip }, body);
  }

  /** Throws if no test was registered: a name that fits nothing must not pass. */
  assertSome() {
    assert.ok(this.#registered > 0, `no test has a name with "${this.#wanted}"; the names are:\n${[...this.#names].join("\n")}`);
  }
}

/** A place that runs pages: a browser, or Node with WebGPU. */
export class Bed extends Registry {
  /** Answers a request of the current test in place of the server: `(path, response) => boolean`. */
  handle = undefined;
  /** Opens a path in a page and collects the errors that it reports: `(path) => Promise<{ page, problems }>`. Set before tests run. */
  openPage;
  /** Starts another browser of the same kind, for a test that leaves its browser unusable: `() => Promise<Browser>`. Set before tests run. */
  launch;
  /** Of the server that serves the pages. Set before tests run. */
  origin = "";
  #cleanups = [];
  /** The page that `modelTest` shares, with its key and the problems that it reported. */
  #shared;

  /** @param {object} properties what the suites know of the bed: `name`, `sets`, `features` … */
  constructor(properties) {
    super();
    Object.assign(this, properties);
  }

  /**
   * Runs a body on a new page. Fails if the page reports an error.
   *
   * @param {(page: import("puppeteer-core").Page) => Promise<void>} body
   * @param {{ path?: string, expected?: RegExp }} options `expected`: reports that belong to the test
   */
  open = async (body, { path = "/", expected } = {}) => {
    const { page, problems } = await this.openPage(path);
    try {
      await body(page);
    } finally {
      this.handle = undefined;
      await page.close();
    }
    assertNone(problems, expected);
  };

  /** Registers a test on a new page. */
  pageTest(name, body, { expected, ...options } = {}) {
    this.test(name, options, (context) => this.open((page) => body(page, context), { expected }));
  }

  /**
   * Registers a test on a page whose `window.model` is loaded, and `window.progress` the reports of that load. Successive tests with the
   * same `url` and `load` share the page, because a software adapter needs half a minute to compile the kernels; a page on which a test
   * failed is not used again, so a test sees the same whether it runs alone or after others.
   *
   * @param {{ url: string, load?: object }} model `load`: options of `QwenVL.load`
   * @param {(page: import("puppeteer-core").Page, context: import("node:test").TestContext) => Promise<void>} body
   * @param {{ expected?: RegExp, spoils?: boolean, skip?: string | false }} options `spoils`: the page cannot be used after this test
   */
  modelTest(model, name, body, { expected, spoils = false, ...options } = {}) {
    this.test(name, options, async (context) => {
      const shared = await this.#sharedPage(model);
      let usable = false;
      try {
        await body(shared.page, context);
        assertNone(shared.problems.splice(0), expected);
        usable = !spoils;
      } finally {
        this.handle = undefined;
        if (!usable) await this.closeShared();
      }
    });
  }

  async #sharedPage({ url, load = {} }) {
    const key = JSON.stringify([url, load]);
    if (this.#shared?.key !== key) {
      await this.closeShared();
      const { page, problems } = await this.openPage("/");
      this.#shared = { key, page, problems };
      await page.evaluate(loadInPage, url, load);
    }
    return this.#shared;
  }

  /** Registers what is to be closed after all tests. */
  cleanup(close) {
    this.#cleanups.push(close);
  }

  /** Closes everything that the suites opened. */
  async close() {
    await this.closeShared();
    for (const close of this.#cleanups) await close();
  }

  /** Closes the shared page: to free its memory, and because a test may need a browser without other pages. */
  async closeShared() {
    const shared = this.#shared;
    this.#shared = undefined;
    await shared?.page.close();
  }
}

function assertNone(problems, expected) {
  assert.deepEqual(
    problems.filter((problem) => !expected?.test(problem)),
    [],
    "the page reported errors",
  );
}

/** Runs in the page. */
async function loadInPage(url, options) {
  const { QwenVL } = await import("qwen-vl-web");
  window.progress = [];
  window.model = await QwenVL.load(url, { ...options, onProgress: (progress) => window.progress.push(progress) });
}
