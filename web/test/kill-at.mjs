// Kills a process, and all its threads, when it does something on the disk: as a crash at that place. For NODE_OPTIONS=--import=THIS_FILE.
//   QWEN_VL_KILL_AT=ENDING BYTES   when it would have written more than this number of bytes to a file whose name has this ending
//   QWEN_VL_KILL_AT=ENDING rename  when it would have renamed a file or folder with this ending

import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const [ending, limit] = (process.env.QWEN_VL_KILL_AT ?? "").split(" ");
const { open, rename } = fs.promises;

if (ending) {
  fs.promises.open = async (path, ...rest) => {
    const file = await open(path, ...rest);
    if (!path.endsWith(ending)) return file;
    const { writeFile } = file;
    let bytes = 0;
    file.writeFile = (data, ...rest) => {
      bytes += data.byteLength;
      if (limit !== "rename" && bytes > Number(limit)) process.kill(process.pid, "SIGKILL");
      return writeFile.call(file, data, ...rest);
    };
    return file;
  };
  fs.promises.rename = (from, to) => {
    if (limit === "rename" && from.endsWith(ending)) process.kill(process.pid, "SIGKILL");
    return rename(from, to);
  };
  // The named imports of `node:fs/promises`.
  syncBuiltinESMExports();
}
