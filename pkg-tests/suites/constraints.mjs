import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import Ajv from "ajv/dist/2020.js";
import { SCHEMAS } from "./schemas.mjs";

const PICTURE = "/sample/images/00006.png";
const QUESTION = "What is in the picture?";
/** Of this many schemas of the public suite, an ordinary run takes one. */
const PART = 4;
/** Most schemas of the public suite whose answers have no end: the model writes free strings and lists of numbers again and again. */
const ENDLESS = 12;

/**
 * Tests answers that are held to a form, by the trained model of the repository.
 *
 * @param {"webgpu" | "cpu"} backend
 */
export function constraintTests(bed, backend = "webgpu") {
  const test = (name, body, options) =>
    bed.modelTest({ url: "/nano/", load: { backend } }, `constraints, ${backend}: ${name}`, body, options);

  test("one that excludes nothing changes no token", async (page, context) => {
    const { free, answers, rates } = await page.evaluate(
      async (picture, question) => {
        const ask = (options) =>
          window.model.createSession().ask([{ image: picture }, question], { maxTokens: 48, allowLoops: true, ...options });
        const everything = { lark: "start: /(?s).*/" };
        const answers = [];
        const free = [];
        for (const options of [{ greedy: true }, { greedy: true, logprobs: 0 }, { temperature: 1, topP: 0.9, topK: 0, seed: 7 }]) {
          free.push((await ask(options)).tokens);
          answers.push((await ask({ ...options, constraint: everything })).tokens);
        }
        // The cost of a constraint, side by side: long answers of any letters, and of free text.
        const rates = [];
        for (let round = 0; round < 3; round++) {
          const long = { greedy: true, minTokens: 48 };
          const plain = await ask(long);
          const letters = await ask({ ...long, constraint: { jsonSchema: { type: "string" } } });
          rates.push([plain.timings.decodeTokensPerSecond, letters.timings.decodeTokensPerSecond, letters.tokens.length]);
        }
        return { free, answers, rates };
      },
      PICTURE,
      QUESTION,
    );
    assert.deepEqual(answers, free);
    const ratios = rates.map(([plain, held]) => plain / held).sort((a, b) => a - b);
    context.diagnostic(`${bed.name}, ${backend}: a token of a JSON string takes ${ratios[1].toFixed(2)} of the time of a free one`);
  });

  test("schemas, each answer checked by another validator", async (page, context) => {
    const all = bed.name === "chromium" && backend === "webgpu" ? await suiteCases(bed) : {};
    const suite = Object.fromEntries(Object.entries(all).filter((_, index) => bed.thorough || index % PART === 0));
    const schemas = { ...SCHEMAS, ...suite };
    const answers = await page.evaluate(
      async (schemas, picture, question) => {
        const answers = [];
        // Encoded once: an address is fetched and decoded for each question.
        const image = await window.model.encodeImage(picture);
        for (const schema of schemas) {
          const compact = typeof schema === "object" ? { ...schema, "x-guidance": { whitespace_flexible: false } } : schema;
          const options = { greedy: true, maxTokens: 96, constraint: { jsonSchema: compact } };
          const run = window.model.createSession().ask([{ image }, question], options);
          answers.push(
            await run.then(
              ({ raw, finishReason }) => ({ raw, finishReason }),
              (error) => ({ code: error.code, message: error.message }),
            ),
          );
        }
        image.dispose();
        return answers;
      },
      Object.values(schemas),
      PICTURE,
      QUESTION,
    );
    let [valid, refused, endless] = [0, 0, 0];
    Object.entries(schemas).forEach(([name, schema], index) => {
      const { raw, finishReason, code, message } = answers[index];
      if (code !== undefined) {
        assert.equal(code, "INVALID_ARGUMENT", `${name}: ${message}`);
        assert.ok(name in suite, `${name}: ${message}`);
        refused++;
      } else if (finishReason === "stop") {
        const validate = new Ajv({ strict: false, validateFormats: false, logger: false }).compile(schema);
        assert.ok(validate(JSON.parse(raw)), `${name}: ${raw} is not valid: ${JSON.stringify(validate.errors)}`);
        valid++;
      } else {
        assert.ok(name in suite, `${name}: ${raw} does not end: ${finishReason}`);
        endless++;
      }
    });
    context.diagnostic(`${bed.name}, ${backend}: ${valid} answers valid, ${endless} without an end, ${refused} schemas not supported`);
    assert.ok(valid >= Object.keys(SCHEMAS).length);
    if (Object.keys(suite).length > 0)
      assert.ok(valid >= 200 / (bed.thorough ? 1 : PART) && endless <= ENDLESS, `${valid} valid, ${endless} without an end`);
  });

  test("regular expressions, grammars, prefixes", async (page) => {
    const answers = await page.evaluate(
      async (picture, question) => {
        const session = window.model.createSession();
        const ask = (constraint, more = {}) =>
          session.ask([{ image: picture }, question], { greedy: true, maxTokens: 48, constraint, ...more });
        const free = await ask();
        const yes = await ask({ regex: /^(yes|no)$/ });
        const code = await ask({ regex: "[A-C]{2}-[0-9]" });
        const grammar = await ask({ lark: 'start: thing (", " thing)*\nthing: "cat" | "triangle" | "猫"\n' });
        const before = session.history.length;
        const continued = await session.ask(question, {
          greedy: true,
          maxTokens: 8,
          prefix: "A green",
          constraint: { regex: "A green [a-z]+\\." },
        });
        const last = session.history.at(-1).content;
        const grown = session.history.length - before;
        const spaces = await ask({ regex: "\\s[ab]\\n" });
        const likely = await ask({ regex: "yes|no" }, { logprobs: 2 });
        const sampled = await ask({ regex: "[0-9]{8}" }, { greedy: false, temperature: 2, topK: 0, topP: 1, seed: 3 });
        return {
          free: free.raw,
          held: [yes.raw, code.raw, grammar.raw],
          ends: [yes, code, grammar, continued].map(({ finishReason }) => finishReason),
          continued: continued.raw,
          last,
          grown,
          likely: [likely.raw, likely.logprobs.length, likely.logprobs[0].top.length],
          sampled: sampled.raw,
          spaces: [spaces.raw, spaces.text],
        };
      },
      PICTURE,
      QUESTION,
    );
    assert.match(answers.held[0], /^(yes|no)$/);
    assert.match(answers.held[1], /^[A-C]{2}-[0-9]$/);
    assert.match(answers.held[2], /^(cat|triangle|猫)(, (cat|triangle|猫))*$/);
    assert.doesNotMatch(answers.free, /^(yes|no)$/, "the free answer differs");
    assert.match(answers.continued, /^ [a-z]+\.$/);
    assert.deepEqual([answers.last, answers.grown], [`A green${answers.continued}`, 2], "the history has the prefix too");
    assert.match(answers.likely[0], /^(yes|no)$/);
    assert.equal(answers.likely[2], 2);
    assert.match(answers.sampled, /^[0-9]{8}$/);
    assert.match(answers.spaces[0], /^\s[ab]\n$/);
    assert.equal(answers.spaces[1], answers.spaces[0], "white space belongs to the form");
    assert.deepEqual([...new Set(answers.ends)], ["stop"]);
  });

  test("errors, cancellation, and several at once", async (page) => {
    const found = await page.evaluate(
      async (picture, question) => {
        const code = (run) =>
          run.then(
            () => "answered",
            (error) => `${error.code ?? error.name}: ${error.message}`,
          );
        const ask = (constraint, more = {}) =>
          window.model
            .createSession()
            .ask([{ image: picture }, question], { greedy: true, maxTokens: 200, allowLoops: true, constraint, ...more });
        const cyclic = {};
        cyclic.self = cyclic;
        const errors = [];
        for (const constraint of [
          { jsonSchema: { type: "objekt" } },
          { jsonSchema: cyclic },
          { jsonSchema: "object" },
          { regex: "a(b" },
          { regex: /a(?=b)/ },
          { lark: "start: missing" },
          { lark: "start: /a/", regex: "a" },
          {},
          "json",
        ]) {
          errors.push(await code(ask(constraint)));
        }
        errors.push(await code(ask({ regex: "yes" }, { prefix: "no" })));
        errors.push(await code(ask({ jsonSchema: { toJSON: () => undefined } })));
        errors.push(await code(ask({ regex: "yes", lark: undefined })));
        const long = { regex: "[a-z ]{1000}" };
        const controller = new AbortController();
        const aborted = ask(long, { signal: controller.signal });
        for await (const event of aborted) if (event.type === "text") break;
        controller.abort();
        const cancelled = ask(long);
        for await (const event of cancelled) if (event.type === "text") cancelled.cancel();
        const { finishReason, raw } = await cancelled;
        const several = await Promise.all([ask({ regex: "[0-9]{12}" }), ask({ regex: "yes|no" }), ask(), ask({ regex: "[a-c]{12}" })]);
        return { errors, aborted: await code(aborted), finishReason, raw, several: several.map(({ raw }) => raw) };
      },
      PICTURE,
      QUESTION,
    );
    const expected = [
      /INVALID_ARGUMENT: the JSON schema cannot be used: .*objekt/,
      /INVALID_ARGUMENT: `constraint.jsonSchema` cannot be written as JSON/,
      /INVALID_ARGUMENT: `constraint` is .*, expected \{ jsonSchema \}, \{ regex \} or \{ lark \}/,
      /INVALID_ARGUMENT: the regular expression cannot be used: regex parse error/,
      /INVALID_ARGUMENT: the regular expression cannot be used: .*look-around/s,
      /INVALID_ARGUMENT: the grammar cannot be used: .*missing/s,
      ...Array.from({ length: 3 }, () => /INVALID_ARGUMENT: `constraint` is/),
      /INVALID_ARGUMENT: the prefix "no" does not fit the regular expression: 0 of its bytes do/,
      /INVALID_ARGUMENT: `constraint.jsonSchema` cannot be written as JSON$/,
      /^answered$/,
    ];
    found.errors.forEach((error, index) => assert.match(error, expected[index]));
    assert.equal(found.finishReason, "cancelled");
    assert.match(found.raw, /^[a-z ]+$/);
    assert.match(found.several[0], /^[0-9]{12}$/);
    assert.match(found.several[1], /^(yes|no)$/);
    assert.match(found.several[3], /^[a-c]{12}$/);
  });
}

/** The schemas of the public suite that a validator without network access can read, without those of formats: most are free strings. */
async function suiteCases(bed) {
  const cases = JSON.parse(await readFile(join(bed.repository, "tests/fixtures/json-schema/draft2020-12.json"), "utf8"));
  const isUsed = ({ name, schema }) => !name.startsWith("optional/format/") && !JSON.stringify(schema).includes("localhost:1234");
  return Object.fromEntries(cases.filter(isUsed).map(({ name, schema }) => [name, schema]));
}
