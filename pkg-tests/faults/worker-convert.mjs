import "./points.mjs";
import "/package/dist/worker-convert.js";
