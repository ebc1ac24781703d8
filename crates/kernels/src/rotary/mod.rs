//! Rotary embedding: of the decoder, with norms of the heads, log-n scaling and the write to the KV cache; and of a vision tower.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, KvCache, KvFormat, StepBuffer};

/// Tables by position, which depend on the rotary base of the prompt.
#[derive(Debug, Clone)]
pub struct PositionTables {
    /// `(cos, sin)` of each angle, `[context, head_dim / 2]`.
    pub angles: wgpu::Buffer,
    /// Factor of the queries, `[context]`; `None` if they are not scaled.
    pub logn: Option<wgpu::Buffer>,
}

/// RMS norms of each head of the queries and of each head of the keys.
#[derive(Debug, Clone)]
pub struct HeadNorms {
    /// Weight of the queries' norm, `[head_dim]`.
    pub queries: wgpu::Buffer,
    /// Weight of the keys' norm, `[head_dim]`.
    pub keys: wgpu::Buffer,
    /// Added to the mean of squares.
    pub epsilon: f32,
}

/// Prepares a launch that rotates queries and keys of all rows of the step, after `norms` if they are given, and writes keys and values to
/// the cache. The keys in `qkv` are undefined afterwards.
///
/// # Shapes
/// - `qkv`: `[rows, (heads + 2 * kv_heads) * head_dim]`, queries, keys and values; the queries are changed in place
/// - `keys`, `values`: `[context, kv_heads * head_dim]`
///
/// # Panics
/// If the columns of `qkv` are not those of whole groups of heads.
pub fn rotary(
    gpu: &Gpu,
    step: &StepBuffer,
    tables: &PositionTables,
    norms: Option<&HeadNorms>,
    qkv: &Activation,
    keys: &KvCache,
    values: &KvCache,
) -> Dispatch {
    let (kv_heads, head_dim, format) = (keys.heads, keys.head_dim, keys.format);
    let heads = (qkv.cols / head_dim).saturating_sub(2 * kv_heads);
    assert!(
        heads >= kv_heads && heads.is_multiple_of(kv_heads) && qkv.cols == (heads + 2 * kv_heads) * head_dim,
        "{} columns are not queries, keys and values with {kv_heads} heads of {head_dim} in the cache",
        qkv.cols
    );
    let element = format.element();
    let scaled = format == KvFormat::Q8;
    let store_scales = if scaled { "key_cache[at] = bitcast<u32>(key); value_cache[at] = bitcast<u32>(value);" } else { "" };
    let query_scale = match tables.logn {
        Some(_) => "@group(0) @binding(3) var<storage, read> logn: array<f32>;\nfn query_scale(at: u32) -> f32 { return logn[at]; }\n",
        None => "fn query_scale(at: u32) -> f32 { return 1.0; }\n",
    };
    let norm = match norms {
        Some(_) => concat!(
            "@group(0) @binding(6) var<storage, read> q_weight: array<vec4<f32>>;\n",
            "@group(0) @binding(8) var<storage, read> k_weight: array<vec4<f32>>;\n",
        ),
        None => concat!(
            "fn prepare_norms(row: u32, lane: u32) {}\n",
            "fn q_norm(x: vec4<f32>, head: u32, at: u32) -> vec4<f32> { return x; }\n",
            "fn k_norm(x: vec4<f32>, head: u32, at: u32) -> vec4<f32> { return x; }\n",
        ),
    };
    let source = format!(
        "const SCALED: bool = {scaled};\nconst HEADS: u32 = {heads}u;\nconst KV_HEADS: u32 = {kv_heads}u;\n\
         @group(0) @binding(1) var<storage, read_write> qkv: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> angles: array<vec4<f32>>;\n\
         @group(0) @binding(4) var<storage, read_write> key_cache: array<{element}>;\n\
         @group(0) @binding(5) var<storage, read_write> value_cache: array<{element}>;\n\
         fn store_scales(at: u32, key: f32, value: f32) {{ {store_scales} }}\n{query_scale}{norm}{}{}{}{}",
        if norms.is_some() { wgsl!("norm.wgsl") } else { "" },
        format.wgsl_store("key"),
        format.wgsl_store("value"),
        wgsl!("rotary.wgsl"),
    );
    let sizes = Sizes::default()
        .u32("quads", head_dim / 8)
        .u32("qkv_stride", qkv.stride() / 4)
        .u32("cache_stride", keys.stride())
        .f32("epsilon", norms.map_or(0.0, |norms| norms.epsilon));
    let buffers = [(1, &qkv.buffer), (2, &tables.angles), (4, &keys.buffer), (5, &values.buffer)];
    let optional =
        tables.logn.iter().map(|logn| (3, logn)).chain(norms.into_iter().flat_map(|norms| [(6, &norms.queries), (8, &norms.keys)]));
    Dispatch::new(gpu, "rotary", &source, sizes, Some(step), buffers.into_iter().chain(optional), Grid::ROW_BY_ROW)
}

/// Prepares a launch that rotates the queries and keys of all rows of the step in place, each row by its own angles.
///
/// # Shapes
/// - `qkv`: `[rows, 3 * heads * head_dim]`, queries, keys and values; a head has an even width
/// - `angles`: `(cos, sin)` of each angle, `[rows, head_dim / 2]`
pub fn rotary_rows(gpu: &Gpu, step: &StepBuffer, angles: &wgpu::Buffer, qkv: &Activation, heads: usize) -> Dispatch {
    assert!(qkv.cols.is_multiple_of(6 * heads), "{} columns are not queries, keys and values of {heads} heads", qkv.cols);
    let half = qkv.cols / (6 * heads);
    // Neighbours that one vector holds: the halves of a head begin at multiples of it.
    let (unit, element, table, cosine, sine) = if half.is_multiple_of(4) {
        let pairs = |first, second| format!("vec4<f32>(angles[at * 2u].{first}{second}, angles[at * 2u + 1u].{first}{second})");
        (4, "vec4<f32>", "vec4<f32>", pairs('x', 'z'), pairs('y', 'w'))
    } else if half.is_multiple_of(2) {
        (2, "vec2<f32>", "vec4<f32>", "angles[at].xz".to_owned(), "angles[at].yw".to_owned())
    } else {
        (1, "f32", "vec2<f32>", "angles[at].x".to_owned(), "angles[at].y".to_owned())
    };
    let source = format!(
        "@group(0) @binding(1) var<storage, read_write> qkv: array<{element}>;\n\
         @group(0) @binding(2) var<storage, read> angles: array<{table}>;\n\
         fn cosine_at(at: u32) -> {element} {{ return {cosine}; }}\n\
         fn sine_at(at: u32) -> {element} {{ return {sine}; }}\n{}",
        wgsl!("rows.wgsl"),
    );
    let sizes = Sizes::default().u32("heads", heads).u32("half", half / unit).u32("stride", qkv.stride() / unit);
    Dispatch::new(gpu, "rotary_rows", &source, sizes, Some(step), [(1, &qkv.buffer), (2, angles)], Grid::ROW_BY_ROW)
}
