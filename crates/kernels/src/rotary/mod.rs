//! Rotary positions, log-n scaling and the write to the KV cache.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// Positions that a prompt's rotary base gives, as [`rotary`] reads them.
#[derive(Debug, Clone)]
pub struct PositionTables {
    /// `(cos, sin)` of each angle, `[context, head_dim / 2]`.
    pub angles: wgpu::Buffer,
    /// Factor of the queries at each position, `[context]`.
    pub logn: wgpu::Buffer,
}

/// Turns queries and keys of all rows of the step, writes keys and values to the cache.
///
/// # Shapes
/// - `qkv`: `[rows, 3 * hidden]`; the queries are changed in place
/// - `key_cache`, `value_cache`: `[context, hidden]`
pub fn rotary(
    gpu: &Gpu,
    step: &StepBuffer,
    tables: &PositionTables,
    qkv: &Activation,
    key_cache: &Activation,
    value_cache: &Activation,
    heads: usize,
) -> Dispatch {
    let hidden = key_cache.cols;
    assert_eq!(qkv.cols, 3 * hidden, "queries, keys and values are of one width");
    let source = concat!(
        "@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;\n\
         @group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;\n\
         @group(0) @binding(3) var<storage, read> logn: array<f32>;\n\
         @group(0) @binding(4) var<storage, read_write> key_cache: array<f32>;\n\
         @group(0) @binding(5) var<storage, read_write> value_cache: array<f32>;\n",
        include_str!("rotary.wgsl"),
    );
    let sizes = Sizes::default()
        .u32("heads", heads)
        .u32("half", hidden / heads / 2)
        .u32("hidden", hidden)
        .u32("qkv_stride", qkv.stride())
        .u32("cache_stride", key_cache.stride());
    let buffers = [(1, &qkv.buffer), (2, &tables.angles), (3, &tables.logn), (4, &key_cache.buffer), (5, &value_cache.buffer)];
    Dispatch::new(gpu, "rotary", source, sizes, Some(step), buffers, Grid::Rows { tile: 1, x: 1, z: 1 })
}
