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
    let Kernels { attention_rows: rows, attention_lane_rows: lane_rows, .. } = gpu.kernels();
    let (group, passes) = (attention.group(), attention.head_dim.div_ceil(PASS_WIDTH));
    let parts = attention.head_dim.div_ceil(32).div_ceil(passes);
    let vectors = head_vectors(gpu.kernels(), attention.head_dim);
    // With the bound Tint knows that a key is in its tile, and adds no bound to each access. Software adapters take longer with it.
    let of_tile = if gpu.kernels().attention_of_any_width { "j" } else { "min(j, TILE - 1u)" };
    let counts = [('r', lane_rows as usize), ('k', 4), ('p', parts), ('j', lane_rows as usize * parts - 1)];
    let kernel = unroll(wgsl!("attention.wgsl"), &counts).replace("OF_TILE", of_tile);
    let source = attention.source(&format!(
        "const ROWS: u32 = {rows}u;\nconst LANE_ROWS: u32 = {lane_rows}u;\nconst PARTS: u32 = {parts}u;\nconst GROUP: u32 = {group}u;\n\
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

/// Width of a head that a workgroup of [`attention`] computes. Workgroups along z compute the rest of wider heads.
const PASS_WIDTH: usize = 128;

/// Prepares the attention of row 0, at the last position of the step.
pub fn attention_decode(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>) -> Dispatch {
    let one_row = OneRow::new(gpu.kernels(), &attention);
    one_row.dispatch(gpu, "attention_decode", step, attention, 1, &attention.output.buffer)
}

/// The shape of the kernel of one row.
struct OneRow {
    /// Vectors of four values of a head.
    vectors: usize,
    /// Heads of a workgroup.
    heads: usize,
    /// Workgroups of a slice of the context.
    groups: u32,
    /// Fewest keys of a slice.
    shortest: usize,
}

impl OneRow {
    fn new(kernels: Kernels, attention: &Attention<'_>) -> Self {
        assert!(!matches!(attention.span, Span::Segments(_)), "the kernel of one row has no segments");
        let vectors = attention.head_dim / 4;
        // All heads of a group, or a part of a group that would need more registers or workgroup memory.
        let Tile { lanes, tile, scratch, .. } = Tile::new(kernels);
        let memory = |heads: usize| (16 * vectors + 4 * tile + 4 * scratch) * heads + 16 * lanes;
        let fits = |heads: &usize| attention.group().is_multiple_of(*heads) && memory(*heads) <= MAX_WORKGROUP_MEMORY;
        let heads = (1..=MAX_HEADS).rev().find(fits).expect("one head fits the workgroup memory");
        let groups = attention.heads / heads;
        Self { vectors, heads, groups: groups as u32, shortest: shortest_slice(kernels, groups) }
    }

    /// Appends the number of slices of the context and the fewest keys of one to `sizes`.
    fn slices(&self, sizes: Sizes, splits: usize) -> Sizes {
        sizes.u32("splits", splits).u32("shortest", self.shortest)
    }

    fn dispatch(
        &self,
        gpu: &Gpu,
        label: &'static str,
        step: &StepBuffer,
        attention: Attention<'_>,
        splits: usize,
        output: &wgpu::Buffer,
    ) -> Dispatch {
        let source = attention.source(&self.source(gpu.kernels()));
        let buffers = attention.row_buffers().map(|(binding, buffer)| (binding, if binding == 4 { output } else { buffer }));
        let grid = Grid::Fixed([splits as u32, self.groups, 1]);
        Dispatch::new(gpu, label, &source, self.slices(attention.sizes(), splits), Some(step), buffers, grid)
    }

    fn source(&self, kernels: Kernels) -> String {
        let Self { vectors, heads, .. } = *self;
        let Tile { lanes, along, tile, pitch, scratch } = Tile::new(kernels);
        let (teams, parts) = ((lanes / vectors).max(1), vectors.div_ceil(lanes));
        let values = (KEYS_AT_A_TIME / parts).max(1);
        let kernel = unroll(wgsl!("decode.wgsl"), &[('h', heads), ('k', KEYS_AT_A_TIME), ('v', values), ('p', parts)]);
        let width = head_vectors(kernels, 4 * vectors);
        format!(
            "fn head_vectors() -> u32 {{ return {width}; }}\n\
             const VECTORS: u32 = {vectors}u;\nconst GROUP: u32 = {heads}u;\nconst TEAMS: u32 = {teams}u;\nconst VALUES: u32 = {values}u;\n\
             const LANES: u32 = {lanes}u;\nconst ALONG: u32 = {along}u;\nconst TILE: u32 = {tile}u;\n\
             const PITCH: u32 = {pitch}u;\nconst SCRATCH: u32 = {scratch}u;\n{kernel}"
        )
    }
}

/// The lanes and the workgroup memory of the kernel of one row.
struct Tile {
    /// Invocations.
    lanes: usize,
    /// Invocations side by side along a key.
    along: usize,
    /// Keys between two maxima.
    tile: usize,
    /// Distance of the partial scores of two keys: one more than `along`, so that lanes that each read a key use different memory banks.
    pitch: usize,
    /// Elements of the workgroup memory that partial scores, maxima and totals share, for each head.
    scratch: usize,
}

impl Tile {
    fn new(kernels: Kernels) -> Self {
        let (lanes, along) = (kernels.decode_lanes as usize, kernels.decode_key_lanes as usize);
        let (strip, pitch) = (lanes / along * KEYS_AT_A_TIME, along + 1);
        let partial = if along > 1 { strip * pitch } else { 0 };
        Self { lanes, along, tile: lanes.max(strip), pitch, scratch: partial.max(lanes) }
    }
}

/// Keys that a lane of the kernel of one row takes at a time.
const KEYS_AT_A_TIME: usize = 4;
/// Most heads of a group that a workgroup of the kernel of one row computes.
const MAX_HEADS: usize = 8;
/// WebGPU's default limit of workgroup memory, bytes.
const MAX_WORKGROUP_MEMORY: usize = 16 << 10;

/// Number of keys from which [`attention_split`] takes the place of [`attention_decode`]: a launch more, but enough workgroups to fill a large
/// GPU. The number follows from the listings (`crates/kernels/README.md`), not from a measurement on a GPU.
pub const SPLIT_KEYS: usize = 128;

/// Largest number of slices of the context in [`attention_split`].
const SPLITS: usize = 32;

/// Returns the fewest keys of a slice if `groups` workgroups compute all heads.
fn shortest_slice(kernels: Kernels, groups: usize) -> usize {
    (groups * 512 / kernels.decode_workgroups as usize).clamp(16, 64)
}

/// Returns the number of keys that a workgroup of the attention of one row takes one after the other if `groups` workgroups compute all heads.
pub fn keys_in_turn(kernels: Kernels, groups: usize, keys: usize) -> usize {
    if keys < SPLIT_KEYS { keys } else { keys.div_ceil(SPLITS).max(shortest_slice(kernels, groups)) }
}

/// Returns the bytes of the scratch buffer of [`attention_split`] for `heads` of the queries.
pub fn split_bytes(heads: usize, head_dim: usize) -> u64 {
    size::product(&[heads, SPLITS, head_dim / 4 + 1, 16])
}

/// Prepares [`attention_decode`] in slices of the context, because one workgroup for each group does not fill a large GPU. `partial` has
/// [`split_bytes`].
pub fn attention_split(gpu: &Gpu, step: &StepBuffer, attention: Attention<'_>, partial: &wgpu::Buffer) -> [Dispatch; 2] {
    let one_row = OneRow::new(gpu.kernels(), &attention);
    let slices = one_row.dispatch(gpu, "attention_slices", step, attention, SPLITS, partial);
    let source = format!(
        "const VECTORS: u32 = {}u;\n\
         @group(0) @binding(1) var<storage, read> partial: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n{}",
        one_row.vectors,
        wgsl!("merge.wgsl"),
    );
    let buffers = [(1, partial), (2, &attention.output.buffer)];
    let (sizes, grid) = (one_row.slices(Sizes::default(), SPLITS), Grid::Fixed([attention.heads as u32, 1, 1]));
    [slices, Dispatch::new(gpu, "attention_merge", &source, sizes, Some(step), buffers, grid)]
}
