//! The model on the processor, with the same functions as `gpu.rs`: the CPU fallback for small models without WebGPU.

use crate::types::{Adapter, LoadOptions};
use js_sys::{Function, Promise};
use qwen_vl_format::Manifest;
use qwen_vl_runtime::RuntimeError;
use std::future::Future;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

pub(crate) use qwen_vl_cpu::{CpuLoader as ModelLoader, CpuModel as Model};

// Not from `web-sys`, where it belongs to a window or a worker's scope: Node has neither.
#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, millis: i32) -> i32;
}

/// Stands for the device of a model, which does not exist here.
pub(crate) struct Handle;

pub(crate) fn handle(_: &Model) -> Handle {
    Handle
}

/// A call in progress ends at its next event.
pub(crate) fn destroy_device(_: &Handle) {}

pub(crate) async fn loader(manifest: Manifest, options: &LoadOptions, _: &Function) -> Result<ModelLoader, RuntimeError> {
    ModelLoader::new(manifest, options.model_options()?.context_length)
}

/// Resolves at once: nothing is in flight.
pub(crate) fn drained(_: &ModelLoader) -> Promise {
    Promise::resolve(&JsValue::UNDEFINED)
}

pub(crate) fn check(_: &Model) -> Result<(), RuntimeError> {
    Ok(())
}

/// Decodes the weights.
pub(crate) fn prepare(model: &mut Model) -> Result<(), RuntimeError> {
    // Without pauses the worker receives no messages while it computes, so an answer could not be cancelled.
    model.set_pause(Box::new(|| {
        let timer = Promise::new(&mut |resolve, _| {
            set_timeout(&resolve, 0);
        });
        Box::pin(async {
            // A timer does not fail.
            let _ = JsFuture::from(timer).await;
        })
    }));
    model.prepare()
}

/// Does nothing: no driver is involved.
pub(crate) async fn self_check(_: &mut Model) -> Result<(), RuntimeError> {
    Ok(())
}

/// Never resolves: no device can be lost.
pub(crate) fn lost(_: &Model) -> impl Future<Output = String> + 'static {
    std::future::pending()
}

pub(crate) fn adapter(_: &Model) -> Adapter {
    let [name, driver, backend] = ["processor", "WebAssembly", "cpu"].map(str::to_owned);
    Adapter { name, driver, backend, kernels: String::new(), kernel_choice: None, max_binding_bytes: 0 }
}

/// Returns nothing: no kernels are chosen.
pub(crate) fn kernel_record(_: &ModelLoader) -> Option<String> {
    None
}

pub(crate) fn memory_bytes(model: &Model) -> u64 {
    model.memory_bytes()
}

/// Does nothing: dropping the model releases its memory.
pub(crate) fn destroy(_: &Model) {}
