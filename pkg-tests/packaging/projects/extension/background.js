// Engines run in pages, not in the extension's service worker, which browsers end when they like.
