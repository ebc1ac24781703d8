//! Matrix products with a weight, of many rows ([`matmul`]) and of one row ([`matvec`]), with fused bias, RMS norm and activation.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::norm::Norm;
use crate::wgsl::{unroll, wgsl};
use crate::{Activation, Dispatch, Gpu, Grid, Kernels, Precision, StepBuffer, Weight, WeightPart, size};
use qwen_vl_format::Scheme;

/// Operation on a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// None.
    Store,
    /// Adds the content of the output: the residual connection.
    Accumulate,
    /// The exact GELU, with erf.
    Gelu,
    /// `x * sigmoid(1.702 * x)`.
    QuickGelu,
    /// The approximation of GELU by tanh.
    GeluTanh,
    /// Weight rows 2i and 2i+1 give one output, `a * silu(b)`: the decoder's MLP with interleaved branches.
    SwiGlu,
}

/// A product `output = epilogue(input · weightᵀ + bias)`.
///
/// # Shapes
/// - `input`: `[rows, cols]`, `weight`: `[out, cols]`, `bias`: `[out]`
/// - `output`: `[rows, out]`, or `[rows, out / 2]` with [`Epilogue::SwiGlu`]
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weight.
    pub weight: &'a Weight,
    /// Bias.
    pub bias: Option<&'a wgpu::Buffer>,
    /// Left operand.
    pub input: &'a Activation,
    /// Result, in a different buffer from `input`.
    pub output: &'a Activation,
    /// Operation before the result is stored.
    pub epilogue: Epilogue,
    /// True to compute in f32 whatever the [`Precision`] of the kernel set, because values may pass the range of f16 or span a wide one.
    pub exact: bool,
    /// Memory of at least [`packed_bytes`] of the input for the input in 8 bits, which [`Precision::Q8`] needs. Its content lasts for one product.
    pub packed: Option<&'a wgpu::Buffer>,
}

/// Returns the bytes of activations `[rows, cols]` in 8 bits: three vectors of 16 bytes for each block of 32 values.
pub fn packed_bytes(rows: usize, cols: usize) -> u64 {
    size::product(&[rows, cols.div_ceil(32), 48])
}

impl Product<'_> {
    fn check(&self) {
        let outputs = if self.epilogue == Epilogue::SwiGlu { self.weight.rows / 2 } else { self.weight.rows };
        assert_eq!(self.input.cols, self.weight.cols, "input and weight have the same columns");
        assert_eq!(self.output.cols, outputs, "output columns and weight rows differ");
    }

    fn sizes(&self, first_row: usize, rows: usize, norm: Option<&Norm>) -> Sizes {
        let epilogue = match self.epilogue {
            Epilogue::Store => 0,
            Epilogue::Accumulate => 1,
            Epilogue::Gelu => 2,
            Epilogue::SwiGlu => 3,
            Epilogue::QuickGelu => 4,
            // With z = √(2/π) (x + 0.044715 x³): (1 + tanh z) / 2 = sigmoid(2z).
            Epilogue::GeluTanh => 5,
        };
        Sizes::default()
            .u32("blocks", self.input.stride() / 32)
            .u32("rows", rows)
            .u32("first_row", first_row)
            .u32("out_stride", self.output.stride())
            .u32("epilogue", epilogue)
            .u32("has_bias", self.bias.is_some().into())
            .f32("cols", self.input.cols as f32)
            .f32("epsilon", norm.map_or(0.0, |norm| norm.epsilon))
    }

    /// Returns the memory for the input in 8 bits, if this product takes it.
    fn packed(&self, gpu: &Gpu, rows: usize) -> Option<&wgpu::Buffer> {
        let takes = gpu.kernels().precision == Precision::Q8 && !self.exact && self.weight.scheme.group_size().is_some();
        let packed = self.packed.filter(|_| takes)?;
        // A dry run allocates nothing.
        assert!(packed == gpu.zeros() || packed.size() >= packed_bytes(rows, self.input.cols), "the input in 8 bits has no room");
        Some(packed)
    }

    fn source(&self, norm: Option<&Norm>, kernel: &str) -> String {
        self.source_of("f32", norm, kernel)
    }

    fn source_of(&self, input: &str, norm: Option<&Norm>, kernel: &str) -> String {
        let mut source = format!(
            "@group(0) @binding(1) var<storage, read> input: array<vec4<{input}>>;\n\
             @group(0) @binding(2) var<storage, read_write> output: array<f32>;\n\
             @group(0) @binding(3) var<storage, read> bias: array<f32>;\n",
        );
        source += &self.weight.wgsl(4);
        source += norm_wgsl(norm);
        source + wgsl!("epilogue.wgsl") + kernel
    }

    fn bindings<'a>(
        &'a self,
        gpu: &'a Gpu,
        input: &'a wgpu::Buffer,
        part: &'a WeightPart,
        norm: Option<&'a Norm>,
    ) -> impl Iterator<Item = (u32, &'a wgpu::Buffer)> {
        [(1, input), (2, &self.output.buffer), (3, self.bias.unwrap_or(gpu.zeros()))]
            .into_iter()
            .chain(part.bindings(4))
            .chain(norm.map(|norm| (NORM_BINDING, &norm.weight)))
    }
}

