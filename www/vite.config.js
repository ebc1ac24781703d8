import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { VitePWA } from "vite-plugin-pwa";

/** The embedded model: the trained one, or a placeholder with random weights. */
const embeddedKind = existsSync(new URL("../models/nano/manifest.json", import.meta.url)) ? "nano" : "random";

/**
 * Writes licenses.txt: the licences of everything that the page contains. Vite lists the npm packages in the scripts. Workbox is added here,
 * because its plugin bundles the service worker on its own.
 */
function licences() {
  const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8").trim();
  const version = (name) => JSON.parse(read(`../node_modules/${name}/package.json`)).version;
  const ours = ["MIT", "APACHE"].map((name) => read(`../LICENSE-${name}`)).join("\n\n");
  const parts = [
    ["Qwen-VL Web: this page and the package qwen-vl-web (MIT OR Apache-2.0). The folder of each model has the model's licence", ours],
    ["Pictograms: Noto Emoji of Google (Apache-2.0)", read("../crates/world/assets/NOTO-EMOJI.LICENSE.txt")],
    ["Pictograms: npm package emoji-datasource-google 16.0.0 (MIT), Copyright (c) 2013 Cal Henderson", "The terms of MIT are those above."],
    ["Names of pictograms: npm package emojibase-data 17.0.0 (MIT)", read("../crates/world/assets/EMOJIBASE.LICENSE.txt")],
    ["Font: Noto Sans (OFL-1.1)", read("../crates/world/assets/fonts/NotoSans-Bold.OFL.txt")],
    ...["workbox-core", "idb"].map((name) => [
      `npm package ${name} ${version(name)}, in the service worker`,
      read(`../node_modules/${name}/LICENSE`),
    ]),
  ];
  return {
    name: "licences",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const npm = JSON.parse(bundle["licenses.json"].source).map(({ name, version, identifier, text }) => {
          if (!text) this.error(`${name} ${version} has no licence text`);
          return [`npm package ${name} ${version} (${identifier})`, text];
        });
        delete bundle["licenses.json"];
        const texts = [...parts, ...npm].map(([title, text]) => `${title}\n\n${text}\n`);
        const source = [...texts, read("../web/THIRD_PARTY_LICENSES.txt")].join(`\n${"=".repeat(78)}\n\n`);
        this.emitFile({ type: "asset", fileName: "licenses.txt", source });
      },
    },
  };
}

export default defineConfig({
  define: { __EMBEDDED_KIND__: JSON.stringify(embeddedKind) },
  // Works in any folder of any static host.
  base: "./",
  // Pictograms, font and description of the world that the embedded model was trained in.
  resolve: { alias: { "@world": fileURLToPath(new URL("../crates/world/assets", import.meta.url)) } },
  // No inlined assets: the page's security policy allows no `data:` fonts and scripts.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, license: { fileName: "licenses.json" } },
  worker: { format: "es" },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
    licences(),
    VitePWA({
      // The visitor decides when a new version takes over, because an answer can be running.
      registerType: "prompt",
      injectRegister: null,
      manifest: {
        id: "./",
        start_url: "./",
        scope: "./",
        name: "Qwen-VL Web",
        short_name: "Qwen-VL",
        description: "Ask about pictures, in the browser: nothing is uploaded.",
        display: "standalone",
        theme_color: "#5b4bdb",
        background_color: "#f6f6f9",
        categories: ["utilities", "productivity"],
        icons: [
          { src: "icon-192.png", sizes: "192x192", type: "image/png" },
          { src: "icon-512.png", sizes: "512x512", type: "image/png" },
          { src: "icon-maskable-512.png", sizes: "512x512", type: "image/png", purpose: "maskable" },
          { src: "icon.svg", sizes: "any", type: "image/svg+xml" },
        ],
      },
      workbox: {
        // Only the page. The package stores models separately, so updates do not delete them.
        globPatterns: ["**/*.{html,js,css,wasm,svg,png,ttf}"],
        maximumFileSizeToCacheInBytes: 8 << 20,
        // The CPU fallback, the converter and constraints are cached on their first use.
        globIgnores: ["**/*cpu*", "**/*convert*", "**/*constrain*"],
        runtimeCaching: ["cpu", "convert", "constrain"].map((name) => ({
          urlPattern: new RegExp(`assets/[^/]*${name}[^/]*$`),
          handler: "CacheFirst",
          options: { cacheName: name, expiration: { maxEntries: 4 } },
        })),
        // `?model=…` opens the same page.
        ignoreURLParametersMatching: [/./],
        navigateFallback: null,
        cleanupOutdatedCaches: true,
        inlineWorkboxRuntime: true,
        sourcemap: false,
      },
    }),
  ],
});
