// Starts Chromium or Firefox without a screen, on a software adapter unless the machine's GPU is asked for: results of tests must not depend
// on the machine.

import { access, constants } from "node:fs/promises";
import { createServer } from "node:http";
import { delimiter, isAbsolute, join } from "node:path";
import puppeteer from "puppeteer-core";

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

/** Hosts that browsers ask without a page, for updates for example. No page here has such an address. */
const OF_THE_BROWSERS =
  /(^|\.)(google\.com|googleapis\.com|gvt1\.com|mozilla\.(com|net|org)|firefox\.com|detectportal\.com|dummy\.test)(:\d+)?$/;

/**
 * Starts a proxy that refuses every request and records its host. Pages, workers and service workers use it for every host but this machine.
 *
 * @returns {Promise<{ port: number, hosts: Set<string>, close(): void }>} `hosts` without those of the browsers
 */
export async function recordingProxy() {
  const hosts = new Set();
  const record = (host) => void (OF_THE_BROWSERS.test(host) || hosts.add(host));
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

/** The policy of `web/README.md`, as far as it concerns workers. A worker takes it from the headers of its script. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "connect-src 'self' http://127.0.0.1:* http://localhost:*",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
];

/**
 * Watches the scripts of a server for what a strict security policy forbids, also in workers. It forbids nothing: the browser reports.
 *
 * @returns {{ reports: string[], handle(path: string, response: import("node:http").ServerResponse): boolean }}
 */
export function policyWatch() {
  const reports = [];
  return {
    reports,
    handle(path, response) {
      if (path === "/policy-reports") {
        let text = "";
        response.req.on("data", (piece) => (text += piece)).on("end", () => reports.push(text));
        response.writeHead(204).end();
        return true;
      }
      if (path.startsWith("/package/"))
        response.setHeader("content-security-policy-report-only", [...POLICY, "report-uri /policy-reports"].join("; "));
      return false;
    },
  };
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
  page.on("pageerror", (error) => problems.push(`page error: ${error.message ?? error}`));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(`console: ${message.text()}`);
  });
  await page.evaluateOnNewDocument(reportViolations);
  await page.goto(url);
  return { page, problems };
}

/** Runs in every page before its scripts. Firefox does not report what a security policy forbids. */
function reportViolations() {
  addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI, sample }) => {
    console.error(`the security policy was violated: ${effectiveDirective}, ${blockedURI} ${sample}`);
  });
}
