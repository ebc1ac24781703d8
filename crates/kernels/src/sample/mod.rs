//! Draws a token by temperature, top-k and top-p.

use crate::argmax::{Best, Slices};
use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, GpuError, Grid, size};

/// Words of [`Scratch`]'s counts, as in `bins.wgsl`.
const BINS: u64 = 1024;

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

/// Intermediate results of a draw.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// Numbers of tokens by the distance of their logits to the largest. Zeros between two draws.
    counts: wgpu::Buffer,
    /// Number of candidates of each slice, and its mass as the bits of an f32.
    pub slices: wgpu::Buffer,
    /// Index and logit of the tokens that a draw can keep.
    candidates: wgpu::Buffer,
}

impl Scratch {
    /// Returns the bytes of the buffers for a vocabulary.
    pub fn sizes(vocab: usize) -> [u64; 3] {
        [4 * BINS, 8 * Slices::MOST as u64, size::product(&[vocab, 8])]
    }

    /// Allocates the buffers for a vocabulary.
    pub fn new(gpu: &Gpu, vocab: usize) -> Result<Self, GpuError> {
        let [counts, slices, candidates] = Self::sizes(vocab);
        Ok(Self {
            counts: gpu.storage("sample.counts", counts)?,
            slices: gpu.storage("sample.slices", slices)?,
            candidates: gpu.storage("sample.candidates", candidates)?,
        })
    }
}

/// Prepares the three launches that draw a token from the logits of row 0 and write it to `token`, or [`crate::argmax::NOT_FINITE`] if a
/// logit is NaN or infinite. They read `best`, so [`crate::argmax::argmax`] of the same logits runs before them.
///
/// The first two read all logits, each once in many workgroups: one counts them by their distance to the largest, the other one gathers the
/// candidates, which are few unless many tokens are about equally likely. The third draws from the candidates.
///
/// # Shapes
/// - `logits`: `[1, vocab]`, `token`: one u32
pub fn sample(gpu: &Gpu, logits: &Activation, best: &Best, scratch: &Scratch, draw: &DrawBuffer, token: &wgpu::Buffer) -> [Dispatch; 3] {
    let slices = Slices::new(gpu, logits.cols);
    let common = [
        "struct Draw { temperature: f32, top_p: f32, top_k: u32, random: f32 }\n\
         @group(0) @binding(1) var<storage, read> logits: array<f32>;\n\
         @group(0) @binding(2) var<storage, read> best: array<vec2<u32>>;\n\
         @group(0) @binding(8) var<uniform> draw: Draw;\n",
        wgsl!("../order.wgsl"),
        wgsl!("draw.wgsl"),
        wgsl!("bins.wgsl"),
    ]
    .concat();
    let launch = |label, source: &[&str], buffers: &[(u32, &wgpu::Buffer)], grid| {
        let sizes = Sizes::default().u32("cols", logits.cols).u32("length", slices.length).u32("slices", slices.count);
        let buffers = [(1, &logits.buffer), (2, &best.0), (8, &draw.0)].into_iter().chain(buffers.iter().copied());
        Dispatch::new(gpu, label, &[&common, &*source.concat()].concat(), sizes, None, buffers, grid)
    };
    let count = ["@group(0) @binding(3) var<storage, read_write> counts: array<atomic<u32>>;\n", wgsl!("count.wgsl")];
    let gather = [
        "@group(0) @binding(3) var<storage, read> counts: array<u32>;\n\
         @group(0) @binding(4) var<storage, read_write> slices: array<vec2<u32>>;\n\
         @group(0) @binding(5) var<storage, read_write> candidates: array<vec2<u32>>;\n",
        wgsl!("reduce.wgsl"),
        wgsl!("gather.wgsl"),
    ];
    let sample = [
        "@group(0) @binding(3) var<storage, read_write> counts: array<u32>;\n\
         @group(0) @binding(4) var<storage, read> slices: array<vec2<u32>>;\n\
         @group(0) @binding(5) var<storage, read_write> candidates: array<vec2<u32>>;\n\
         @group(0) @binding(6) var<storage, read_write> token: array<u32>;\n",
        wgsl!("reduce.wgsl"),
        wgsl!("sample.wgsl"),
    ];
    let Scratch { counts, slices: of_slices, candidates } = scratch;
    [
        launch("sample_count", &count, &[(3, counts)], slices.grid()),
        launch("sample_gather", &gather, &[(3, counts), (4, of_slices), (5, candidates)], slices.grid()),
        launch("sample", &sample, &[(3, counts), (4, of_slices), (5, candidates), (6, token)], Grid::Fixed([1, 1, 1])),
    ]
}
