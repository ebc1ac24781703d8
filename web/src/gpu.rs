//! The model on the GPU.

use crate::{Adapter, LoadOptions};
use js_sys::{Array, Function, Promise};
use qwen_vl_format::Manifest;
use qwen_vl_runtime::{Gpu, GpuOptions, ModelOptions, RuntimeError};
use std::future::Future;
use std::str::FromStr;
use wasm_bindgen::JsValue;

pub(crate) use qwen_vl_runtime::{Model, ModelLoader};

/// Allocates a model. `compile` is given the WGSL of its kernels before that, if there are any.
pub(crate) async fn loader(manifest: Manifest, options: &LoadOptions, compile: &Function) -> Result<ModelLoader, RuntimeError> {
    let gpu_options = GpuOptions {
        force_fallback: options.force_fallback_adapter,
        low_power: options.low_power,
        kernels: parsed("kernels", &options.kernels, "plain, cpu, subgroups, f16 or packed")?,
        precision: parsed("precision", &options.precision, "f32, f16 or q8")?.unwrap_or_default(),
        browser_subgroups: options.subgroups,
        ..GpuOptions::default()
    };
    let kv = parsed("kv", &options.kv, "f32, f16 or q8")?;
    let gpu = Gpu::request(gpu_options).await?;
    let mut model_options = ModelOptions::default();
    if let Some(context_length) = options.context_length {
        model_options.context_length = context_length;
    }
    if let Some(kv) = kv {
        model_options.kv = kv;
    }
    Model::note_kernels(&gpu, &manifest, model_options)?;
    let shaders: Array = gpu.uncompiled().iter().map(|source| JsValue::from_str(source)).collect();
    // Kernels that could not be compiled ahead are compiled when they are needed.
    let _ = compile.call1(&JsValue::UNDEFINED, &shaders);
    ModelLoader::new(gpu, manifest, model_options)
}

fn parsed<T: FromStr>(name: &'static str, value: &Option<String>, expected: &'static str) -> Result<Option<T>, RuntimeError> {
    let parse = |value: &String| value.parse().map_err(|_| RuntimeError::InvalidOption { name, found: value.clone(), expected });
    value.as_ref().map(parse).transpose()
}

/// Resolves when the GPU has taken what was written so far.
pub(crate) fn drained(loader: &ModelLoader) -> Promise {
    Promise::new(&mut |resolve: Function, _| {
        loader.queue().on_submitted_work_done(move || {
            // Resolving a promise can not fail.
            let _ = resolve.call0(&JsValue::UNDEFINED);
        });
    })
}

pub(crate) fn check(model: &Model) -> Result<(), RuntimeError> {
    Ok(model.gpu().check()?)
}

/// Makes ready what is not yet.
pub(crate) fn prepare(model: &mut Model) -> Result<(), RuntimeError> {
    model.gpu().compile();
    Ok(())
}

pub(crate) async fn self_check(model: &mut Model) -> Result<(), RuntimeError> {
    model.self_check().await
}

pub(crate) fn lost(model: &Model) -> impl Future<Output = String> + 'static {
    model.gpu().lost()
}

pub(crate) fn adapter(model: &Model) -> Adapter {
    let (info, limits) = (model.gpu().info(), model.gpu().device().limits());
    Adapter {
        name: info.name.clone(),
        driver: info.driver.clone(),
        backend: info.backend.to_string(),
        kernels: model.gpu().kernels().to_string(),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
    }
}

pub(crate) fn memory_bytes(model: &Model) -> u64 {
    model.gpu().allocated_bytes()
}

pub(crate) fn destroy(model: &Model) {
    model.gpu().destroy();
}
