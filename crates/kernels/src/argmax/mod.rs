//! The most likely token.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, GpuError, Grid};

/// Result of [`argmax`] if a logit is NaN or infinite. No token has this id.
pub const NOT_FINITE: u32 = u32::MAX;

/// Fewest logits of a slice: a vector for each lane of a workgroup. A multiple of 4.
const SHORTEST: usize = 1024;

/// The division of logits among the workgroups of a launch.
pub(crate) struct Slices {
    /// Number of slices: at most [`Slices::MOST`].
    pub(crate) count: usize,
    /// Logits of a slice, a multiple of 4. The last slice can be shorter.
    pub(crate) length: usize,
}

impl Slices {
    /// Most slices of any kernel set: a lane of [`crate::sample`] for each.
    pub(crate) const MOST: usize = 256;

    /// Divides `cols` logits as the kernel set says.
    pub(crate) fn new(gpu: &Gpu, cols: usize) -> Self {
        let most = gpu.kernels().logit_slices as usize;
        assert!((1..=Self::MOST).contains(&most), "{most} slices of logits");
        let length = cols.div_ceil(most).next_multiple_of(4).max(SHORTEST);
        Self { count: cols.div_ceil(length), length }
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid::Fixed([self.count as u32, 1, 1])
    }
}

/// Place and index of the largest logit of all slices, and of each slice.
#[derive(Debug, Clone)]
pub struct Best(pub(crate) wgpu::Buffer);

impl Best {
    /// Bytes of the buffer, for any number of logits.
    pub const BYTES: u64 = 8 * (1 + Slices::MOST as u64);

    /// Allocates the buffer.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.storage("argmax.best", Self::BYTES).map(Self)
    }
}

/// Prepares the two launches that write the index of the largest value of row 0 to `token`, the lowest index on ties, or [`NOT_FINITE`]: one
/// over slices of the logits, and one over their results.
///
/// # Shapes
/// - `logits`: `[1, vocab]`, `token`: one u32
pub fn argmax(gpu: &Gpu, logits: &Activation, best: &Best, token: &wgpu::Buffer) -> [Dispatch; 2] {
    let slices = Slices::new(gpu, logits.cols);
    let common = format!(
        "const LANES: u32 = {}u;\n{}{}@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>;\n",
        gpu.kernels().argmax_lanes,
        wgsl!("../order.wgsl"),
        wgsl!("best.wgsl"),
    );
    let source = format!("{common}@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>;\n{}", wgsl!("slices.wgsl"));
    let sizes = Sizes::default().u32("cols", logits.cols).u32("length", slices.length);
    let buffers = [(1, &best.0), (2, &logits.buffer)];
    let largest = Dispatch::new(gpu, "argmax_slices", &source, sizes, None, buffers, slices.grid());

    let source = format!("{common}@group(0) @binding(2) var<storage, read_write> token: array<u32>;\n{}", wgsl!("merge.wgsl"));
    let sizes = Sizes::default().u32("slices", slices.count);
    let merge = Dispatch::new(gpu, "argmax_merge", &source, sizes, None, [(1, &best.0), (2, token)], Grid::Fixed([1, 1, 1]));
    [largest, merge]
}
