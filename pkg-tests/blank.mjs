import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { serve } from "./server.mjs";

/**
 * Serves folders (see `serve`) and at `/` an empty page that knows the package, which is at `/package/`, by its name: from the `exports` of
 * its package.json. `isolated` from other origins, the page may share memory between threads. `pageHeaders` returns more headers of the page.
 */
export async function serveBlank(packageFolder, folders, { handle, isolated = false, pageHeaders = () => ({}) } = {}) {
  const { exports } = JSON.parse(await readFile(join(packageFolder, "package.json"), "utf8"));
  const imports = {};
  for (const [path, entry] of Object.entries(exports)) {
    const file = typeof entry === "string" ? entry : entry.default;
    imports[path.replace(".", "qwen-vl-web")] = file.replace(".", "/package");
  }
  const page = `<!doctype html><meta charset="utf-8"><script type="importmap">${JSON.stringify({ imports })}</script>`;
  return serve(
    { ...folders, "/package/": packageFolder },
    {
      handle(path, response) {
        if (isolated) {
          response.setHeader("cross-origin-opener-policy", "same-origin");
          response.setHeader("cross-origin-embedder-policy", "require-corp");
        }
        if (path !== "/" && path !== "/favicon.ico") return handle?.(path, response) ?? false;
        const headers = path === "/" ? { "content-type": "text/html", ...pageHeaders() } : { "content-type": "image/x-icon" };
        response.writeHead(200, headers).end(path === "/" ? page : "");
        return true;
      },
    },
  );
}
