//! What a session needs of a model.

use crate::bench::Limits;
use crate::benchmark::PictureParts;
use crate::{KvReuse, RuntimeError, Sampler, Trace};
use qwen_vl_format::Manifest;
use std::ops::ControlFlow;

/// A loaded model that holds one sequence at a time: [`Model`](crate::Model) on a GPU, or whatever computes the same elsewhere.
// Nobody sends the futures: GPU work has one thread, in a browser and here.
#[allow(async_fn_in_trait)]
pub trait Backend {
    /// What the decoder sees of one picture: `[queries, hidden]`.
    type Features: Clone;

    /// The manifest that it was loaded from.
    fn manifest(&self) -> &Manifest;
    /// Longest sequence, tokens.
    fn context_length(&self) -> usize;
    /// Positions in the KV cache: the prompt and the answer so far.
    fn length(&self) -> usize;
    /// Positions of the latest prompt that were not run again because the KV cache held them.
    fn reused(&self) -> usize;

    /// Runs the vision tower and the resampler on `[patches, 3·patch²]` normalised values.
    async fn encode_image(&mut self, patches: &[f32]) -> Result<Self::Features, RuntimeError>;
    /// Reads image features, `[queries, hidden]`.
    async fn read_features(&self, features: &Self::Features) -> Result<Vec<f32>, RuntimeError>;

    /// Runs a prompt through the decoder; the logits of its last position are then at hand. What the KV cache holds of it is not run again.
    ///
    /// `images` are the features for the image spans in `ids`, in order. `on_chunk` hears how many positions are done and may stop.
    /// With a `trace`, the logits of **all** positions are collected, and nothing is reused.
    async fn prefill(
        &mut self,
        ids: &[u32],
        images: &[Self::Features],
        kv_reuse: KvReuse,
        on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
        trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError>;
    /// Runs one token after the sequence so far; its logits are then at hand.
    fn decode(&mut self, token: u32) -> Result<(), RuntimeError>;
    /// The token after the sequence so far: the most likely one, or what a sampler draws. With `ahead`, it is run at once, if there is
    /// room for it.
    async fn next_token(&mut self, sampler: Option<&mut Sampler>, ahead: bool) -> Result<u32, RuntimeError>;
    /// The logits of the last position, `[vocab]`.
    async fn logits(&self) -> Result<Vec<f32>, RuntimeError>;
    /// Forgets all but the first `length` positions; [`Self::decode`] then goes on behind them.
    fn rewind(&mut self, length: usize);
    /// Waits for all work so far.
    async fn settle(&self) -> Result<(), RuntimeError>;

    /// Runs the parts of [`Self::encode_image`] apart and times them; `None` where they are one.
    async fn time_picture_parts(&mut self) -> Result<Option<PictureParts>, RuntimeError> {
        Ok(None)
    }
    /// What the adapter can do at best; `None` where there is no adapter.
    async fn adapter_limits(&self) -> Result<Option<Limits>, RuntimeError> {
        Ok(None)
    }

    /// Bytes that a decode step reads at a sequence of `context` tokens.
    fn decode_bytes(&self, context: usize) -> u64;
    /// Launches of a decode step at a sequence of `context` tokens.
    fn decode_dispatches(&self, context: usize) -> usize;
}