/// Binding of a fused norm's weight.
const NORM_BINDING: u32 = 6;

/// Returns WGSL that says whether an RMS norm is fused, and defines `norm_at(at)`, a vector of its weight.
fn norm_wgsl(norm: Option<&Norm>) -> &'static str {
    match norm {
        Some(_) => {
            "const NORM: bool = true;\n\
             @group(0) @binding(6) var<storage, read> norm_weight: array<vec4<f32>>;\n\
             fn norm_at(at: u32) -> vec4<f32> { return norm_weight[at]; }\n"
        }
        None => "const NORM: bool = false;\nfn norm_at(at: u32) -> vec4<f32> { return vec4<f32>(1.0); }\n",
    }
}

/// In the products that stage tiles of 64 x 64 in workgroup memory: rows of an invocation, its vectors of sums, and vectors of a block.
const STAGED: [(char, usize); 3] = [('s', 8), ('q', 2), ('k', 8)];
/// In the f16 product: values along k that are summed in f16, and vectors of a quarter of a block.
const IN_HALVES: [(char, usize); 2] = [('e', 8), ('v', 2)];

/// Returns the WGSL of a product of tiles whose invocations compute `rows` x 4 * `vectors` each.
fn tiled(rows: usize, vectors: usize, kernel: &str) -> String {
    let constants = format!("const LANE_ROWS: u32 = {rows}u;\nconst LANE_VECTORS: u32 = {vectors}u;\nconst TILE: u32 = {}u;\n", 8 * rows);
    [constants.as_str(), &unroll(wgsl!("tile.wgsl"), &[('j', rows * vectors - 1)]), kernel].concat()
}

/// Returns the product of tiles of 64 x 64 or of 32 x 32 in f32.
fn staged(tile: usize) -> String {
    let (rows, vectors) = (tile / 8, tile / 32);
    let parts = 64 / tile;
    let kernel = unroll(wgsl!("matmul.wgsl"), &[('s', rows), ('q', vectors), ('k', 8 / parts), ('h', 4 / parts)]);
    let inner = unroll(wgsl!("matmul_inner.wgsl"), &[('s', rows), ('q', vectors)]);
    let blocks: String = (0..8).map(|k| format!("{{\n{}}}\n", inner.replace("Ku", &format!("{k}u")))).collect();
    tiled(rows, vectors, &kernel.replace("INNER\n", &blocks))
}

/// Prepares the conversion of rows to 8 bits, after an RMS norm if `norm` is given: of all rows of the step, or of row 0.
fn quantize(gpu: &Gpu, one_row: bool, input: &Activation, norm: Option<&Norm>, packed: &wgpu::Buffer) -> Dispatch {
    const LANES: u32 = 64;
    let source = [
        "@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;\n",
        norm_wgsl(norm),
        &gpu.kernels().reductions(LANES),
        &unroll(wgsl!("quantize.wgsl"), &[('k', 8)]),
    ]
    .concat();
    let blocks = input.stride() / 32;
    let sizes = Sizes::default().u32("blocks", blocks).f32("cols", input.cols as f32).f32("epsilon", norm.map_or(0.0, |norm| norm.epsilon));
    let x = (blocks as u32).div_ceil(LANES);
    let grid = if one_row { Grid::Fixed([x, 1, 1]) } else { Grid::Rows { tile: 1, times: 1, x, z: 1 } };
    let buffers = [(1, &input.buffer), (2, packed)].into_iter().chain(norm.map(|norm| (NORM_BINDING, &norm.weight)));
    Dispatch::new(gpu, "quantize", &source, sizes, None, buffers, grid)
}

