// Runs in a worker before the package. Counts the operations on the GPU that the worker begins, and lets one of them fail, as the plan in the
// worker's address says. The server says once that the fault is armed, so that the worker of a recovery has none.
//
// Kinds of faults at point `at`:
//   lost      the device is lost before the operation, or no adapter is found
//   memory    the device has no room for the buffer, which is invalid
//   compile   the driver rejects the pipeline
//   nan       all bytes that are written to a buffer are those of NaN
//   count     none
//
// Calls within a compute pass are not points: a loss there is one at the end of its commands.

import { beforeReplies, inUse, report } from "./gpu-live.mjs";

const plan = JSON.parse(new URL(self.location).searchParams.get("plan"));
const armed = report("/faults/armed", {}) === "yes";
let count = 0;
/** Points of each kind since the last report, as pairs of stage and operation. */
let points = [];
beforeReplies(() => {
  report("/faults/points", { points, live: inUse().buffers });
  points = [];
});

// All runs have the same points: time passes with each look at the clock, so that the numbers of submissions and measurements, which depend on
// the measured speed, are the same; and files arrive whole.
let time = 0;
performance.now = () => (time += 20);
const { fetch } = self;
self.fetch = async (...values) => {
  const response = await fetch(...values);
  const { status, headers } = response;
  return response.ok ? new Response(await response.arrayBuffer(), { status, headers }) : response;
};

/**
 * The work of the worker, as far as the messages between the page and the worker show it: `load`, in it the choice of kernels and the
 * self-check, then pictures, chunks of the prompt, and decoding, or a benchmark.
 */
let stage = "load";
let chunk = 1;
self.addEventListener("message", ({ data: { kind } }) => {
  if (["load", "benchmark"].includes(kind)) stage = kind;
  if (kind === "ask") [stage, chunk] = ["picture", 1];
  if (kind === "dispose") stage = "disposal";
});
const { postMessage } = self;
self.postMessage = (message, ...others) => {
  const { kind, event = {} } = message;
  if (kind === "event" && event.phase === "warmup") stage = "self-check";
  if (kind === "event" && event.type === "encode" && event.done === event.total) stage = "prefill chunk 1";
  if (kind === "event" && event.type === "prefill") stage = event.done === event.total ? "decode" : `prefill chunk ${(chunk += 1)}`;
  postMessage.call(self, message, ...others);
};

/** Counts an operation at which a kind of fault is possible. Returns true if it is to fail. */
function fails(kind, step, name) {
  if (plan.kind === "count") points.push([kind, stage, step, name]);
  if (plan.kind !== kind) return false;
  count += 1;
  if (!armed || count !== plan.at) return false;
  report("/faults/hit", { stage, step, name });
  return true;
}

// Scopes of errors, as in `../suites/sabotage.mjs`: the innermost one with the filter catches an error.
const { prototype: devices } = GPUDevice;
const { pushErrorScope, popErrorScope, createBuffer, createComputePipeline, createComputePipelineAsync } = devices;
const scopes = new WeakMap();
const scopesOf = (device) => scopes.get(device) ?? scopes.set(device, []).get(device);
devices.pushErrorScope = function (filter) {
  scopesOf(this).push({ filter });
  pushErrorScope.call(this, filter);
};
devices.popErrorScope = async function () {
  const { error } = scopesOf(this).pop() ?? {};
  const own = await popErrorScope.call(this);
  return error ?? own;
};
function raise(device, filter, error) {
  const scope = scopesOf(device).findLast((scope) => scope.filter === filter);
  if (scope) scope.error ??= error;
  // A device reports errors after the call that causes them.
  else queueMicrotask(() => device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error, cancelable: true })));
}
/** Makes an object that is invalid. The error of that is dropped: a device that fails reports another one. */
function invalid(device, make) {
  pushErrorScope.call(device, "validation");
  const made = make();
  void popErrorScope.call(device);
  return made;
}

