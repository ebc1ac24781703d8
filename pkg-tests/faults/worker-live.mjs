import { beforeReplies, inUse, report } from "./gpu-live.mjs";
import "/package/dist/worker.js";

beforeReplies(() => report("/faults/in-use", inUse()));
