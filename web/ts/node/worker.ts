/** The converter in a thread of Node. */

import { setMaxListeners } from "node:events";
import { parentPort } from "node:worker_threads";
import type { ConverterEdge } from "../convert/converter.js";
import { FolderOutput } from "../convert/output.js";
import { serveConverter, type ConverterScope } from "../convert/serve.js";
import * as edge from "../wasm/qwen_vl_web_convert.js";
import { makeRanges } from "../weights/spec.js";
import { QwenVLError } from "../wire/errors.js";
import { DiskRanges, DiskStore } from "./disk.js";

// Node warns of more than ten listeners of a signal, and each request has one.
setMaxListeners(0);
const scope: ConverterScope = { onmessage: null, postMessage: (message) => parentPort?.postMessage(message) };
serveConverter(scope, edge as unknown as ConverterEdge, {
  source: (spec) => (spec.kind === "path" ? new DiskRanges(spec.folder) : makeRanges(spec)),
  output(spec, { fingerprint, shards }, others) {
    if (spec.kind !== "path") throw new QwenVLError("INTERNAL", "Node writes to paths");
    return Promise.resolve(
      new FolderOutput(
        new DiskStore(spec.folder),
        fingerprint,
        shards.map(({ file }) => file),
        others,
        spec.folder,
      ),
    );
  },
});
parentPort?.on("message", (data) => scope.onmessage?.({ data } as MessageEvent));
