// Answers of the Hub: `web/ts/weights/hub.ts`.

import fc from "fast-check";
import { HubRanges, hubAddress } from "../../../web/dist/weights/hub.js";
import { nearly } from "../inputs.mjs";
import { outcome, settled } from "../outcome.mjs";

const ANSWERS = [
  { facts: { sha: "a".repeat(40), cardData: { license: "other", license_name: "tongyi" } }, tree: tree("config.json"), link: null },
  {
    facts: { sha: "b" },
    tree: [...tree("model.safetensors", true), { type: "directory", path: "d", oid: "1", size: 0 }],
    link: '<?cursor=1>; rel="next"',
  },
];

function tree(path, large = false) {
  return [{ type: "file", path, oid: "1".repeat(40), size: 10, ...(large ? { lfs: { oid: "2".repeat(64), size: 1000 } } : {}) }];
}

export const seeds = ANSWERS.length;
export const input = fc.record({
  answers: nearly(ANSWERS),
  address: fc.oneof(
    fc.constantFrom("hf:a/b", "hf:a/b@c"),
    fc.string({ maxLength: 8 }).map((text) => `hf:${text}`),
  ),
  link: fc.oneof(fc.constantFrom('<https://hub.test/x>; rel="next"', '<http://[>; rel="next"', '<>;rel="next"'), fc.constant(undefined)),
});

/** A repository has its files with whole sizes, or is refused. A list of pages ends. */
export async function check({ answers, address, link }) {
  const parsed = outcome(() => hubAddress(address));
  const { facts, tree, link: seedLink } = Object(answers);
  let requests = 0;
  const fetch = async (url) => {
    if (++requests > 20_000) throw new Error("the list of files does not end");
    const body = JSON.stringify(url.includes("/revision/") ? facts : tree);
    const header = link ?? seedLink;
    const headers = typeof header === "string" && /^[\x20-\x7e]*$/.test(header) ? { link: header } : {};
    return new Response(body ?? "", { headers });
  };
  const options = { endpoint: "https://hub.test", token: undefined, fetch, retries: 0 };
  const ranges = new HubRanges({ repository: "a/b", revision: "main" }, options);
  const hooks = { signal: new AbortController().signal };
  const listed = await settled(async () => {
    const { files, commit } = await ranges.list(hooks);
    if (typeof commit !== "string") throw new Error(`the commit is ${commit}`);
    for (const { path, bytes, version } of files) {
      if (typeof path !== "string" || typeof version !== "string" || !Number.isSafeInteger(bytes) || bytes < 0) {
        throw new Error(`a file is ${JSON.stringify({ path, bytes, version })}`);
      }
    }
  });
  return `${parsed}, ${listed}`;
}
