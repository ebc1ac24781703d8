import { join } from "node:path";

/** Pages that any static host serves. The packages are two folders above. */
export default { output: "export", trailingSlash: true, turbopack: { root: join(import.meta.dirname, "../..") } };
