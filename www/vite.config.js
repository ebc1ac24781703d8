import { existsSync } from "node:fs";
import { defineConfig } from "vite";
import { VitePWA } from "vite-plugin-pwa";

/** The model that the site is published with: a trained one, or a stand-in with random weights. */
const embeddedKind = existsSync(new URL("../models/nano/manifest.json", import.meta.url)) ? "nano" : "random";

export default defineConfig({
  define: { __EMBEDDED_KIND__: JSON.stringify(embeddedKind) },
  // Works in any folder of any static host.
  base: "./",
  // Files keep their own addresses, which the page's security policy asks for.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  worker: { format: "es" },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
    VitePWA({
      // The user says when a new version takes over: an answer may be running.
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
        // The page itself. Models are kept by the package, in a store of their own that no update touches.
        globPatterns: ["**/*.{html,js,css,wasm,svg,png,ttf}"],
        maximumFileSizeToCacheInBytes: 8 << 20,
        // What computes without WebGPU is kept where it was needed once.
        globIgnores: ["**/*cpu*"],
        runtimeCaching: [
          { urlPattern: /assets\/[^/]*cpu[^/]*$/, handler: "CacheFirst", options: { cacheName: "cpu", expiration: { maxEntries: 4 } } },
        ],
        // `?model=…` is the same page.
        ignoreURLParametersMatching: [/./],
        navigateFallback: null,
        cleanupOutdatedCaches: true,
        inlineWorkboxRuntime: true,
        sourcemap: false,
      },
    }),
  ],
});
