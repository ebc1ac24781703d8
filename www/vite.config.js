import { defineConfig } from "vite";

export default defineConfig({
  // Works in any folder of any static host.
  base: "./",
  build: { target: "es2022", assetsInlineLimit: 0 },
  worker: { format: "es" },
});
