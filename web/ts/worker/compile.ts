/**
 * Compiles kernels in parallel to everything else. WebGPU can do that (`createComputePipelineAsync`), wgpu cannot: its pipelines are made
 * while the whole queue of the GPU waits. So the kernels are compiled here first, and the engine gets the results when it asks for them.
 */

import type { EngineOptions } from "../wire/protocol.js";

/** Returns an adapter like the one that the engine will get, for the facts about it that wgpu does not pass on. */
export async function similarAdapter({ lowPower, forceFallbackAdapter }: EngineOptions): Promise<GPUAdapter | null> {
  const powerPreference = lowPower ? "low-power" : "high-performance";
  return navigator.gpu.requestAdapter({ powerPreference, forceFallbackAdapter: forceFallbackAdapter ?? false });
}

/**
 * Calls `create`, which makes the engine request an adapter before it returns, and calls `onDevice` with the device that the engine gets
 * from that adapter. With `subgroups` the device has that feature, too, which wgpu cannot request.
 *
 * Only this one adapter object is changed. `requestAdapter` is replaced during the synchronous part of `create`, so no other code calls it.
 */
export function withDeviceHook<T>(create: () => Promise<T>, subgroups: boolean, onDevice: (device: GPUDevice) => void): Promise<T> {
  const { gpu } = navigator;
  const requestAdapter = gpu.requestAdapter.bind(gpu);
  const hooked = async (options?: GPURequestAdapterOptions) => {
    const adapter = await requestAdapter(options);
    if (adapter) hookAdapter(adapter, subgroups, onDevice);
    return adapter;
  };
  // An own property of this object hides the method of its prototype.
  Object.defineProperty(gpu, "requestAdapter", { value: hooked, configurable: true });
  try {
    return create();
  } finally {
    Reflect.deleteProperty(gpu, "requestAdapter");
  }
}

function hookAdapter(adapter: GPUAdapter, subgroups: boolean, onDevice: (device: GPUDevice) => void): void {
  const requestDevice = adapter.requestDevice.bind(adapter);
  adapter.requestDevice = async (descriptor) => {
    const requiredFeatures = [...(descriptor?.requiredFeatures ?? []), ...(subgroups ? (["subgroups"] as const) : [])];
    const device = await requestDevice({ ...descriptor, requiredFeatures });
    translateInternalErrors(device);
    onDevice(device);
    return device;
  };
}

/**
 * Presents internal errors of the device as validation errors, because wgpu panics on them. The device raises one when the driver rejects a
 * pipeline.
 */
function translateInternalErrors(device: GPUDevice): void {
  const translated = (error: GPUError) =>
    error instanceof GPUInternalError ? new GPUValidationError(`the driver failed: ${error.message}`) : error;
  const popErrorScope = device.popErrorScope.bind(device);
  device.popErrorScope = async () => {
    const error = await popErrorScope();
    return error && translated(error);
  };
  // Runs before the listener of wgpu, which is added later. An own property of the event hides the one of its prototype.
  device.addEventListener("uncapturederror", (event) => Object.defineProperty(event, "error", { value: translated(event.error) }));
}

/** Label and WGSL of a shader. */
export type Shader = readonly [label: string, code: string];

/** Compiles shaders with the entry point `main` ahead of an engine that will ask the device for their pipelines. Failures are left to it. */
export async function compileAhead(device: GPUDevice, shaders: readonly Shader[]): Promise<void> {
  const sources = new Map<GPUShaderModule, string>();
  const pipelines = new Map<string, GPUComputePipeline>();
  const createModule = device.createShaderModule.bind(device);
  const createPipeline = device.createComputePipeline.bind(device);
  // Own properties of this device hide the methods of its prototype.
  device.createShaderModule = (descriptor) => {
    const module = createModule(descriptor);
    sources.set(module, descriptor.code);
    return module;
  };
  device.createComputePipeline = (descriptor) => {
    const { module, constants = {} } = descriptor.compute;
    const source = sources.get(module);
    sources.delete(module);
    const ready = source !== undefined && Object.keys(constants).length === 0 ? pipelines.get(source) : undefined;
    return ready ?? createPipeline(descriptor);
  };
  await Promise.all(
    shaders.map(async ([label, code]) => {
      try {
        const compute = { module: createModule({ label, code }), entryPoint: "main" };
        pipelines.set(code, await device.createComputePipelineAsync({ label, layout: "auto", compute }));
      } catch {
        // The engine will meet the same error, and report it.
      }
    }),
  );
}
