import "./points.mjs";
import "/package/dist/worker.js";
