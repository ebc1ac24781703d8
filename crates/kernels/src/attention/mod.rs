//! Attention: many queries ([`attention`], for the vision tower, the resampler and prefill) and one query ([`attention_decode`]).

pub mod oracle;

use crate::dispatch::Sizes;
use crate::unroll::unroll;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// A slice of columns of activations that holds `heads × head_dim` values a row.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// The rows.
    pub rows: &'a Activation,
    /// First column.
    pub first_col: usize,
}

/// `softmax(queries · keysᵀ / √head_dim) · values`, head by head.
///
/// # Shapes
/// - `queries`, `output`: `[rows, heads * head_dim]`, `keys`, `values`: `[keys, heads * head_dim]`
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Left operand.
    pub queries: Heads<'a>,
    /// Compared with the queries.
    pub keys: Heads<'a>,
    /// Averaged.
    pub values: Heads<'a>,
    /// Another buffer than the three.
    pub output: &'a Activation,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head: a multiple of 4, at most 128.
    pub head_dim: usize,
    /// Whether a row sees only keys up to its own position.
    pub causal: bool,
}

impl Attention<'_> {
    fn source(&self, kernel: &str) -> String {
        let vectors = self.head_dim / 4;
        assert!(self.head_dim.is_multiple_of(4) && self.head_dim <= 128, "heads of {} values", self.head_dim);
        let mut source = format!("const VECTORS: u32 = {vectors}u;\n");
        // Queries, keys and values are often one buffer: bound once, under three names, it would be three bindings of the same range,
        // which is allowed as all are read-only.
        source += "@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;\n\
                   @group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;\n\
                   @group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;\n\
                   @group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;\n";
        source + kernel
    }

    fn sizes(&self) -> Sizes {
        let sizes = Sizes::default()
            .u32("causal", self.causal.into())
            .f32("scale", (1.0 / (self.head_dim as f64).sqrt()) as f32)
            .u32("out_stride", self.output.stride() / 4);
        [("q", self.queries), ("k", self.keys), ("v", self.values)].into_iter().fold(sizes, |sizes, (name, heads)| {
            assert!(heads.first_col.is_multiple_of(4), "heads begin at a whole vector");
            sizes.u32(&format!("{name}_stride"), heads.rows.stride() / 4).u32(&format!("{name}_offset"), heads.first_col / 4)
        })
    }

    fn buffers(&self) -> [(u32, &wgpu::Buffer); 4] {
        [(1, &self.queries.rows.buffer), (2, &self.keys.rows.buffer), (3, &self.values.rows.buffer), (4, &self.output.buffer)]
    }
}

/// Attention for all rows of the step.
pub fn attention(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>) -> Dispatch {
    let counts = [('r', 8), ('k', 4), ('p', attention.head_dim.div_ceil(32))];
    let source = attention.source(&unroll(include_str!("attention.wgsl"), &counts));
    let grid = Grid::Rows { tile: 64, x: attention.heads as u32, z: 1 };
    Dispatch::new(gpu, "attention", &source, attention.sizes(), Some(step), attention.buffers(), grid)
}

/// Attention for row 0 alone, at the last position of the step.
pub fn attention_decode(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>) -> Dispatch {
    let source = attention.source(include_str!("decode.wgsl"));
    let grid = Grid::Fixed([attention.heads as u32, 1, 1]);
    Dispatch::new(gpu, "attention_decode", &source, attention.sizes(), Some(step), attention.buffers(), grid)
}
