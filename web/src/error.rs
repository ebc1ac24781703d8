//! Rust errors as JavaScript errors with a stable `code`.

use crate::types::{ErrorCode, ErrorDetails};
use qwen_vl_format::{ConfigError, ManifestError, ShardError};
use qwen_vl_processor::ProcessorError;
use qwen_vl_runtime::{GpuError, RuntimeError};
use wasm_bindgen::prelude::*;

/// An error that is about to be thrown in JavaScript.
pub(crate) struct EdgeError {
    code: ErrorCode,
    message: String,
    details: ErrorDetails,
}

#[wasm_bindgen]
extern "C" {
    /// JavaScript's `Error` with the properties that the package reads.
    #[wasm_bindgen(js_name = Error)]
    type CodedError;
    #[wasm_bindgen(constructor, js_class = "Error")]
    fn new(message: &str) -> CodedError;
    #[wasm_bindgen(method, setter, structural)]
    fn set_code(this: &CodedError, code: JsValue);
    #[wasm_bindgen(method, setter, structural)]
    fn set_details(this: &CodedError, details: JsValue);
}

impl EdgeError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: ErrorDetails::default() }
    }

    /// An argument cannot be used.
    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Another call is in progress.
    pub(crate) fn busy() -> Self {
        Self::new(ErrorCode::Busy, "the engine is busy: wait for the call in progress")
    }

    /// The object was destroyed.
    pub(crate) fn disposed() -> Self {
        Self::new(ErrorCode::Disposed, "the model was disposed of")
    }
}

impl From<EdgeError> for JsValue {
    fn from(error: EdgeError) -> Self {
        let object = CodedError::new(&error.message);
        // Plain data always serializes.
        object.set_code(serde_wasm_bindgen::to_value(&error.code).unwrap_or_default());
        object.set_details(crate::to_js(&error.details).unwrap_or_default());
        object.into()
    }
}

impl From<RuntimeError> for EdgeError {
    fn from(error: RuntimeError) -> Self {
        let mut details = ErrorDetails::default();
        let code = match &error {
            RuntimeError::Manifest(error) => manifest(error),
            RuntimeError::Gpu(error) => gpu(error, &mut details),
            RuntimeError::Processor(error) => processor(error),
            RuntimeError::Shard(error) => shard(error, &mut details),
            RuntimeError::ContextOverflow { used, limit, .. } => {
                (details.used, details.limit) = (Some(*used as u64), Some(*limit as u64));
                ErrorCode::ContextOverflow
            }
            RuntimeError::EmptyPrompt
            | RuntimeError::TokenOutOfRange { .. }
            | RuntimeError::UnclosedImage { .. }
            | RuntimeError::UnknownImage { .. }
            | RuntimeError::InvalidOption { .. }
            | RuntimeError::NoCandidates
            | RuntimeError::EmptyCandidate { .. }
            | RuntimeError::VideoFrames { .. }
            | RuntimeError::ImageCount { .. } => ErrorCode::InvalidArgument,
            RuntimeError::NoVideo => ErrorCode::UnsupportedModel,
            RuntimeError::TooLargeForCpu { .. } | RuntimeError::NoCpuKernels => ErrorCode::WebgpuUnavailable,
            RuntimeError::NotFinite { .. } | RuntimeError::Incorrect { .. } => ErrorCode::GpuIncorrect,
            _ => ErrorCode::Internal,
        };
        Self { code, message: error.to_string(), details }
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

fn manifest(error: &ManifestError) -> ErrorCode {
    match error {
        ManifestError::Version { .. } => ErrorCode::ManifestVersion,
        ManifestError::Config(ConfigError::Architecture { .. }) => ErrorCode::UnsupportedModel,
        _ => ErrorCode::ManifestInvalid,
    }
}

fn shard(error: &ShardError, details: &mut ErrorDetails) -> ErrorCode {
    match error {
        ShardError::Length { shard, expected, found } => {
            details.shard = Some(shard.clone());
            (details.expected, details.found) = (Some((*expected).into()), Some((*found).into()));
            ErrorCode::Integrity
        }
        ShardError::Hash { shard, expected, found } => {
            details.shard = Some(shard.clone());
            (details.expected, details.found) = (Some(expected.clone().into()), Some(found.clone().into()));
            ErrorCode::Integrity
        }
        ShardError::NoSuchShard { .. } => ErrorCode::InvalidArgument,
        _ => ErrorCode::Internal,
    }
}

fn gpu(error: &GpuError, details: &mut ErrorDetails) -> ErrorCode {
    match error {
        GpuError::NoAdapter { .. } | GpuError::NoDevice { .. } => ErrorCode::NoAdapter,
        GpuError::BindingTooLarge { needed, limit, .. } => {
            (details.needed, details.limit) = (Some(*needed), Some(*limit));
            ErrorCode::InsufficientLimits
        }
        GpuError::OutOfMemory { needed, .. } => {
            details.needed = Some(*needed);
            ErrorCode::GpuOutOfMemory
        }
        GpuError::MemoryExhausted => ErrorCode::GpuOutOfMemory,
        GpuError::DeviceLost { .. } => ErrorCode::DeviceLost,
        _ => ErrorCode::Internal,
    }
}

fn processor(error: &ProcessorError) -> ErrorCode {
    match error {
        ProcessorError::Vocabulary(_) => ErrorCode::VocabularyInvalid,
        ProcessorError::PictureTooLarge { .. } => ErrorCode::ImageTooLarge,
        ProcessorError::UnreadablePicture { .. } | ProcessorError::EmptyPicture { .. } | ProcessorError::PictureBytes { .. } => {
            ErrorCode::ImageDecode
        }
        _ => ErrorCode::InvalidArgument,
    }
}
