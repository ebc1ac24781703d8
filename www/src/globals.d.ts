/** Set by vite.config.js. */
declare const __EMBEDDED_KIND__: "random" | "nano";

/** Missing in browsers that cannot write to a folder: Firefox, Safari. */
declare const showDirectoryPicker: ((options: { id: string; mode: "readwrite" }) => Promise<FileSystemDirectoryHandle>) | undefined;
