//! Draws a token by temperature, top-k and top-p.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid};

/// Options and random number of one draw: `struct Draw` in the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Draw {
    /// Divisor of the logits; above zero.
    pub temperature: f32,
    /// Probability mass to keep: a token is kept if the more likely tokens add up to less.
    pub top_p: f32,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: u32,
    /// Random number from 0 up to 1, which selects one of the kept tokens.
    pub random: f32,
}

/// The uniform with a [`Draw`].
#[derive(Debug, Clone)]
pub struct DrawBuffer(wgpu::Buffer);

impl DrawBuffer {
    /// Allocates a uniform of zeros.
    pub fn new(gpu: &Gpu) -> Self {
        Self(gpu.uniform("draw", size_of::<Draw>()))
    }

    /// Writes the uniform before the next submission.
    pub fn write(&self, gpu: &Gpu, draw: Draw) {
        gpu.queue().write_buffer(&self.0, 0, bytemuck::bytes_of(&draw));
    }
}

/// Prepares a launch that draws a token from the logits of row 0 and writes it to `token`, or [`crate::argmax::NOT_FINITE`] if a logit is
/// NaN or infinite.
///
/// # Shapes
/// - `logits`: `[1, vocab]`, `token`: one u32
pub fn sample(gpu: &Gpu, logits: &Activation, draw: &DrawBuffer, token: &wgpu::Buffer) -> Dispatch {
    let source = [
        "struct Draw { temperature: f32, top_p: f32, top_k: u32, random: f32 }\n\
         @group(0) @binding(1) var<storage, read> logits: array<f32>;\n\
         @group(0) @binding(2) var<storage, read_write> token: array<u32>;\n\
         @group(0) @binding(3) var<uniform> draw: Draw;\n",
        wgsl!("sample.wgsl"),
    ]
    .concat();
    let sizes = Sizes::default().u32("cols", logits.cols);
    let buffers = [(1, &logits.buffer), (2, token), (3, &draw.0)];
    Dispatch::new(gpu, "sample", &source, sizes, None, buffers, Grid::Fixed([1, 1, 1]))
}
