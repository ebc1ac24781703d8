//! Rotary embedding, log-n scaling and the write to the KV cache.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, KvCache, KvFormat, StepBuffer};

/// Tables by position, which depend on the rotary base of the prompt.
#[derive(Debug, Clone)]
pub struct PositionTables {
    /// `(cos, sin)` of each angle, `[context, head_dim / 2]`.
    pub angles: wgpu::Buffer,
    /// Factor of the queries, `[context]`.
    pub logn: wgpu::Buffer,
}

/// Prepares a launch that rotates queries and keys of all rows of the step and writes keys and values to the cache. The keys in `qkv` are
/// undefined afterwards.
///
/// # Shapes
/// - `qkv`: `[rows, 3 * hidden]`; the queries are changed in place
/// - `keys`, `values`: `[context, hidden]`
pub fn rotary(gpu: &Gpu, step: &StepBuffer, tables: &PositionTables, qkv: &Activation, keys: &KvCache, values: &KvCache) -> Dispatch {
    let (heads, head_dim, format) = (keys.heads, keys.head_dim, keys.format);
    assert_eq!(qkv.cols, 3 * heads * head_dim, "queries, keys and values have one width");
    let element = format.element();
    let scaled = format == KvFormat::Q8;
    let store_scales = if scaled { "key_cache[at] = bitcast<u32>(key); value_cache[at] = bitcast<u32>(value);" } else { "" };
    let source = format!(
        "const SCALED: bool = {scaled};\n\
         @group(0) @binding(1) var<storage, read_write> qkv: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> angles: array<vec4<f32>>;\n\
         @group(0) @binding(3) var<storage, read> logn: array<f32>;\n\
         @group(0) @binding(4) var<storage, read_write> key_cache: array<{element}>;\n\
         @group(0) @binding(5) var<storage, read_write> value_cache: array<{element}>;\n\
         fn store_scales(at: u32, key: f32, value: f32) {{ {store_scales} }}\n{}{}{}",
        format.wgsl_store("key"),
        format.wgsl_store("value"),
        wgsl!("rotary.wgsl"),
    );
    let sizes = Sizes::default()
        .u32("heads", heads)
        .u32("quads", head_dim / 8)
        .u32("qkv_stride", qkv.stride() / 4)
        .u32("cache_stride", keys.stride());
    let buffers = [(1, &qkv.buffer), (2, &tables.angles), (3, &tables.logn), (4, &keys.buffer), (5, &values.buffer)];
    Dispatch::new(gpu, "rotary", &source, sizes, Some(step), buffers, Grid::Rows { tile: 1, x: 1, z: 1 })
}
