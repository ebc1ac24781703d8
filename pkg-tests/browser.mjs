// Starts Chromium or Firefox without a screen, on a software adapter unless the machine's GPU is asked for: results of tests must not depend
// on the machine.

import { access, constants } from "node:fs/promises";
import { createServer } from "node:http";
import { delimiter, isAbsolute, join } from "node:path";
import puppeteer from "puppeteer-core";
import { ownOrigins } from "./origins.mjs";

/** A whole golden on a software adapter may take minutes. */
const PROTOCOL_TIMEOUT_MS = 15 * 60_000;
const SOFTWARE_FLAGS = ["--use-webgpu-adapter=swiftshader"];
/** Without a screen, Chromium on Linux takes no GPU by default (https://developer.chrome.com/blog/supercharge-web-ai-testing). */
const HARDWARE_FLAGS =
  process.platform === "linux"
    ? ["--use-angle=vulkan", "--enable-features=Vulkan", "--disable-vulkan-surface", "--ignore-gpu-blocklist"]
    : [];

/**
 * @param {{ name: "chromium" | "firefox", program: string, vulkanIcd?: string, hardware?: boolean, flags?: string[], extensions?: string[],
 *   proxy?: number }} options for Chromium: the machine's GPU (`hardware`), more `flags`, and folders of `extensions`; for both the port of a
 *   `proxy`, through which they reach everything but this machine
 */
export async function launch({ name, program, vulkanIcd, hardware = false, flags = [], extensions = [], proxy }) {
  const common = { executablePath: await which(program), headless: true, protocolTimeout: PROTOCOL_TIMEOUT_MS };
  if (name === "chromium") {
    const args = [
      "--no-sandbox",
      "--enable-unsafe-webgpu",
      ...(hardware ? HARDWARE_FLAGS : SOFTWARE_FLAGS),
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-quic",
      "--no-first-run",
      ...(proxy ? [`--proxy-server=http://127.0.0.1:${proxy}`] : []),
      ...flags,
    ];
    const installed = extensions.length > 0 ? { enableExtensions: extensions, pipe: true } : {};
    return puppeteer.launch({ ...common, browser: "chrome", args, ...installed });
  }
  return puppeteer.launch({
    ...common,
    browser: "firefox",
    env: { ...process.env, ...(vulkanIcd ? { VK_DRIVER_FILES: vulkanIcd } : {}) },
    extraPrefsFirefox: {
      "dom.webgpu.enabled": true,
      "dom.webgpu.workers.enabled": true,
      "gfx.webgpu.ignore-blocklist": true,
      ...(proxy ? firefoxProxy(proxy) : {}),
    },
  });
}

/** Settings of Firefox. Both browsers reach this machine without a proxy. */
const firefoxProxy = (port) => ({
  "network.proxy.type": 1,
  ...Object.fromEntries(
    ["http", "ssl"].flatMap((kind) => [
      [`network.proxy.${kind}`, "127.0.0.1"],
      [`network.proxy.${kind}_port`, port],
    ]),
  ),
});

/** Services that each browser asks without a page, for updates for example. They may change with its version. None of them serves files of others. */
const OF_THE_BROWSERS = {
  chromium: [
    "accounts.google.com",
    "android.clients.google.com",
    "clients1.google.com",
    "clients2.google.com",
    "clients4.google.com",
    "content-autofill.googleapis.com",
    "edgedl.me.gvt1.com",
    "mtalk.google.com",
    "optimizationguide-pa.googleapis.com",
    "redirector.gvt1.com",
    "safebrowsing.googleapis.com",
    "safebrowsingohttpgateway.googleapis.com",
    "update.googleapis.com",
  ],
  firefox: [
    "aus5.mozilla.org",
    "content-signature-2.cdn.mozilla.net",
    "detectportal.firefox.com",
    "dummy.test",
    "firefox-settings-attachments.cdn.mozilla.net",
    "firefox.settings.services.mozilla.com",
    "incoming.telemetry.mozilla.org",
    "location.services.mozilla.com",
    "push.services.mozilla.com",
    "services.addons.mozilla.org",
    "versioncheck-bg.addons.mozilla.org",
  ],
};

/**
 * Starts a proxy that refuses every request and records its host. Pages, workers and service workers use it for every host but this machine.
 *
 * @param {"chromium" | "firefox"} name of the browser
 * @returns {Promise<{ port: number, hosts: Set<string>, close(): void }>} `hosts` without those of the browser
 */
