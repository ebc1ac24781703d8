//! The most likely token.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid};

/// Result of [`argmax`] if a logit is NaN or infinite. No token has this id.
pub const NOT_FINITE: u32 = u32::MAX;

/// Prepares a launch that writes the index of the largest value of row 0 to `token`, the lowest index on ties, or [`NOT_FINITE`].
///
/// # Shapes
/// - `logits`: `[1, vocab]`, `token`: one u32
pub fn argmax(gpu: &Gpu, logits: &Activation, token: &wgpu::Buffer) -> Dispatch {
    let source = format!(
        "const LANES: u32 = {}u;\n\
         @group(0) @binding(1) var<storage, read> logits: array<f32>;\n\
         @group(0) @binding(2) var<storage, read_write> token: array<u32>;\n{}",
        gpu.kernels().argmax_lanes,
        wgsl!("argmax.wgsl"),
    );
    let sizes = Sizes::default().u32("cols", logits.cols);
    Dispatch::new(gpu, "argmax", &source, sizes, None, [(1, &logits.buffer), (2, token)], Grid::Fixed([1, 1, 1]))
}
