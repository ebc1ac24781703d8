//! Rust errors as JavaScript errors with a stable `code`.

use js_sys::Reflect;
use qwen_vl_format::{ConfigError, ManifestError};
use qwen_vl_processor::ProcessorError;
use qwen_vl_runtime::{GpuError, RuntimeError};
use wasm_bindgen::JsValue;

/// An error on its way to JavaScript.
pub(crate) struct EdgeError {
    code: &'static str,
    message: String,
    details: Vec<(&'static str, JsValue)>,
}

/// The caller passed something that can not be used.
pub(crate) fn invalid_argument(message: String) -> EdgeError {
    EdgeError { code: "INVALID_ARGUMENT", message, details: Vec::new() }
}

impl From<EdgeError> for JsValue {
    fn from(error: EdgeError) -> Self {
        let details = js_sys::Object::new();
        for (key, value) in &error.details {
            // Setting a property of a plain object can not fail.
            let _ = Reflect::set(&details, &(*key).into(), value);
        }
        let object: JsValue = js_sys::Error::new(&error.message).into();
        let _ = Reflect::set(&object, &"code".into(), &error.code.into());
        let _ = Reflect::set(&object, &"details".into(), &details);
        object
    }
}

impl From<RuntimeError> for EdgeError {
    fn from(error: RuntimeError) -> Self {
        let (code, details) = match &error {
            RuntimeError::Manifest(error) => manifest(error),
            RuntimeError::Gpu(error) => gpu(error),
            RuntimeError::Processor(error) => (processor(error), Vec::new()),
            RuntimeError::ShardLength { shard, expected, found } => {
                ("INTEGRITY", vec![("shard", shard.into()), ("expected", (*expected as f64).into()), ("found", (*found as f64).into())])
            }
            RuntimeError::ShardHash { shard, expected, found } => {
                ("INTEGRITY", vec![("shard", shard.into()), ("expected", expected.into()), ("found", found.into())])
            }
            RuntimeError::ContextOverflow { used, limit } => {
                ("CONTEXT_OVERFLOW", vec![("used", (*used as f64).into()), ("limit", (*limit as f64).into())])
            }
            RuntimeError::EmptyPrompt
            | RuntimeError::NoSuchShard { .. }
            | RuntimeError::TokenOutOfRange { .. }
            | RuntimeError::UnclosedImage { .. }
            | RuntimeError::UnknownImage { .. }
            | RuntimeError::InvalidOption { .. }
            | RuntimeError::EmptyCandidate { .. }
            | RuntimeError::ImageCount { .. } => ("INVALID_ARGUMENT", Vec::new()),
            RuntimeError::TooLargeForCpu { .. } => ("WEBGPU_UNAVAILABLE", Vec::new()),
            RuntimeError::NotFinite { .. } | RuntimeError::Incorrect { .. } => ("GPU_INCORRECT", Vec::new()),
            _ => ("INTERNAL", Vec::new()),
        };
        Self { code, details, message: error.to_string() }
    }
}

impl From<ManifestError> for EdgeError {
    fn from(error: ManifestError) -> Self {
        RuntimeError::from(error).into()
    }
}

impl From<GpuError> for EdgeError {
    fn from(error: GpuError) -> Self {
        RuntimeError::from(error).into()
    }
}

type Details = Vec<(&'static str, JsValue)>;

fn manifest(error: &ManifestError) -> (&'static str, Details) {
    let code = match error {
        ManifestError::Version { .. } => "MANIFEST_VERSION",
        ManifestError::Config(ConfigError::Architecture { .. }) => "UNSUPPORTED_MODEL",
        _ => "MANIFEST_INVALID",
    };
    (code, Vec::new())
}

fn gpu(error: &GpuError) -> (&'static str, Details) {
    match error {
        GpuError::NoAdapter { .. } | GpuError::NoDevice { .. } => ("NO_ADAPTER", Vec::new()),
        GpuError::BindingTooLarge { needed, limit, .. } => {
            ("INSUFFICIENT_LIMITS", vec![("needed", (*needed as f64).into()), ("limit", (*limit as f64).into())])
        }
        GpuError::OutOfMemory { needed, .. } => ("GPU_OUT_OF_MEMORY", vec![("needed", (*needed as f64).into())]),
        GpuError::DeviceLost { .. } => ("DEVICE_LOST", Vec::new()),
        _ => ("INTERNAL", Vec::new()),
    }
}

fn processor(error: &ProcessorError) -> &'static str {
    match error {
        ProcessorError::Vocabulary(_) => "VOCABULARY_INVALID",
        ProcessorError::UnreadablePicture { .. }
        | ProcessorError::EmptyPicture { .. }
        | ProcessorError::PictureTooLarge { .. }
        | ProcessorError::PictureBytes { .. } => "IMAGE_DECODE",
        _ => "INVALID_ARGUMENT",
    }
}
