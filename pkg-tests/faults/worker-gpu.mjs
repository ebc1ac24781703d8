import "./gpu-points.mjs";
import "/package/dist/worker.js";
