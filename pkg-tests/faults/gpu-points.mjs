// Runs in a worker before the package. Counts the operations on the GPU that the worker begins, and lets one of them fail, as the plan in the
// worker's address says. The server says once that the fault is armed, so that the worker of a recovery has none.
//
// Kinds of faults at point `at`:
//   lost      the device is lost before the operation
//   memory    the device has no room for the buffer
//   compile   the driver rejects the pipeline
//   nan       all bytes that are written to a buffer are those of NaN
//   count     none

const plan = JSON.parse(new URL(self.location).searchParams.get("plan"));
const channel = new BroadcastChannel("points");
const request = new XMLHttpRequest();
request.open("GET", "/faults/armed", false);
request.send();
const armed = request.responseText === "yes";
let count = 0;
/** Buffers that are neither destroyed nor of a destroyed device. */
const live = new Set();
const reportLive = () => channel.postMessage({ live: live.size });

/** Counts an operation, of one of the kinds of faults that are possible there. Returns true if it is to fail. */
function fails(name, kinds) {
  if (plan.kind !== "count" && !kinds.includes(plan.kind)) return false;
  count += 1;
  if (plan.kind === "count") channel.postMessage({ name, kinds });
  if (!armed || plan.kind === "count" || count !== plan.at) return false;
  channel.postMessage({ name, hit: true });
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
  if (fails("GPUDevice.popErrorScope", ["lost"])) lose.call(this);
  const { error } = scopesOf(this).pop() ?? {};
  const own = await popErrorScope.call(this);
  return error ?? own;
};
function raise(device, filter, error) {
  const scope = scopesOf(device).findLast((scope) => scope.filter === filter);
  if (scope) scope.error ??= error;
  else device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error, cancelable: true }));
}

/** Device of a queue or a buffer. */
const device = new WeakMap();
const { destroy: lose } = devices;
devices.destroy = function () {
  for (const buffer of live) if (device.get(buffer) === this) live.delete(buffer);
  reportLive();
  lose.call(this);
};
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...values) {
  const made = await requestDevice.apply(this, values);
  device.set(made.queue, made);
  if (fails("GPUAdapter.requestDevice", ["lost"])) lose.call(made);
  return made;
};

devices.createBuffer = function (descriptor) {
  if (fails("GPUDevice.createBuffer", ["memory"])) raise(this, "out-of-memory", new GPUOutOfMemoryError("no room"));
  if (fails("GPUDevice.createBuffer", ["lost"])) lose.call(this);
  const buffer = createBuffer.call(this, descriptor);
  device.set(buffer, this);
  live.add(buffer);
  reportLive();
  return buffer;
};
const { destroy, mapAsync } = GPUBuffer.prototype;
GPUBuffer.prototype.destroy = function () {
  live.delete(this);
  reportLive();
  destroy.call(this);
};
GPUBuffer.prototype.mapAsync = function (...range) {
  if (fails("GPUBuffer.mapAsync", ["lost"])) lose.call(device.get(this));
  return mapAsync.apply(this, range);
};
const { createShaderModule } = devices;
devices.createShaderModule = function (descriptor) {
  if (fails("GPUDevice.createShaderModule", ["lost"])) lose.call(this);
  return createShaderModule.call(this, descriptor);
};
devices.createComputePipeline = function (descriptor) {
  if (fails("GPUDevice.createComputePipeline", ["lost"])) lose.call(this);
  if (!fails("GPUDevice.createComputePipeline", ["compile"])) return createComputePipeline.call(this, descriptor);
  raise(this, "internal", new GPUInternalError(`the driver could not compile ${descriptor.label}`));
  // An entry point that does not exist makes the pipeline invalid; the error of that is dropped.
  pushErrorScope.call(this, "validation");
  const invalid = createComputePipeline.call(this, { ...descriptor, compute: { ...descriptor.compute, entryPoint: "missing" } });
  void popErrorScope.call(this);
  return invalid;
};
devices.createComputePipelineAsync = async function (descriptor) {
  if (fails("GPUDevice.createComputePipelineAsync", ["lost"])) lose.call(this);
  if (!fails("GPUDevice.createComputePipelineAsync", ["compile"])) return createComputePipelineAsync.call(this, descriptor);
  throw new GPUPipelineError(`the driver could not compile ${descriptor.label}`, { reason: "internal" });
};

const { prototype: queues } = GPUQueue;
const { submit, writeBuffer } = queues;
queues.submit = function (commands) {
  if (fails("GPUQueue.submit", ["lost"])) lose.call(device.get(this));
  return submit.call(this, commands);
};
queues.writeBuffer = function (buffer, at, data, ...range) {
  if (fails("GPUQueue.writeBuffer", ["lost"])) lose.call(device.get(this));
  // Uniforms are sizes, and not numbers of the model.
  const isStorage = (buffer.usage & GPUBufferUsage.STORAGE) !== 0;
  if (!isStorage || !fails("GPUQueue.writeBuffer", ["nan"])) return writeBuffer.call(this, buffer, at, data, ...range);
  const [from = 0, size] = range;
  const unit = data.BYTES_PER_ELEMENT ?? 1;
  const bytes = size === undefined ? data.byteLength - from * unit : size * unit;
  return writeBuffer.call(this, buffer, at, new Uint8Array(bytes).fill(0xff));
};
