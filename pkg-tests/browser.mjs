// Starts Chromium or Firefox without a screen, on a software adapter unless the machine's GPU is asked for: results of tests must not depend
// on the machine.

import { access, constants } from "node:fs/promises";
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
 * @param {{ name: "chromium" | "firefox", program: string, vulkanIcd?: string, hardware?: boolean, flags?: string[], extensions?: string[] }}
 *   options for Chromium: the machine's GPU (`hardware`), more `flags`, and folders of `extensions`
 */
export async function launch({ name, program, vulkanIcd, hardware = false, flags = [], extensions = [] }) {
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
    },
  });
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
  await page.goto(url);
  return { page, problems };
}
