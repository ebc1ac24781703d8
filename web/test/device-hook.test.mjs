// The hook on the engine's GPU device, with a GPU as browsers have it: `requestAdapter` and `requestDevice` are methods of prototypes.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { withDeviceHook } from "../dist/worker/compile.js";

class GPUError {
  constructor(message) {
    this.message = message;
  }
}
globalThis.GPUInternalError = class extends GPUError {};
globalThis.GPUValidationError = class extends GPUError {};

class GPUDevice extends EventTarget {
  /** Result of the next scope. */
  caught = null;

  constructor(label, features) {
    super();
    Object.assign(this, { label, features });
  }

  async popErrorScope() {
    return this.caught;
  }
}

class UncapturedErrorEvent extends Event {
  #error;

  constructor(error) {
    super("uncapturederror");
    this.#error = error;
  }

  get error() {
    return this.#error;
  }
}

class GPUAdapter {
  async requestDevice({ label, requiredFeatures = [] } = {}) {
    return new GPUDevice(label, [...requiredFeatures]);
  }
}

class GPU {
  async requestAdapter() {
    return new GPUAdapter();
  }
}

const nodeNavigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
let gpu;
const prototypes = () =>
  [GPU.prototype, GPUAdapter.prototype, GPUDevice.prototype].map((prototype) => Object.getOwnPropertyDescriptors(prototype));
const untouched = prototypes();
beforeEach(() => {
  gpu = new GPU();
  Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
});
afterEach(() => {
  if (nodeNavigator) Object.defineProperty(globalThis, "navigator", nodeNavigator);
  else delete globalThis.navigator;
});

/** Requests an adapter at once and its device later, as wgpu does. */
async function engine(label) {
  const adapter = navigator.gpu.requestAdapter();
  const device = await (await adapter).requestDevice({ label, requiredFeatures: ["shader-f16"] });
  return device;
}

test("two loads at once each get their own device, and leave nothing behind", async () => {
  const devices = {};
  const load = (label) =>
    withDeviceHook(
      () => engine(label),
      true,
      (device) => (devices[label] = device),
    );
  const [a, b] = await Promise.all([load("a"), load("b")]);
  assert.ok(devices.a === a && devices.b === b);
  assert.deepEqual(
    [a.features, b.features],
    [
      ["shader-f16", "subgroups"],
      ["shader-f16", "subgroups"],
    ],
  );
  assert.deepEqual(Object.getOwnPropertyNames(gpu), []);
  assert.deepEqual(prototypes(), untouched);
});

test("the devices of other code are its own, also while a load is in progress", async () => {
  const seen = [];
  const before = await gpu.requestAdapter();
  const loading = withDeviceHook(
    () => engine("ours"),
    true,
    (device) => seen.push(device.label),
  );
  assert.deepEqual(prototypes(), untouched);
  const others = await Promise.all([before.requestDevice({ label: "before" }), engine("meanwhile")]);
  await loading;
  assert.deepEqual(seen, ["ours"]);
  assert.deepEqual(
    others.map(({ features }) => features),
    [[], ["shader-f16"]],
  );
});

test("a load that throws at once leaves nothing behind", () => {
  const create = () => {
    throw new Error("no");
  };
  assert.throws(() => withDeviceHook(create, true, () => undefined), /no/);
  assert.deepEqual(Object.getOwnPropertyNames(gpu), []);
});

test("internal errors arrive as validation errors, which wgpu can take", async () => {
  const device = await withDeviceHook(
    () => engine("ours"),
    false,
    () => undefined,
  );
  const uncaptured = [];
  device.addEventListener("uncapturederror", ({ error }) => uncaptured.push(error));
  const memory = new GPUError("no memory");
  for (const [error, expected] of [
    [new GPUInternalError("no registers"), "the driver failed: no registers"],
    [memory, "no memory"],
  ]) {
    device.caught = error;
    const caught = await device.popErrorScope();
    device.dispatchEvent(new UncapturedErrorEvent(error));
    for (const found of [caught, uncaptured.pop()]) {
      assert.equal(found.message, expected);
      assert.equal(found instanceof GPUValidationError, error !== memory);
    }
  }
  device.caught = null;
  assert.equal(await device.popErrorScope(), null);
});
