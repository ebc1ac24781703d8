//! The interface between a session and a model.

use crate::{KvReuse, RuntimeError, Sampler};
use qwen_vl_format::Manifest;
use qwen_vl_kernels::timing::AdapterSpeed;
use qwen_vl_processor::PictureGrid;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Intermediate results by name, `[rows, cols]` without padding.
pub type Trace = BTreeMap<String, Vec<f32>>;

/// A loaded model that holds one sequence at a time: [`Model`](crate::Model) on a GPU, or another implementation of the same model.
// The futures are not sent between threads: GPU work has one thread, in a browser and natively.
#[allow(async_fn_in_trait)]
pub trait Backend {
    /// Features of one picture, as the decoder reads them.
    type Features: Clone;

    /// The manifest that the model was loaded from.
    fn manifest(&self) -> &Manifest;
    /// Maximum length of the sequence, tokens.
    fn context_length(&self) -> usize;
    /// Most tokens of a picture, for models that take pictures of any size.
    fn max_picture_tokens(&self) -> usize;
    /// Number of positions in the KV cache: the prompt and the answer so far.
    fn length(&self) -> usize;
    /// Number of positions of the latest prompt that the KV cache held already.
    fn reused(&self) -> usize;

    /// Runs the vision tower and the resampler or the mergers.
    ///
    /// # Shapes
    /// - `patches`: `[patches, 3·patch²]`, normalised, in the order of [`PictureGrid::places`]
    /// - `change`: the patches of the second frame of a step of a video, minus `patches`; absent for a still picture
    async fn encode_image(&mut self, patches: &[f32], change: Option<&[f32]>, grid: &PictureGrid) -> Result<Self::Features, RuntimeError>;
    /// Reads image features, `[tokens, hidden]`.
    async fn read_features(&self, features: &Self::Features) -> Result<Vec<f32>, RuntimeError>;

    /// Runs a prompt through the decoder, except for the positions at its start that the KV cache holds. [`Self::logits`] are then those of
    /// its last position.
    ///
    /// `images` are the features for the image spans in `ids`, in order. `on_chunk` receives the number of positions done and may stop.
    /// With a `trace`, collects the logits of **all** positions and reuses nothing.
    async fn prefill(
        &mut self,
        ids: &[u32],
        images: &[Self::Features],
        kv_reuse: KvReuse,
        on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
        trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError>;
    /// Sets the presence penalty of an answer, which begins now; `None` for no penalty. Returns false if the backend has none: the caller then
    /// subtracts it from [`Self::logits`].
    fn begin_answer(&mut self, presence_penalty: Option<f32>) -> Result<bool, RuntimeError>;
    /// Runs one token after the sequence so far. [`Self::logits`] are then those of its position.
    fn decode(&mut self, token: u32) -> Result<(), RuntimeError>;
    /// Returns the token after the sequence so far: the most likely one, or a sampler's; only one whose bit in `allowed` is set, if that is given.
    /// With `ahead`, also runs it, as [`Self::decode`] would. Without it, [`Self::logits`] may lack the tokens that are not allowed.
    async fn next_token(&mut self, sampler: Option<&mut Sampler>, allowed: Option<&[u32]>, ahead: bool) -> Result<u32, RuntimeError>;
    /// Logits of the last position, `[vocab]`.
    async fn logits(&self) -> Result<Vec<f32>, RuntimeError>;
    /// Truncates the sequence to its first `length` positions; [`Self::decode`] then continues behind them.
    fn rewind(&mut self, length: usize);
    /// Waits for all submitted work.
    async fn settle(&self) -> Result<(), RuntimeError>;
}

/// Parts of encoding a picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PictureParts {
    /// One block of the vision tower, the mean of all, milliseconds.
    pub block_ms: f64,
    /// The resampler or all mergers, milliseconds.
    pub resampler_ms: f64,
}

/// A backend whose speed [`benchmark`](crate::benchmark::benchmark) measures.
#[allow(async_fn_in_trait)]
pub trait Measured: Backend {
    /// Times the parts of [`Backend::encode_image`] separately; `None` if they cannot be separated.
    async fn time_picture_parts(&mut self) -> Result<Option<PictureParts>, RuntimeError> {
        Ok(None)
    }
    /// Measures the adapter's speed; `None` without an adapter.
    async fn adapter_limits(&self) -> Result<Option<AdapterSpeed>, RuntimeError> {
        Ok(None)
    }
    /// Bytes that a decode step reads at a sequence of `context` tokens.
    fn decode_bytes(&self, context: usize) -> u64;
    /// Number of launches of a decode step at a sequence of `context` tokens.
    fn decode_dispatches(&self, context: usize) -> usize;
}
