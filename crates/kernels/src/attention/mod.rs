//! Attention of many rows ([`attention`], for the vision tower, the resampler and prefill) and of one row ([`attention_decode`]).

pub mod oracle;

use crate::dispatch::Sizes;
use crate::wgsl::{unroll, wgsl};
use crate::{Activation, Dispatch, Gpu, Grid, Kernels, KvCache, KvFormat, StepBuffer, size};

/// A slice of `heads * head_dim` columns of activations.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// The rows.
    pub rows: &'a Activation,
    /// First column.
    pub first_col: usize,
}

/// Source of keys or values.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Columns of activations.
    Rows(Heads<'a>),
    /// A KV cache.
    Cache(&'a KvCache),
}

impl<'a> From<Heads<'a>> for Source<'a> {
    fn from(heads: Heads<'a>) -> Self {
        Self::Rows(heads)
    }
}

impl<'a> Source<'a> {
    fn format(self) -> KvFormat {
        match self {
            Self::Rows(_) => KvFormat::F32,
            Self::Cache(cache) => cache.format,
        }
    }

    fn buffer(self) -> &'a wgpu::Buffer {
        match self {
            Self::Rows(heads) => &heads.rows.buffer,
            Self::Cache(cache) => &cache.buffer,
        }
    }

    /// Returns the distance of two rows and the first element, in elements of four values.
    fn place(self) -> [usize; 2] {
        match self {
            Self::Rows(heads) => {
                assert!(heads.first_col.is_multiple_of(4), "the first column is a multiple of 4");
                [heads.rows.stride() / 4, heads.first_col / 4]
            }
            Self::Cache(cache) => [cache.stride(), 0],
        }
    }
}

/// `softmax(queries · keysᵀ / √head_dim) · values`, head by head. Head `h` of the queries reads head `h / (heads / kv_heads)` of the keys and
/// values.
///
/// # Shapes
/// - `queries`, `output`: `[rows, heads * head_dim]`, `keys`, `values`: `[keys, kv_heads * head_dim]`
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries.
    pub queries: Heads<'a>,
    /// Keys.
    pub keys: Source<'a>,
    /// Values.
    pub values: Source<'a>,
    /// Result, in a different buffer from the operands.
    pub output: &'a Activation,
    /// Number of heads of the queries: a multiple of `kv_heads`.
    pub heads: usize,
    /// Number of heads of the keys and values.
    pub kv_heads: usize,
    /// Width of a head: a multiple of 4, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Keys that a row attends to.
    pub span: Span<'a>,
}

/// The keys that a row attends to.
#[derive(Clone, Copy)]
pub enum Span<'a> {
    /// All keys of the step.
    All,
    /// Those up to its own position.
    Causal,
    /// The keys from one to another, which is excluded: `[rows]` of two u32. Both grow from row to row, and no row is without keys. [`attention`]
    /// alone takes them.
    Segments(&'a wgpu::Buffer),
}

/// Largest width of a head.
pub const MAX_HEAD_DIM: usize = 256;

impl Attention<'_> {
    /// Returns the number of heads of the queries that share a head of keys and values.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn source(&self, kernel: &str) -> String {
        assert!(self.head_dim.is_multiple_of(4) && self.head_dim <= MAX_HEAD_DIM, "heads of {} values", self.head_dim);
        assert!(self.heads.is_multiple_of(self.kv_heads), "{} heads of queries share {} of keys", self.heads, self.kv_heads);
        // Queries, keys and values are often in one buffer. It is bound three times, which is valid because all bindings are read-only.
        let mut source = format!(
            "@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;\n\
             @group(0) @binding(2) var<storage, read> k: array<{}>;\n\
             @group(0) @binding(3) var<storage, read> v: array<{}>;\n\
             @group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;\n",
            self.keys.format().element(),
            self.values.format().element(),
        );
        source += &self.keys.format().wgsl_load("k");
        source += &self.values.format().wgsl_load("v");
        source + kernel
    }

    fn sizes(&self) -> Sizes {
        let sizes = Sizes::default()
            .u32("kv_heads", self.kv_heads)
            .u32("group", self.group())
            .u32("vectors", self.head_dim / 4)
            .u32("causal", matches!(self.span, Span::Causal).into())
            .f32("scale", (1.0 / (self.head_dim as f64).sqrt()) as f32)
            .u32("out_stride", self.output.stride() / 4);
        [("q", Source::Rows(self.queries)), ("k", self.keys), ("v", self.values)].into_iter().fold(sizes, |sizes, (name, source)| {
            let [stride, offset] = source.place();
            sizes.u32(&format!("{name}_stride"), stride).u32(&format!("{name}_offset"), offset)
        })
    }

    /// Declares `segment`, the keys of a row.
    fn segments(&self) -> &'static str {
        match self.span {
            Span::All | Span::Causal => "fn segment(row: u32) -> vec2<u32> { return vec2<u32>(0u, step.keys); }\n",
            Span::Segments(_) => {
                "@group(0) @binding(5) var<storage, read> segments: array<vec2<u32>>;\n\
                 fn segment(row: u32) -> vec2<u32> { return segments[row]; }\n"
            }
        }
    }

    fn buffers(&self) -> Vec<(u32, &wgpu::Buffer)> {
        let mut buffers = self.row_buffers().to_vec();
        if let Span::Segments(segments) = self.span {
            buffers.push((5, segments));
        }
        buffers
    }

    fn row_buffers(&self) -> [(u32, &wgpu::Buffer); 4] {
        [(1, &self.queries.rows.buffer), (2, self.keys.buffer()), (3, self.values.buffer()), (4, &self.output.buffer)]
    }
}

