//! The presence penalty: tokens that occur in the answer become less likely.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, GpuError, Grid};

/// Tokens of a word of [`PresencePenalty`]'s bits.
const WORD: usize = 32;
const LANES: u32 = 64;

/// The tokens of an answer, a bit each, and the launches that use them.
pub struct PresencePenalty {
    answered: wgpu::Buffer,
    penalty: wgpu::Buffer,
    /// Subtracts the penalty from the logits of the tokens.
    pub penalize: Dispatch,
    /// Adds a token.
    pub mark: Dispatch,
}

impl PresencePenalty {
    /// Prepares the launches.
    ///
    /// # Shapes
    /// - `logits`: `[1, vocab]`, `token`: one u32
    pub fn new(gpu: &Gpu, logits: &Activation, token: &wgpu::Buffer) -> Result<Self, GpuError> {
        let words = logits.cols.div_ceil(WORD);
        let answered = gpu.storage("answered", words as u64 * 4)?;
        let penalty = gpu.uniform("presence penalty", 16);
        let sizes = || Sizes::default().u32("words", words).u32("cols", logits.cols);
        let source = [
            "struct Presence { penalty: f32 }\n\
             @group(0) @binding(1) var<storage, read_write> logits: array<f32>;\n\
             @group(0) @binding(2) var<storage, read> answered: array<u32>;\n\
             @group(0) @binding(3) var<uniform> presence: Presence;\n",
            wgsl!("penalize.wgsl"),
        ]
        .concat();
        let buffers = [(1, &logits.buffer), (2, &answered), (3, &penalty)];
        let groups = (words as u32).div_ceil(LANES);
        let penalize = Dispatch::new(gpu, "penalize", &source, sizes(), None, buffers, Grid::Fixed([groups, 1, 1]));
        let source = [
            "@group(0) @binding(1) var<storage, read> token: array<u32>;\n\
             @group(0) @binding(2) var<storage, read_write> answered: array<u32>;\n",
            wgsl!("mark.wgsl"),
        ]
        .concat();
        let mark = Dispatch::new(gpu, "mark", &source, sizes(), None, [(1, token), (2, &answered)], Grid::Fixed([1, 1, 1]));
        Ok(Self { answered, penalty, penalize, mark })
    }

    /// Begins an answer: no token has occurred.
    pub fn begin(&self, gpu: &Gpu, penalty: f32) {
        gpu.queue().write_buffer(&self.penalty, 0, bytemuck::bytes_of(&penalty));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.answered, 0, None);
        gpu.queue().submit([encoder.finish()]);
    }
}
