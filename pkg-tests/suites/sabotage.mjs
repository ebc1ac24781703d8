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
 * The driver rejects the pipelines of kernels with 8-bit activations, as a real one does: with an internal error, and an invalid pipeline.
 * Requests `/seen/LABEL` for each.
 */
export const REJECT_PACKED = `{
  const { prototype } = GPUDevice;
  const { pushErrorScope, popErrorScope, createComputePipeline, createComputePipelineAsync } = prototype;
  const rejected = ({ label }) => label.endsWith("+packed");
  /** Scopes of each device, the innermost last. */
  const scopes = new WeakMap();
  const scopesOf = (device) => scopes.get(device) ?? scopes.set(device, []).get(device);
  prototype.pushErrorScope = function (filter) {
    scopesOf(this).push({ filter });
    pushErrorScope.call(this, filter);
  };
  prototype.popErrorScope = async function () {
    const { error } = scopesOf(this).pop() ?? {};
    const own = await popErrorScope.call(this);
    return error ?? own;
  };
  prototype.createComputePipeline = function (descriptor) {
    if (!rejected(descriptor)) return createComputePipeline.call(this, descriptor);
    fetch("/seen/" + encodeURIComponent(descriptor.label));
    const error = new GPUInternalError("the driver could not compile " + descriptor.label);
    const scope = scopesOf(this).findLast(({ filter }) => filter === "internal");
    if (scope) scope.error ??= error;
    else this.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error, cancelable: true }));
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
