//! Which variants of the kernels a device runs.

use crate::matmul::{Epilogue, Product, matmul, matvec};
use crate::wgsl::wgsl;
use crate::{Gpu, GpuError, StepBuffer, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use std::{fmt, str::FromStr};
use web_time::Instant;

/// What the products of many rows round their activations to. Their sums are f32 all the same, and so is everything outside of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Precision {
    /// Nothing is rounded.
    #[default]
    F32,
    /// Halves, the weights too, and sums of eight products.
    F16,
    /// 8 bits in blocks of 32; weights that are not quantized stay with [`Self::F32`].
    Q8,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            _ => Err(format!("`{name}` is no precision, expected f32, f16 or q8")),
        }
    }
}

/// Variants of the kernels. All compute the same but for the order of sums, unless [`Self::precision`] rounds; which is fastest differs by
/// adapter: a GPU wants many small invocations, an adapter that runs on the CPU few large ones, as each costs it a context of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    /// Invocations of a workgroup in the product of one row: a power of two from 4 to 256.
    pub matvec_lanes: u32,
    /// Whether the product of one row takes f16 and f32 weights in a loop over quarters of a block: a third of the code, and of the time to
    /// compile it, for a seventh more time to run. (Blocks of codes compile faster, and would run a fourth longer.)
    pub matvec_float_quarters: bool,
    /// Rows and columns that an invocation of the product of many rows computes from weights that it decodes itself; columns are a multiple
    /// of 4. `None` stages decoded weights for 64 invocations in workgroup memory.
    pub matmul_registers: Option<[u32; 2]>,
    /// Rows that a workgroup of the attention of many rows computes, an invocation each: a multiple of 8 up to 64.
    pub attention_rows: u32,
    /// Whether one kernel does the attention of many rows for heads of any width: one thing less to compile.
    pub attention_of_any_width: bool,
    /// Invocations of a workgroup in the attention of one row: a power of two from 32 to 256.
    pub decode_lanes: u32,
    /// Invocations of the only workgroup of argmax: a power of two up to 256.
    pub argmax_lanes: u32,
    /// Whether what a workgroup sums goes through subgroups, in the kernels of decoding and in norms. Takes the adapter's feature.
    pub subgroups: bool,
    /// What the products of many rows compute in. [`Precision::F16`] takes the adapter's `shader-f16`.
    pub precision: Precision,
}

impl Kernels {
    /// What suits GPUs, and the choice where nothing is known.
    pub const PLAIN: Self = Self {
        matvec_lanes: 64,
        matvec_float_quarters: false,
        matmul_registers: None,
        attention_rows: 64,
        attention_of_any_width: false,
        decode_lanes: 128,
        argmax_lanes: 256,
        subgroups: false,
        precision: Precision::F32,
    };
    /// What suits adapters that run on the CPU: few large invocations, and little code and workgroup memory, as SwiftShader compiles long,
    /// also to clear that memory.
    pub const CPU: Self = Self {
        matvec_lanes: 8,
        matvec_float_quarters: true,
        matmul_registers: Some([16, 16]),
        attention_rows: 16,
        attention_of_any_width: true,
        decode_lanes: 32,
        argmax_lanes: 32,
        subgroups: false,
        precision: Precision::F32,
    };
    /// What suits GPUs with subgroups.
    pub const SUBGROUPS: Self = Self { subgroups: true, ..Self::PLAIN };
    /// What suits GPUs that compute fast in halves, where results may change a little.
    pub const F16: Self = Self { precision: Precision::F16, ..Self::PLAIN };
    /// What suits GPUs with packed integer products, where results may change a little more.
    pub const PACKED: Self = Self { precision: Precision::Q8, ..Self::PLAIN };

    /// The sets by the names that options give them.
    const NAMED: [(&str, Self); 5] =
        [("plain", Self::PLAIN), ("cpu", Self::CPU), ("subgroups", Self::SUBGROUPS), ("f16", Self::F16), ("packed", Self::PACKED)];

    /// What a shader for these kernels begins with.
    pub(crate) fn enables(self) -> String {
        let mut enables = String::new();
        if self.precision == Precision::F16 {
            enables += "enable f16;\n";
        }
        // What compiles shaders natively has subgroups without it, and does not know the line.
        if self.subgroups && cfg!(target_arch = "wasm32") {
            enables += "enable subgroups;\n";
        }
        enables
    }

    /// WGSL of `Lane`, what an invocation knows of its place, and of what a workgroup of `lanes` has together: sums and maxima.
    pub(crate) fn reductions(self, lanes: u32) -> String {
        let source = if self.subgroups { wgsl!("reduce_subgroups.wgsl") } else { wgsl!("reduce_tree.wgsl") };
        format!("const LANES: u32 = {lanes}u;\n{}{source}", wgsl!("reduce.wgsl"))
    }
}

