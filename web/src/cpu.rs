//! The model on the processor, with the face of that on the GPU: for small models where there is no WebGPU.

use crate::{Adapter, LoadOptions};
use js_sys::{Function, Promise};
use qwen_vl_format::Manifest;
use qwen_vl_runtime::{ModelOptions, RuntimeError};
use std::future::Future;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

pub(crate) use qwen_vl_cpu::{CpuLoader as ModelLoader, CpuModel as Model};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, millis: i32) -> i32;
}

pub(crate) async fn loader(manifest: Manifest, options: &LoadOptions, _: &Function) -> Result<ModelLoader, RuntimeError> {
    ModelLoader::new(manifest, options.context_length.unwrap_or(ModelOptions::default().context_length))
}

/// Nothing is under way.
pub(crate) fn drained(_: &ModelLoader) -> Promise {
    Promise::resolve(&JsValue::UNDEFINED)
}

pub(crate) fn check(_: &Model) -> Result<(), RuntimeError> {
    Ok(())
}

/// Makes ready what is not yet.
pub(crate) fn prepare(model: &mut Model) -> Result<(), RuntimeError> {
    // Without pauses no message would be taken while an answer is made, and none could be cancelled.
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

/// There is no driver that could be wrong.
pub(crate) async fn self_check(_: &mut Model) -> Result<(), RuntimeError> {
    Ok(())
}

/// It never is.
pub(crate) fn lost(_: &Model) -> impl Future<Output = String> + 'static {
    std::future::pending()
}

pub(crate) fn adapter(_: &Model) -> Adapter {
    let [name, driver, backend] = ["processor", "WebAssembly", "cpu"].map(str::to_owned);
    Adapter { name, driver, backend, kernels: String::new(), max_binding_bytes: 0 }
}

pub(crate) fn memory_bytes(model: &Model) -> u64 {
    model.memory_bytes()
}

/// Memory goes with the worker.
pub(crate) fn destroy(_: &Model) {}
