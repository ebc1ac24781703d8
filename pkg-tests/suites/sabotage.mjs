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