impl Default for Kernels {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::NAMED.into_iter().find(|(known, _)| *known == name);
        named.map(|(_, kernels)| kernels).ok_or_else(|| {
            let names = Self::NAMED.map(|(known, _)| known).join(", ");
            format!("`{name}` is no set of kernels, expected one of {names}")
        })
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quarters = if self.matvec_float_quarters { " (floats by quarters of a block)" } else { "" };
        write!(f, "matvec of {} lanes{quarters}, matmul ", self.matvec_lanes)?;
        match (self.precision, self.matmul_registers) {
            (Precision::Q8, _) => write!(f, "with 8-bit activations")?,
            (Precision::F16, _) => write!(f, "in halves")?,
            (Precision::F32, None) => write!(f, "of staged tiles")?,
            (Precision::F32, Some([rows, columns])) => write!(f, "of {rows} x {columns} an invocation")?,
        }
        let heads = if self.attention_of_any_width { " and heads of any width" } else { "" };
        let Self { attention_rows, decode_lanes, argmax_lanes, .. } = self;
        write!(f, ", attention of {attention_rows} rows{heads}, or of one by {decode_lanes} lanes, argmax of {argmax_lanes} lanes")?;
        if self.subgroups { write!(f, ", subgroups") } else { Ok(()) }
    }
}

/// Where a launch takes less, a submission is several, so that the cost of submitting counts little.
const SUBMISSION_MILLIS: f64 = 4.0;
/// Rounds in which every variant has its turn; the best counts.
const ROUNDS: usize = 3;

/// Measures the variants that the device has, on small products. The product of one row, which compiles fast, tells GPUs from adapters that
/// run on the CPU; those are spared the others, which would have to be compiled.
///
/// `coarsest` is how far activations may be rounded.
pub(crate) async fn fastest(gpu: &mut Gpu, coarsest: Precision) -> Result<Kernels, GpuError> {
    let mut kernels = fastest_of(gpu, &[Kernels::PLAIN, Kernels::CPU], Shape { rows: 1, cols: 1024, out: 512 }).await?;
    if kernels == Kernels::PLAIN && gpu.has_subgroups() {
        kernels = fastest_of(gpu, &[kernels, Kernels::SUBGROUPS], Shape { rows: 1, cols: 4096, out: 4096 }).await?;
    }
    let mut precisions = vec![Precision::F32, Precision::F16, Precision::Q8];
    precisions.retain(|precision| *precision <= coarsest && (*precision != Precision::F16 || gpu.has_f16()));
    if precisions.len() == 1 {
        return Ok(kernels);
    }
    let variants: Vec<_> = precisions.into_iter().map(|precision| Kernels { precision, ..kernels }).collect();
    fastest_of(gpu, &variants, Shape { rows: 64, cols: 512, out: 256 }).await
}

/// A product that is large enough to tell variants apart, and small enough for an adapter that does a thousandth of a GPU.
struct Shape {
    rows: usize,
    cols: usize,
    out: usize,
}

/// The variant whose product of this shape takes the least time.
async fn fastest_of(gpu: &mut Gpu, variants: &[Kernels], Shape { rows, cols, out }: Shape) -> Result<Kernels, GpuError> {
    // Zeros: kernels take the same time whatever the numbers are.
    let scheme = Scheme::Q4 { group_size: 32 };
    let (data, scales) = (gpu.temporary("choice", out, cols / 8)?, gpu.temporary("choice", out, cols / 64)?);
    let (input, output) = (gpu.temporary("choice", rows, cols)?, gpu.temporary("choice", rows, out)?);
    let part = WeightPart { rows: out, data: data.buffer.clone(), scales: Some(scales.buffer.clone()) };
    let weight = Weight { scheme, rows: out, cols, parts: vec![part] };
    let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue: Epilogue::Store };
    let step = StepBuffer::new(gpu);
    step.write(gpu, rows, 0, rows);

    let mut prepared = Vec::with_capacity(variants.len());
    for kernels in variants {
        gpu.set_kernels(*kernels);
        prepared.push(if rows == 1 { matvec(gpu, product, None) } else { matmul(gpu, &step, product) });
    }
    let launch = |variant: usize, launches: usize| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, (0..launches).flat_map(|_| &prepared[variant]), rows);
        gpu.queue().submit([encoder.finish()]);
    };
    let run = async |variant: usize, launches: usize| -> Result<f64, GpuError> {
        let started = Instant::now();
        launch(variant, launches);
        gpu.read(&output.buffer, 0, 4).await?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    // The first launch of each compiles. What a driver refuses in spite of its features is left out; the first variant takes none.
    let mut taken = Vec::with_capacity(variants.len());
    for variant in 0..variants.len() {
        let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
        launch(variant, 1);
        match scope.pop().await {
            None => taken.push(variant),
            Some(error) if variant == 0 => return Err(GpuError::Validation { message: error.to_string() }),
            Some(_) => {}
        }
        gpu.read(&output.buffer, 0, 4).await?;
    }
    let launches = (SUBMISSION_MILLIS / run(0, 1).await?.max(0.01)).clamp(1.0, 32.0) as usize;
    let mut best = (f64::INFINITY, 0);
    for _ in 0..ROUNDS {
        for &variant in &taken {
            let millis = run(variant, launches).await?;
            if millis < best.0 {
                best = (millis, variant);
            }
        }
    }
    Ok(variants[best.1])
}
