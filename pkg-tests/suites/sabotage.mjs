// Scripts that change the WebGPU of the worker that runs them. They know kernels by the labels that the runtime gives to shaders and
// pipelines: the kernel, and the set that it belongs to, as in `matvec plain`.

/** Matrix products write nothing: their results are what the buffers held before. */
export const IDLE_PRODUCTS = `{
  const { prototype } = GPUComputePassEncoder;
  const { setPipeline, dispatchWorkgroups } = prototype;
  const labels = new WeakMap();
  prototype.setPipeline = function (pipeline) {
    labels.set(this, pipeline.label);
    setPipeline.call(this, pipeline);
  };
  prototype.dispatchWorkgroups = function (...counts) {
    if (!/^mat(vec|mul)/.test(labels.get(this))) dispatchWorkgroups.apply(this, counts);
  };
}`;

/** Requests `/seen/LABEL` for every shader that is created. */
export const REPORT_SHADERS = `{
  const { prototype } = GPUDevice;
  const { createShaderModule } = prototype;
  prototype.createShaderModule = function (descriptor) {
    fetch("/seen/" + encodeURIComponent(descriptor.label));
    return createShaderModule.call(this, descriptor);
  };
}`;

/**
 * Defines `raise(device, filter, error)`: the innermost error scope with that filter catches the error, and without one it is uncaptured, as
 * errors of the device itself.
 */
const ERROR_SCOPES = `
  const { pushErrorScope, popErrorScope } = GPUDevice.prototype;
  /** Scopes of each device, the innermost last. */
  const scopes = new WeakMap();
  const scopesOf = (device) => scopes.get(device) ?? scopes.set(device, []).get(device);
  GPUDevice.prototype.pushErrorScope = function (filter) {
    scopesOf(this).push({ filter });
    pushErrorScope.call(this, filter);
  };
  GPUDevice.prototype.popErrorScope = async function () {
    const { error } = scopesOf(this).pop() ?? {};
    const own = await popErrorScope.call(this);
    return error ?? own;
  };
  const raise = (device, filter, error) => {
    const scope = scopesOf(device).findLast((scope) => scope.filter === filter);
    if (scope) scope.error ??= error;
    else device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error, cancelable: true }));
  };`;

/** No buffer can be read: the browser never completes the mapping. Requests `/seen/read` for each. `releaseReads()` ends this. */
export const HOLD_READS = `{
  const { prototype } = GPUBuffer;
  const { mapAsync } = prototype;
  prototype.mapAsync = async function (...range) {
    fetch("/seen/read");
    await mapAsync.apply(this, range);
    await new Promise(() => undefined);
  };
  globalThis.releaseReads = () => void (prototype.mapAsync = mapAsync);
}`;

/** Returns a script with which the device has no memory for the buffers of a label. */
export const noMemoryFor = (label) => `{
  ${ERROR_SCOPES}
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    if (descriptor.label === ${JSON.stringify(label)}) raise(this, "out-of-memory", new GPUOutOfMemoryError("no room"));
    return createBuffer.call(this, descriptor);
  };
}`;

/**
 * The driver rejects the pipelines of kernels with 8-bit activations, as a real one does: with an internal error, and an invalid pipeline.
 * Requests `/seen/LABEL` for each.
 */
export const REJECT_PACKED = `{
  ${ERROR_SCOPES}
  const { prototype } = GPUDevice;
  const { createComputePipeline, createComputePipelineAsync } = prototype;
  const rejected = ({ label }) => label.endsWith("+packed");
  prototype.createComputePipeline = function (descriptor) {
    if (!rejected(descriptor)) return createComputePipeline.call(this, descriptor);
    fetch("/seen/" + encodeURIComponent(descriptor.label));
    raise(this, "internal", new GPUInternalError("the driver could not compile " + descriptor.label));
    // An entry point that does not exist makes the pipeline invalid; the error of that is dropped.
    pushErrorScope.call(this, "validation");
    const compute = { ...descriptor.compute, entryPoint: "missing" };
    const invalid = createComputePipeline.call(this, { ...descriptor, compute });
    popErrorScope.call(this);
    return invalid;
  };
  prototype.createComputePipelineAsync = async function (descriptor) {
    if (!rejected(descriptor)) return createComputePipelineAsync.call(this, descriptor);
    fetch("/seen/" + encodeURIComponent(descriptor.label));
    throw new GPUPipelineError("the driver could not compile " + descriptor.label, { reason: "internal" });
  };
}`;
