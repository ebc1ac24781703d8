// Runs in a worker before the package. Counts the buffers of its GPU and the size of its wasm memory.

/** Buffers that are neither destroyed nor of a destroyed device, with their device and their bytes. */
const buffers = new Map();
const memories = [];

const { prototype: devices } = GPUDevice;
const { createBuffer, destroy: destroyDevice } = devices;
devices.createBuffer = function (descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  buffers.set(buffer, { device: this, bytes: descriptor.size });
  return buffer;
};
devices.destroy = function () {
  for (const [buffer, { device }] of buffers) if (device === this) buffers.delete(buffer);
  destroyDevice.call(this);
};
const { destroy } = GPUBuffer.prototype;
GPUBuffer.prototype.destroy = function () {
  buffers.delete(this);
  destroy.call(this);
};

for (const method of ["instantiate", "instantiateStreaming"]) {
  const original = WebAssembly[method];
  WebAssembly[method] = async (...values) => {
    const made = await original(...values);
    const { memory } = (made.instance ?? made).exports;
    if (memory) memories.push(memory);
    return made;
  };
}

/** Returns what is in use now: `buffers`, their `bytes`, and bytes of wasm memory. */
export function inUse() {
  return {
    buffers: buffers.size,
    bytes: [...buffers.values()].reduce((sum, { bytes }) => sum + bytes, 0),
    wasm: memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0),
  };
}

/** Posts values to the test, which has them before the worker continues. */
export function report(path, values) {
  const request = new XMLHttpRequest();
  request.open("POST", path, false);
  request.send(JSON.stringify(values));
  // The browser keeps an entry of each request.
  performance.clearResourceTimings();
  return request.responseText;
}

/** Calls `send` before the worker answers a call of the page. */
export function beforeReplies(send) {
  const { postMessage } = self;
  self.postMessage = (message, ...others) => {
    if (["done", "error", "fatal"].includes(message?.kind)) send(message);
    postMessage.call(self, message, ...others);
  };
}