export async function recordingProxy(name) {
  const hosts = new Set();
  const record = (host) => void (OF_THE_BROWSERS[name].includes(host) || hosts.add(host));
  // An address with TLS is `HOST:PORT`, one without is whole. A page must see a failure of the network, not an answer.
  const server = createServer(({ url, socket }) => {
    record(URL.canParse(url) ? new URL(url).host : url);
    socket.destroy();
  });
  server.on("connect", ({ url }, socket) => {
    record(url.replace(/:443$/, ""));
    socket.on("error", () => undefined);
    socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  return {
    port: server.address().port,
    hosts,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/**
 * The policy of `web/README.md`, as far as it concerns workers. A worker takes it from the headers of its script. Of this machine, it may ask the
 * servers of the tests.
 */
const policyOfWorkers = () => [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  `connect-src 'self' ${ownOrigins().join(" ")}`,
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
];
/** The same limit for a page, whose other hosts the proxy records. */
const policyOfPages = () =>
  ["connect-src", "img-src", "media-src"].map((kind) => `${kind} 'self' data: blob: https: ${ownOrigins().join(" ")}`);

/**
 * Watches pages and scripts of a server for what a strict security policy forbids, also in workers: requests to other servers of this machine,
 * which no proxy sees, are among it. It forbids nothing: the browser reports.
 *
 * @returns {{ reports: string[], expect(...addresses: string[]): string[], handle(path: string, response: import("node:http").ServerResponse): boolean,
 *   pageHeaders(): object }} `expect` returns a list that gets the reports about addresses that begin so, in place of `reports`
 */
export function policyWatch() {
  const reports = [];
  const expected = [];
  const take = (text) => {
    const { "blocked-uri": blocked, "original-policy": policy } = JSON.parse(text)["csp-report"];
    const own = expected.find(({ addresses }) => addresses.some((address) => blocked.startsWith(address)));
    if (own) own.reports.push(text);
    else if (!isOfALaterServer(blocked, policy)) reports.push(text);
  };
  const header = (policy) => ({ "content-security-policy-report-only": [...policy, "report-uri /policy-reports"].join("; ") });
  return {
    reports,
    expect(...addresses) {
      expected.push({ addresses, reports: [] });
      return expected.at(-1).reports;
    },
    handle(path, response) {
      if (path === "/policy-reports") {
        let text = "";
        response.req.on("data", (piece) => (text += piece)).on("end", () => take(text));
        response.writeHead(204).end();
        return true;
      }
      if (path.startsWith("/package/"))
        for (const [name, value] of Object.entries(header(policyOfWorkers()))) response.setHeader(name, value);
      return false;
    },
    pageHeaders: () => header(policyOfPages()),
  };
}

/**
 * True for the report of a request to a server of the tests that began after the policy was sent. A report of a redirect names the address before
 * it, which the policy allows: that is not one of these.
 */
function isOfALaterServer(blocked, policy) {
  const origin = URL.canParse(blocked) ? new URL(blocked).origin : undefined;
  return ownOrigins().includes(origin) && !policy.split(/[ ;]+/).includes(origin);
}

/** Puppeteer takes paths only. */
async function which(program) {
  if (isAbsolute(program)) return program;
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(folder, program);
    if (
      await access(path, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new Error(`${program} is not on the path`);
}

/**
 * Opens a page and collects everything that goes wrong on it.
 *
 * @returns {Promise<{ page: import("puppeteer-core").Page, problems: string[] }>}
 */
export async function openPage(browser, url) {
  const page = await browser.newPage();
  const problems = [];
  // The server gets these as reports (`policyWatch`).
  const isReported = (text) => /report-only|\[Report Only\]/i.test(text);
  const add = (kind, text) => void (isReported(text) || problems.push(`${kind}: ${text}`));
  page.on("pageerror", (error) => add("page error", String(error.message ?? error)));
  page.on("console", (message) => {
    if (message.type() === "error") add("console", message.text());
  });
  await page.evaluateOnNewDocument(reportViolations);
  await page.goto(url);
  return { page, problems };
}

/** Runs in every page before its scripts. Firefox does not report what a security policy forbids. */
function reportViolations() {
  addEventListener("securitypolicyviolation", ({ disposition, effectiveDirective, blockedURI, sample }) => {
    if (disposition === "enforce") console.error(`the security policy was violated: ${effectiveDirective}, ${blockedURI} ${sample}`);
  });
}
