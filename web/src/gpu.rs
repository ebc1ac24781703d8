//! The model on the GPU.

use crate::types::{Adapter, KernelChoice, KernelTrial, LoadOptions};
use js_sys::{Array, Function, Promise};
use qwen_vl_format::Manifest;
use qwen_vl_runtime::{Choice, ChoiceOptions, ChoiceOrigin, DeviceHandle, Gpu, GpuOptions, RuntimeError, Shader, choose};
use std::future::Future;
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::future_to_promise;

pub(crate) use qwen_vl_runtime::{Model, ModelLoader};

/// Destroys the device of a model.
pub(crate) type Handle = DeviceHandle;

pub(crate) fn handle(model: &Model) -> Handle {
    model.gpu().handle()
}

/// Destroys the device while a call uses the model: its reads end first, and the call fails at once.
pub(crate) fn destroy_device(handle: &Handle) {
    handle.destroy();
}

/// Allocates a model. Before that, `compile` receives the WGSL of its kernels, if there are any.
pub(crate) async fn loader(manifest: Manifest, options: &LoadOptions, compile: &Function) -> Result<ModelLoader, RuntimeError> {
    let model_options = options.model_options()?;
    let gpu_options = GpuOptions {
        force_fallback: options.force_fallback_adapter,
        low_power: options.low_power,
        kernels: options.named_kernels()?,
        browser_subgroups: options.subgroups,
        software: options.software,
        ..GpuOptions::default()
    };
    let precision = options.coarsest_precision()?;
    let mut gpu = Gpu::request(gpu_options).await?;
    if gpu_options.kernels.is_none() {
        let record = options.kernel_record.as_deref();
        choose(&mut gpu, ChoiceOptions { precision, tuning: options.tuning.unwrap_or(true), record }).await?;
    }
    Model::note_kernels(&gpu, &manifest, model_options)?;
    // Pairs of label and WGSL.
    let pair = |shader: Shader| JsValue::from(Array::of2(&shader.label.into(), &JsValue::from_str(&shader.source)));
    let shaders: Array = gpu.uncompiled().into_iter().map(pair).collect();
    // Kernels that could not be compiled ahead are compiled at their first use.
    let _ = compile.call1(&JsValue::UNDEFINED, &shaders);
    ModelLoader::new(gpu, manifest, model_options)
}

/// Resolves when the GPU has processed everything written so far.
pub(crate) fn drained(loader: &ModelLoader) -> Promise {
    if let Some(model) = loader.model() {
        // Its allocations are included.
        let drained = model.gpu().drained();
        return future_to_promise(async move {
            drained.await;
            Ok(JsValue::UNDEFINED)
        });
    }
    Promise::new(&mut |resolve: Function, _| {
        loader.queue().on_submitted_work_done(move || {
            // Resolving a promise cannot fail.
            let _ = resolve.call0(&JsValue::UNDEFINED);
        });
    })
}

pub(crate) fn check(model: &Model) -> Result<(), RuntimeError> {
    Ok(model.gpu().check()?)
}

/// Compiles the kernels that are not compiled yet.
pub(crate) fn prepare(model: &mut Model) -> Result<(), RuntimeError> {
    model.gpu().compile();
    Ok(())
}

pub(crate) async fn self_check(model: &mut Model) -> Result<(), RuntimeError> {
    model.self_check().await
}

/// Resolves with the browser's reason when the device is lost.
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
        kernel_choice: model.gpu().choice().map(kernel_choice),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
    }
}

fn kernel_choice(choice: &Choice) -> KernelChoice {
    let origin = match choice.origin {
        ChoiceOrigin::Adapter => "adapter",
        ChoiceOrigin::Measured => "measured",
        ChoiceOrigin::Restored => "restored",
    };
    let trials = choice.trials.iter().map(|trial| KernelTrial { kernels: trial.kernels.to_string(), work: trial.work, ms: trial.millis });
    KernelChoice { origin, ms: choice.millis, trials: trials.collect() }
}

/// Returns the record of the kernels that were measured at this load, while the loader has its model.
pub(crate) fn kernel_record(loader: &ModelLoader) -> Option<String> {
    let choice = loader.model()?.gpu().choice()?;
    (choice.origin == ChoiceOrigin::Measured).then(|| choice.record())
}

pub(crate) fn memory_bytes(model: &Model) -> u64 {
    model.gpu().allocated_bytes()
}

pub(crate) fn destroy(model: &Model) {
    model.gpu().destroy();
}
