// Runs in the browser: our kernels and onnxruntime-web's on one WebGPU device, call by call in turn.

import * as ort from "onnxruntime-web/webgpu";
import { model } from "./onnx.js";

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** onnxruntime-web makes the device at its first session; ours must be the same for a fair ratio. */
let device;

/** The device lives as long as a session does. */
let keeper;

async function session(operator, attributes, inputs, output) {
  const bytes = model(operator, attributes, inputs, output);
  const made = await ort.InferenceSession.create(bytes, {
    executionProviders: ["webgpu"],
    preferredOutputLocation: "gpu-buffer",
    graphOptimizationLevel: "disabled",
  });
  if (!keeper) {
    keeper = made;
    device = await ort.env.webgpu.device;
  }
  const buffers = [];
  const feeds = {};
  for (const [name, type, shape] of inputs) {
    const size = Math.ceil((shape.reduce((a, b) => a * b, 1) * (type === "uint8" ? 1 : 4)) / 16) * 16;
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
    buffers.push(buffer);
    fill(buffer, type);
    feeds[name] = ort.Tensor.fromGpuBuffer(buffer, { dataType: type, dims: shape });
  }
  return {
    async run() {
      const { output } = await made.run(feeds);
      output.dispose();
    },
    async release() {
      if (made !== keeper) await made.release();
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

/** Small numbers that are no constants, so that nothing can be skipped: floats near 1, codes of all values. */
function fill(buffer, type) {
  const words = new Uint32Array(Math.min(buffer.size, 1 << 20) / 4);
  for (let i = 0, state = 1; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = type === "float32" ? 0x3f000000 | (state >>> 9) : state;
  }
  for (let at = 0; at < buffer.size; at += words.byteLength) {
    device.queue.writeBuffer(buffer, at, words, 0, Math.min(words.length, (buffer.size - at) / 4));
  }
}

/** Returns the runs of onnxruntime-web that a case is compared with, by name. */
async function rivals({ shape }, skip) {
  if (shape.kind === "product") {
    const { rows, cols, out } = shape;
    const inputs = [
      ["A", "float32", [rows, cols]],
      ["B", "uint8", [out, cols / 32, 16]],
      ["scales", "float32", [(out * cols) / 32]],
    ];
    const attributes = { K: cols, N: out, bits: 4, block_size: 32 };
    const at = (accuracy_level) => session("MatMulNBits", { ...attributes, accuracy_level }, inputs, [rows, out]);
    const named = { "MatMulNBits, float": 1, "MatMulNBits, 8-bit": 4 };
    const made = {};
    for (const [name, level] of Object.entries(named)) if (!skip || !name.includes(skip)) made[name] = await at(level);
    return made;
  }
  if (shape.kind !== "attention") return {};
  const { rows, keys, heads, kv_heads, head_dim, causal } = shape;
  if (rows !== keys || heads !== kv_heads) return {};
  const width = heads * head_dim;
  const inputs = ["query", "key", "value"].map((name) => [name, "float32", [1, rows, width]]);
  return {
    MultiHeadAttention: await session("MultiHeadAttention", { num_heads: heads, unidirectional: causal ? 1 : 0 }, inputs, [1, rows, width]),
  };
}

/** Our launches of a case, as `qwenvl bench --export` wrote them. */
function ours({ step, launches }) {
  const uniform = (words) => {
    const size = Math.max(16, Math.ceil(words.length / 4) * 16);
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, Uint32Array.from(words));
    return buffer;
  };
  const buffers = [uniform(step)];
  const prepared = launches.map(({ label, source, sizes, buffers: sizesOf, workgroups }) => {
    // Natively, where the source comes from, subgroups need no such line.
    const code = /subgroupAdd/.test(source) ? `enable subgroups;\n${source}` : source;
    const module = device.createShaderModule({ label, code });
    const pipeline = device.createComputePipeline({ label, layout: "auto", compute: { module, entryPoint: "main" } });
    const entries = sizesOf.map(([binding, size]) => {
      const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
      fill(buffer, /weight_scales/.test(source) && (binding === 4 || binding === 5) ? "uint8" : "float32");
      buffers.push(buffer);
      return { binding, resource: { buffer } };
    });
    if (source.includes("step.")) entries.push({ binding: 0, resource: { buffer: buffers[0] } });
    const own = uniform(sizes);
    buffers.push(own);
    entries.push({ binding: 7, resource: { buffer: own } });
    return { pipeline, group: device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }), workgroups };
  });
  return {
    run() {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (const { pipeline, group, workgroups } of prepared) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
      }
      pass.end();
      device.queue.submit([encoder.finish()]);
    },
    release: () => buffers.forEach((buffer) => buffer.destroy()),
  };
}

/** Milliseconds of a call, of as many as fill about `fill` milliseconds. */
async function time(run, count) {
  const started = performance.now();
  for (let i = 0; i < count; i++) await run();
  await device.queue.onSubmittedWorkDone();
  return (performance.now() - started) / count;
}

/**
 * Medians over `runs` rounds in which every rival has its turn, but for those whose names contain `skip`.
 *
 * @returns {Promise<{ name: string, millis: Record<string, number>, ratio: number | undefined }>} `ratio`: best rival to ours
 */
export async function measure(cases, { runs = 7, fill = 80, skip = "" } = {}) {
  const others = await rivals(cases[0], skip);
  if (!device) throw new Error("the first case needs onnxruntime-web, which makes the device");
  const all = { ...Object.fromEntries(cases.map((item) => [item.label ?? "ours", ours(item)])), ...others };
  const counts = {};
  device.pushErrorScope("validation");
  for (const [name, one] of Object.entries(all)) {
    await time(one.run, 1);
    counts[name] = Math.max(1, Math.min(200, Math.round(fill / (await time(one.run, 1)))));
  }
  const error = await device.popErrorScope();
  if (error) throw new Error(error.message);
  const samples = Object.fromEntries(Object.keys(all).map((name) => [name, []]));
  for (let round = 0; round < runs; round++) {
    for (const [name, one] of Object.entries(all)) samples[name].push(await time(one.run, counts[name]));
  }
  for (const one of Object.values(all)) await one.release();
  const millis = Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, median(values)]));
  const best = Math.min(...Object.keys(others).map((name) => millis[name]));
  return { name: cases[0].name, millis, ratio: Object.keys(others).length ? best / millis[cases[0].label ?? "ours"] : undefined };
}
