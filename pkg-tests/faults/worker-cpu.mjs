import "./points.mjs";
import "/package/dist/worker-cpu.js";
