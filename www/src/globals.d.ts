/** Set by vite.config.js. */
declare const __EMBEDDED_KIND__: "random" | "nano";
