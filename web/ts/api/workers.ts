/** Starts the workers that models and cache operations run in. */

import { WorkerClient, type Remote } from "../wire/client.js";
import { QwenVLError } from "../wire/errors.js";
import type { Backend } from "../wire/protocol.js";
import { absolute } from "../weights/spec.js";
import { address, type Checks } from "./options.js";

/** Addresses of the package's files, if the page serves them from another place. */
export interface FileLocations {
  /** Address of the wasm file for WebGPU. */
  wasmUrl?: string | URL;
  /** Address of the worker script for WebGPU. */
  workerUrl?: string | URL;
  /** Address of the wasm file of the CPU fallback. */
  cpuWasmUrl?: string | URL;
  /** Address of the worker script of the CPU fallback. */
  cpuWorkerUrl?: string | URL;
  /** Address of the wasm file of the converter. */
  convertWasmUrl?: string | URL;
  /** Address of the worker script of the converter. */
  convertWorkerUrl?: string | URL;
  /** Address of the wasm file of constraints. */
  constrainWasmUrl?: string | URL;
  /** Address of the worker script of constraints. */
  constrainWorkerUrl?: string | URL;
}

export const LOCATION_CHECKS: Checks<FileLocations> = {
  wasmUrl: address,
  workerUrl: address,
  cpuWasmUrl: address,
  cpuWorkerUrl: address,
  convertWasmUrl: address,
  convertWorkerUrl: address,
  constrainWasmUrl: address,
  constrainWorkerUrl: address,
};

/** Workers of the page that were given to a load. They end with their model, so each serves one load. */
const usedWorkers = new WeakSet<Worker>();

/** Returns the address of the wasm file, if the page serves it from another place. */
export function wasmLocation({ wasmUrl, cpuWasmUrl }: FileLocations, backend: Backend = "webgpu"): { wasmUrl?: string } {
  const moved = backend === "cpu" ? cpuWasmUrl : wasmUrl;
  return moved ? { wasmUrl: absolute(moved).href } : {};
}

/** Starts the package's worker. */
export function startWorker({ workerUrl, cpuWorkerUrl }: FileLocations, backend: Backend = "webgpu"): WorkerClient {
  if (typeof Worker === "undefined") throw new QwenVLError("WEBGPU_UNAVAILABLE", "this environment has no workers: models run in browsers");
  const moved = backend === "cpu" ? cpuWorkerUrl : workerUrl;
  if (moved) return new WorkerClient(new Worker(moved, { type: "module" }));
  // Bundlers find the workers by these literals.
  return new WorkerClient(
    backend === "cpu"
      ? new Worker(new URL("../worker-cpu.js", import.meta.url), { type: "module" })
      : new Worker(new URL("../worker.js", import.meta.url), { type: "module" }),
  );
}

/** Starts a worker of the converter. */
export function startConverter({ convertWorkerUrl }: FileLocations): WorkerClient {
  if (typeof Worker === "undefined") throw new QwenVLError("INTERNAL", "this environment has no workers: run `npx qwen-vl-web quantize`");
  if (convertWorkerUrl) return new WorkerClient(new Worker(convertWorkerUrl, { type: "module" }));
  return new WorkerClient(new Worker(new URL("../worker-convert.js", import.meta.url), { type: "module" }));
}

/** Takes over a worker of the page, whose script imports `qwen-vl-web/worker`. */
export function adoptWorker(worker: Worker): WorkerClient {
  if (usedWorkers.has(worker)) {
    throw new QwenVLError("DISPOSED", "the worker in `worker` has ended with the load that it was given to: pass a new Worker");
  }
  usedWorkers.add(worker);
  return new WorkerClient(worker);
}

/** Serves a model on the page's own thread. */
export async function startOnPageThread(backend: Backend): Promise<WorkerClient> {
  const { port1, port2 } = new MessageChannel();
  // oxlint-disable-next-line no-restricted-imports -- the one place where the page runs the worker's side
  const { serveOnPageThread } = await import("../worker/page-thread.js");
  return clientOf(port1, await serveOnPageThread(port2, backend));
}

/** Returns the client of a server on the page's own thread, which is at the other end of a port. */
export function clientOf(port: MessagePort, end: () => void): WorkerClient {
  const remote: Remote = Object.assign(port, {
    onerror: null,
    terminate() {
      end();
      port.close();
    },
  });
  return new WorkerClient(remote);
}