/// Prepares the product of all rows of the step: one launch for each slice of the weight, after one that converts the input to 8 bits if the
/// product takes it.
pub fn matmul(gpu: &Gpu, step: &StepBuffer, product: Product<'_>) -> Vec<Dispatch> {
    product.check();
    let Kernels { matmul_registers, matmul_workgroups, precision, .. } = gpu.kernels();
    let packed = product.packed(gpu, product.input.rows);
    let label = if product.exact && precision != Precision::F32 { "matmul_exact" } else { "matmul" };
    let precision = if product.exact { Precision::F32 } else { precision };
    let mut few_rows = None;
    let (kernel, [tile_rows, tile_columns]) = match (precision, matmul_registers) {
        _ if packed.is_some() => (tiled(8, 2, &unroll(wgsl!("matmul_packed.wgsl"), &STAGED)), [64, 64]),
        (Precision::F16, _) => (tiled(8, 2, &unroll(&unroll(wgsl!("matmul_f16.wgsl"), &STAGED), &IN_HALVES)), [64, 64]),
        (_, None) => {
            few_rows = Some(product.source(None, &staged(32)));
            (staged(64), [64, 64])
        }
        (_, Some([rows, columns])) => {
            let kernel = unroll(wgsl!("matmul_registers.wgsl"), &[('s', rows as usize), ('q', columns as usize / 4)]);
            (format!("const ROWS: u32 = {rows}u;\nconst COLUMNS: u32 = {columns}u;\n{kernel}"), [rows, 8 * columns])
        }
    };
    let source = product.source_of(if packed.is_some() { "u32" } else { "f32" }, None, &kernel);
    let input = packed.unwrap_or(&product.input.buffer);
    let first = packed.map(|packed| quantize(gpu, false, product.input, None, packed));
    let products = product.weight.parts_from().map(|(first_row, part)| {
        let launch = |label, source: &str, tile_rows: u32, tile_columns: u32| {
            let sizes = product.sizes(first_row, part.rows, None);
            let grid = Grid::Rows { tile: tile_rows, times: 1, x: (part.rows as u32).div_ceil(tile_columns), z: 1 };
            Dispatch::new(gpu, label, source, sizes, Some(step), product.bindings(gpu, input, part, None), grid)
        };
        let dispatch = launch(label, &source, tile_rows, tile_columns);
        // Rows with which large tiles do not make enough workgroups.
        let few = (matmul_workgroups - 1) / (part.rows as u32).div_ceil(64) * 64;
        match &few_rows {
            Some(source) if few > 0 => dispatch.with_few_rows(few as usize, launch("matmul_few_rows", source, 32, 32)),
            _ => dispatch,
        }
    });
    first.into_iter().chain(products).collect()
}

/// Prepares the product of row 0 of the input, after an RMS norm if `norm` is given: one launch for each slice of the weight, after one that
/// converts the input to 8 bits if the product takes it.
///
/// # Panics
/// If the norm has a bias and so is not an RMS norm.
pub fn matvec(gpu: &Gpu, product: Product<'_>, norm: Option<&Norm>) -> Vec<Dispatch> {
    product.check();
    assert!(norm.is_none_or(|norm| norm.bias.is_none()), "only an RMS norm can be fused");
    let Kernels { matvec_lanes, matvec_float_quarters, matvec_early_loads, .. } = gpu.kernels();
    let reductions = gpu.kernels().reductions(matvec_lanes);
    // With q4 the integers would take more instructions.
    let packed = product.packed(gpu, 1).filter(|_| !matches!(product.weight.scheme, Scheme::Q4 { .. }));
    let (label, source, fused) = if packed.is_some() {
        let kernel = unroll(wgsl!("matvec_packed.wgsl"), &[('r', 8)]);
        ("matvec_packed", product.source_of("u32", None, &format!("{reductions}{kernel}")), None)
    } else {
        let kernel = unroll(wgsl!("matvec.wgsl"), &[('i', 8), ('r', 8)]);
        let quarters = matvec_float_quarters && product.weight.scheme.group_size().is_none();
        let constants = format!("const QUARTERS: bool = {quarters};\nconst EARLY_LOADS: bool = {matvec_early_loads};\n");
        ("matvec", product.source(norm, &[&constants, &*reductions, &kernel].concat()), norm)
    };
    let input = packed.unwrap_or(&product.input.buffer);
    let first = packed.map(|packed| quantize(gpu, true, product.input, norm, packed));
    let products = product.weight.parts_from().map(|(first_row, part)| {
        let sizes = product.sizes(first_row, part.rows, fused);
        let grid = Grid::linear(part.rows.div_ceil(8) as u32);
        Dispatch::new(gpu, label, &source, sizes, None, product.bindings(gpu, input, part, fused), grid)
    });
    first.into_iter().chain(products).collect()
}