/// Prepares the attention of all rows of the step.
pub fn attention(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>) -> Dispatch {
    let rows = gpu.kernels().attention_rows;
    let (group, passes) = (attention.group(), attention.head_dim.div_ceil(MAX_PARTS * 32));
    let parts = attention.head_dim.div_ceil(32).div_ceil(passes);
    let vectors = head_vectors(gpu.kernels(), attention.head_dim);
    let kernel = unroll(wgsl!("attention.wgsl"), &[('r', 8), ('k', 4), ('p', parts)]);
    let source = attention.source(&format!(
        "const ROWS: u32 = {rows}u;\nconst PARTS: u32 = {parts}u;\nconst GROUP: u32 = {group}u;\n\
         fn head_vectors() -> u32 {{ return {vectors}; }}\n{}{kernel}",
        attention.segments(),
    ));
    let grid = Grid::Rows { tile: rows, times: group as u32, x: attention.kv_heads as u32, z: passes as u32 };
    Dispatch::new(gpu, "attention", &source, attention.sizes(), Some(step), attention.buffers(), grid)
}

/// Returns the number of vectors of a head as WGSL: a constant that compilers unroll loops by, or a number that they do not know.
fn head_vectors(kernels: Kernels, head_dim: usize) -> String {
    if kernels.attention_of_any_width { "sizes.vectors".to_owned() } else { format!("{}u", head_dim / 4) }
}

/// Vectors of a row that an invocation of [`attention`] sums, at a distance of 8: with 8 rows, 128 registers. Workgroups along z compute the
/// vectors of wider heads.
const MAX_PARTS: usize = 4;

/// Prepares the attention of row 0, at the last position of the step.
pub fn attention_decode(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>) -> Dispatch {
    let OneRow { source, heads } = OneRow::new(gpu, &attention, 1);
    let grid = Grid::Fixed([(attention.heads / heads) as u32, 1, 1]);
    Dispatch::new(gpu, "attention_decode", &attention.source(&source), attention.sizes(), Some(step), attention.row_buffers(), grid)
}

/// The kernel of one row.
struct OneRow {
    source: String,
    /// Heads of a workgroup.
    heads: usize,
}

impl OneRow {
    fn new(gpu: &Gpu, attention: &Attention<'_>, splits: usize) -> Self {
        assert!(!matches!(attention.span, Span::Segments(_)), "the kernel of one row has no segments");
        let kernels = gpu.kernels();
        let (lanes, vectors) = (kernels.decode_lanes as usize, attention.head_dim / 4);
        let (teams, parts) = ((lanes / vectors).max(1), vectors.div_ceil(lanes));
        // All heads of a group, or a part of a group that would need more registers or workgroup memory.
        let memory = |heads: usize| (16 * vectors + 4 * lanes) * heads + 16 * lanes;
        let fits = |heads: &usize| attention.group().is_multiple_of(*heads) && memory(*heads) <= MAX_WORKGROUP_MEMORY;
        let heads = (1..=MAX_HEADS).rev().find(fits).expect("one head fits the workgroup memory");
        let maxima = if kernels.subgroups { wgsl!("maxima_subgroups.wgsl") } else { wgsl!("maxima_tree.wgsl") };
        let kernel = unroll(&[wgsl!("decode.wgsl"), maxima].concat(), &[('h', heads), ('p', parts)]);
        let reductions = kernels.reductions(kernels.decode_lanes);
        let source = format!(
            "fn head_vectors() -> u32 {{ return {}; }}\nconst VECTORS: u32 = {vectors}u;\nconst GROUP: u32 = {heads}u;\nconst TEAMS: u32 = {teams}u;\nconst SPLITS: u32 = {splits}u;\n\
             {reductions}{kernel}",
            head_vectors(kernels, attention.head_dim),
        );
        Self { source, heads }
    }
}

/// Most heads of a group that a workgroup of the kernel of one row computes.
const MAX_HEADS: usize = 8;
/// WebGPU's default limit of workgroup memory, bytes.
const MAX_WORKGROUP_MEMORY: usize = 16 << 10;

/// Number of keys from which [`attention_split`] is faster than [`attention_decode`]: a launch more, but enough workgroups to fill a large
/// GPU.
pub const SPLIT_KEYS: usize = 1024;

/// Number of slices of the context in [`attention_split`].
const SPLITS: usize = 8;

/// Returns the bytes of the scratch buffer of [`attention_split`] for `heads` of the queries.
pub fn split_bytes(heads: usize, head_dim: usize) -> u64 {
    size::product(&[heads, SPLITS, head_dim / 4 + 1, 16])
}

/// Prepares [`attention_decode`] in slices of a long context, because one workgroup for each group does not fill a large GPU. `partial` has
/// [`split_bytes`].
pub fn attention_split(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>, partial: &wgpu::Buffer) -> [Dispatch; 2] {
    let (heads, vectors) = (attention.heads as u32, attention.head_dim / 4);
    let one_row = OneRow::new(gpu, &attention, SPLITS);
    let buffers = attention.row_buffers().map(|(binding, buffer)| (binding, if binding == 4 { partial } else { buffer }));
    let grid = Grid::Fixed([heads / one_row.heads as u32, SPLITS as u32, 1]);
    let slices = Dispatch::new(gpu, "attention_slices", &attention.source(&one_row.source), attention.sizes(), Some(step), buffers, grid);
    let source = format!(
        "const VECTORS: u32 = {vectors}u;\n\
         @group(0) @binding(1) var<storage, read> partial: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n{}",
        wgsl!("merge.wgsl"),
    );
    let buffers = [(1, partial), (2, &attention.output.buffer)];
    [
        slices,
        Dispatch::new(gpu, "attention_merge", &source, Sizes::default().u32("splits", SPLITS), None, buffers, Grid::Fixed([heads, 1, 1])),
    ]
}