devices.createBuffer = function (descriptor) {
  if (!fails("memory", "allocation", "GPUDevice.createBuffer")) return createBuffer.call(this, descriptor);
  raise(this, "out-of-memory", new GPUOutOfMemoryError("no room"));
  // A buffer has at least one usage.
  return invalid(this, () => createBuffer.call(this, { ...descriptor, usage: 0 }));
};
devices.createComputePipeline = function (descriptor) {
  if (!fails("compile", "compile", "GPUDevice.createComputePipeline")) return createComputePipeline.call(this, descriptor);
  raise(this, "internal", new GPUInternalError(`the driver could not compile ${descriptor.label}`));
  const compute = { ...descriptor.compute, entryPoint: "missing" };
  return invalid(this, () => createComputePipeline.call(this, { ...descriptor, compute }));
};
devices.createComputePipelineAsync = async function (descriptor) {
  if (stage === "choice of kernels") stage = "load";
  if (!fails("compile", "compile", "GPUDevice.createComputePipelineAsync")) return createComputePipelineAsync.call(this, descriptor);
  throw new GPUPipelineError(`the driver could not compile ${descriptor.label}`, { reason: "internal" });
};

const { prototype: queues } = GPUQueue;
const { writeBuffer } = queues;
queues.writeBuffer = function (buffer, at, data, ...range) {
  // Uniforms are sizes, and not numbers of the model.
  const isStorage = (buffer.usage & GPUBufferUsage.STORAGE) !== 0;
  if (!isStorage || !fails("nan", "upload", "GPUQueue.writeBuffer")) return writeBuffer.call(this, buffer, at, data, ...range);
  const [from = 0, size] = range;
  const unit = data.BYTES_PER_ELEMENT ?? 1;
  const bytes = size === undefined ? data.byteLength - from * unit : size * unit;
  return writeBuffer.call(this, buffer, at, new Uint8Array(bytes).fill(0xff));
};

// Points of `lost`.

/** The device that an object belongs to. */
const owner = new WeakMap();
const lose = devices.destroy;
const STEPS = {
  allocation: [[GPUDevice, "createBuffer", "popErrorScope", "createQuerySet"]],
  upload: [[GPUQueue, "writeBuffer"]],
  compile: [
    [GPUDevice, "createShaderModule", "createComputePipeline", "createComputePipelineAsync"],
    [GPUComputePipeline, "getBindGroupLayout"],
  ],
  encode: [
    [GPUDevice, "createBindGroup", "createCommandEncoder"],
    [GPUCommandEncoder, "beginComputePass", "copyBufferToBuffer", "clearBuffer", "finish"],
  ],
  submission: [[GPUQueue, "submit", "onSubmittedWorkDone"]],
  "read-back": [[GPUBuffer, "mapAsync", "getMappedRange"]],
};
for (const [step, types] of Object.entries(STEPS)) {
  for (const [{ name, prototype }, ...methods] of types) {
    for (const method of methods) {
      const original = prototype[method];
      prototype[method] = function (...values) {
        const device = this instanceof GPUDevice ? this : owner.get(this);
        if (fails("lost", step, `${name}.${method}`)) lose.call(device);
        const made = original.apply(this, values);
        if (made instanceof Promise)
          void made.then((made) => made instanceof GPUComputePipeline && owner.set(made, device)).catch(() => undefined);
        else if (made) owner.set(made, device);
        return made;
      };
    }
  }
}
const { requestAdapter } = GPU.prototype;
GPU.prototype.requestAdapter = async function (...values) {
  return fails("lost", "request", "GPU.requestAdapter") ? null : requestAdapter.apply(this, values);
};
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...values) {
  const made = await requestDevice.apply(this, values);
  owner.set(made.queue, made);
  if (fails("lost", "request", "GPUAdapter.requestDevice")) lose.call(made);
  if (plan.chooses) stage = "choice of kernels";
  return made;
};

if (plan.chooses) {
  // The adapter of these browsers is software and says so: nothing would be measured on it.
  for (const fact of ["vendor", "architecture", "device", "description"])
    Object.defineProperty(GPUAdapterInfo.prototype, fact, { get: () => "" });
  Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { get: () => undefined });
  // The kernels for processors are the fastest, as they are on this adapter: it compiles the others for half a minute.
  const { setPipeline } = GPUComputePassEncoder.prototype;
  let latest = "";
  GPUComputePassEncoder.prototype.setPipeline = function (pipeline) {
    latest = pipeline.label;
    setPipeline.call(this, pipeline);
  };
  const { submit } = queues;
  queues.submit = function (commands) {
    if (!/\bcpu\b/.test(latest)) time += 1000;
    submit.call(this, commands);
  };
}
