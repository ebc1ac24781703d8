//! A token drawn by temperature, top-k and top-p.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid};

/// What changes from draw to draw: `struct Draw` in the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Draw {
    /// Divides the logits; above zero.
    pub temperature: f32,
    /// Probability mass to keep: a token stays if those more likely than it add up to less.
    pub top_p: f32,
    /// Most likely tokens to keep; 0 keeps all.
    pub top_k: u32,
    /// From 0 up to 1: which of the tokens that are kept.
    pub random: f32,
}

/// The uniform that holds a [`Draw`].
#[derive(Debug, Clone)]
pub struct DrawBuffer(wgpu::Buffer);

impl DrawBuffer {
    /// A uniform of all zeros.
    pub fn new(gpu: &Gpu) -> Self {
        Self(gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("draw"),
            size: size_of::<Draw>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    /// Takes effect before the next submission.
    pub fn write(&self, gpu: &Gpu, draw: Draw) {
        gpu.queue().write_buffer(&self.0, 0, bytemuck::bytes_of(&draw));
    }
}

/// Writes a token drawn from the logits of row 0 to `token`, or [`crate::argmax::NOT_FINITE`] if one of them is NaN or infinite.
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
