import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { VitePWA } from "vite-plugin-pwa";

/** The embedded model: the trained one, or a placeholder with random weights. */
const embeddedKind = existsSync(new URL("../models/nano/manifest.json", import.meta.url)) ? "nano" : "random";

export default defineConfig({
  define: { __EMBEDDED_KIND__: JSON.stringify(embeddedKind) },
  // Works in any folder of any static host.
  base: "./",
  // Pictograms, font and description of the world that the embedded model was trained in.
  resolve: { alias: { "@world": fileURLToPath(new URL("../crates/world/assets", import.meta.url)) } },
  // No inlined assets: the page's security policy allows no `data:` fonts and scripts.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  worker: { format: "es" },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
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
