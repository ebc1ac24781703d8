// Requests to servers of this machine that no test started: `after` in `../browser.test.mjs` fails on them. No proxy sees them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { startHub } from "../hub.mjs";

/** A server of another process, which answers every page with an empty text. Prints its port. */
const STRANGER = `
  const server = require("node:http").createServer((request, response) =>
    response.writeHead(404, { "access-control-allow-origin": "*" }).end());
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
`;
const FAILED_REQUEST = /Failed to load resource|net::ERR|NetworkError|Cross-Origin Request Blocked/;

export function originTests(bed) {
  /** Addresses: directly, and by a redirect of the server of the tests. */
  const ways = { "an address": (stranger) => `${stranger}/manifest.json`, "a redirect": () => `${bed.origin}/away/manifest.json` };
  for (const [way, addressOf] of Object.entries(ways)) {
    bed.pageTest(
      `origins: a request to another server of this machine is reported, by ${way}`,
      async (page) => {
        const child = spawn(process.execPath, ["-e", STRANGER], { stdio: ["ignore", "pipe", "inherit"] });
        // It begins after the page has its policy.
        const known = await startHub({});
        try {
          const [port] = await once(child.stdout, "data");
          const stranger = `http://127.0.0.1:${Number(port)}`;
          bed.handle = (path, response) => {
            if (path !== "/away/manifest.json") return false;
            response.writeHead(302, { location: `${stranger}/manifest.json` }).end();
            return true;
          };
          // A report of a redirect names the address before it.
          const reports = bed.policy.expect(`${stranger}/`, addressOf(stranger));
          for (const [ask, reporter] of [
            [askInWorker, `${bed.origin}/package/`],
            [askInPage, `${bed.origin}/`],
          ]) {
            // The servers of the tests are not reported.
            assert.match(await page.evaluate(ask, `${known.origin}/manifest.json`), /DOWNLOAD|401/);
            reports.length = 0;
            assert.match(await page.evaluate(ask, addressOf(stranger)), /DOWNLOAD|404/);
            await until(() => reports.some((text) => JSON.parse(text)["csp-report"]["document-uri"].startsWith(reporter)));
          }
          assert.deepEqual(bed.policy.reports, []);
        } finally {
          known.close();
          child.kill();
        }
      },
      { expected: FAILED_REQUEST },
    );
  }
}

/** Runs in the page. Returns the code of the error. */
async function askInWorker(address) {
  const { QwenVL } = await import("qwen-vl-web");
  return QwenVL.load(address).then(
    () => "loaded",
    ({ code, message }) => code ?? message,
  );
}

/** Runs in the page. */
async function askInPage(address) {
  return String((await fetch(address)).status);
}

/** Waits until something is true: the test runner ends a test that waits for ever. */
async function until(isTrue) {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 50));
}
