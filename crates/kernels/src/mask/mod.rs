//! The exclusion of tokens: an answer that is held to a form has the tokens that the form allows.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, GpuError, Grid};

/// Tokens of a word of [`TokenMask`]'s bits.
const WORD: usize = 32;
const LANES: u32 = 64;

/// The logit of an excluded token. It is finite, because a logit that is not is an error, and so low that the token is never drawn, at any
/// temperature.
pub const EXCLUDED: f32 = -1e30;

/// The tokens that may come next, a bit each, and the launch that excludes the others.
pub struct TokenMask {
    allowed: wgpu::Buffer,
    words: usize,
    /// Sets the logits of the other tokens to [`EXCLUDED`].
    pub exclude: Dispatch,
}

impl TokenMask {
    /// Prepares the launch.
    ///
    /// # Shapes
    /// - `logits`: `[1, vocab]`
    pub fn new(gpu: &Gpu, logits: &Activation) -> Result<Self, GpuError> {
        let words = logits.cols.div_ceil(WORD);
        let allowed = gpu.storage("allowed", words as u64 * 4)?;
        let source = [
            "@group(0) @binding(1) var<storage, read_write> logits: array<f32>;\n\
             @group(0) @binding(2) var<storage, read> allowed: array<u32>;\n",
            wgsl!("../order.wgsl"),
            wgsl!("mask.wgsl"),
        ]
        .concat();
        let sizes = Sizes::default().u32("words", words).u32("cols", logits.cols);
        let groups = (words as u32).div_ceil(LANES);
        let buffers = [(1, &logits.buffer), (2, &allowed)];
        let exclude = Dispatch::new(gpu, "exclude", &source, sizes, None, buffers, Grid::Fixed([groups, 1, 1]));
        Ok(Self { allowed, words, exclude })
    }

    /// Sets the tokens that may come next: the lowest bit of the first word is that of token 0. Tokens beyond the last word are excluded.
    pub fn write(&self, gpu: &Gpu, allowed: &[u32]) {
        let mut words = allowed[..allowed.len().min(self.words)].to_vec();
        words.resize(self.words, 0);
        gpu.queue().write_buffer(&self.allowed, 0, bytemuck::cast_slice(&words));
    }
}

/// True if the bit of a token is set.
pub fn allows(allowed: &[u32], token: u32) -> bool {
    allowed.get(token as usize / WORD).is_some_and(|word| word >> (token as usize % WORD) & 1 == 1)
}
