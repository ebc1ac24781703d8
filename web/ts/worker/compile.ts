/**
 * Compiling kernels beside everything else. WebGPU offers it (`createComputePipelineAsync`), wgpu does not: its pipelines are made while
 * the GPU's whole queue waits. So the kernels are compiled here first, and the engine is given what came of it when it asks.
 */

import type { EngineOptions } from "../wire/protocol.js";

/** Whether the adapter that the engine will take offers subgroups. */
export async function offersSubgroups({ lowPower, forceFallbackAdapter }: EngineOptions): Promise<boolean> {
  const powerPreference = lowPower ? "low-power" : "high-performance";
  const adapter = await navigator.gpu.requestAdapter({ powerPreference, forceFallbackAdapter: forceFallbackAdapter ?? false });
  return adapter?.features.has("subgroups") ?? false;
}

/**
 * Runs `work`, which can ask which GPU device the engine has taken meanwhile. With `subgroups` the device has that feature, too, which wgpu
 * can not ask for.
 */
export async function watchDevice<T>(work: (taken: () => GPUDevice | undefined) => Promise<T>, subgroups: boolean): Promise<T> {
  const { prototype } = GPUAdapter;
  const original = prototype.requestDevice;
  let device: GPUDevice | undefined;
  prototype.requestDevice = async function (this: GPUAdapter, descriptor) {
    const requiredFeatures = [...(descriptor?.requiredFeatures ?? []), ...(subgroups ? (["subgroups"] as const) : [])];
    device = await original.call(this, { ...descriptor, requiredFeatures });
    return device;
  };
  try {
    return await work(() => device);
  } finally {
    prototype.requestDevice = original;
  }
}

/** Compiles shaders with the entry point `main` for an engine that will ask the device for their pipelines. What fails is left to it. */
export async function compileAhead(device: GPUDevice, shaders: readonly string[]): Promise<void> {
  const sources = new Map<GPUShaderModule, string>();
  const pipelines = new Map<string, GPUComputePipeline>();
  const makeModule = device.createShaderModule.bind(device);
  const makePipeline = device.createComputePipeline.bind(device);
  // Own properties of this one device: they hide the methods of its prototype.
  device.createShaderModule = (descriptor) => {
    const module = makeModule(descriptor);
    sources.set(module, descriptor.code);
    return module;
  };
  device.createComputePipeline = (descriptor) => {
    const { module, constants = {} } = descriptor.compute;
    const source = sources.get(module);
    sources.delete(module);
    const ready = source !== undefined && Object.keys(constants).length === 0 ? pipelines.get(source) : undefined;
    return ready ?? makePipeline(descriptor);
  };
  await Promise.all(
    shaders.map(async (code) => {
      try {
        const compute = { module: makeModule({ code }), entryPoint: "main" };
        pipelines.set(code, await device.createComputePipelineAsync({ layout: "auto", compute }));
      } catch {
        // The engine will meet the same error, and report it.
      }
    }),
  );
}
