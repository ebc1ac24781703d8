//! Which variants of the kernels a device runs.

use crate::matmul::{Epilogue, Product, matmul, matvec};
use crate::{Gpu, GpuError, StepBuffer, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use std::{fmt, str::FromStr};
use web_time::Instant;

/// Variants of the kernels. All but [`Self::packed`] compute the same but for the order of sums; which is fastest differs by adapter: a GPU
/// wants many small invocations, an adapter that runs on the CPU few large ones, as each costs it a context of its own.
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
    /// Products of many rows with quantized weights round activations to 8 bits, in blocks of 32, for packed integer products.
    pub packed: bool,
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
        packed: false,
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
        packed: false,
    };
    /// What suits GPUs with packed integer products, where results may change a little.
    pub const PACKED: Self = Self { packed: true, ..Self::PLAIN };
}

impl Default for Kernels {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "plain" => Ok(Self::PLAIN),
            "cpu" => Ok(Self::CPU),
            "packed" => Ok(Self::PACKED),
            _ => Err(format!("`{name}` is no set of kernels, expected plain, cpu or packed")),
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quarters = if self.matvec_float_quarters { " (floats by quarters of a block)" } else { "" };
        write!(f, "matvec of {} lanes{quarters}, matmul ", self.matvec_lanes)?;
        match self.matmul_registers {
            _ if self.packed => write!(f, "with 8-bit activations")?,
            None => write!(f, "of staged tiles")?,
            Some([rows, columns]) => write!(f, "of {rows} x {columns} an invocation")?,
        }
        let heads = if self.attention_of_any_width { " and heads of any width" } else { "" };
        let Self { attention_rows, decode_lanes, argmax_lanes, .. } = self;
        write!(f, ", attention of {attention_rows} rows{heads}, or of one by {decode_lanes} lanes, argmax of {argmax_lanes} lanes")
    }
}

/// Where a launch takes less, a submission is several, so that the cost of submitting counts little.
const SUBMISSION_MILLIS: f64 = 4.0;
/// Rounds in which every variant has its turn; the best counts.
const ROUNDS: usize = 3;

/// Measures the variants on small products. The product of one row, which compiles fast, tells GPUs from adapters that run on the CPU.
pub(crate) async fn fastest(gpu: &mut Gpu, packed: bool) -> Result<Kernels, GpuError> {
    let kernels = fastest_of(gpu, &[Kernels::PLAIN, Kernels::CPU], Shape { rows: 1, cols: 1024, out: 512 }).await?;
    if !packed {
        return Ok(kernels);
    }
    fastest_of(gpu, &[kernels, Kernels { packed, ..kernels }], Shape { rows: 64, cols: 512, out: 256 }).await
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
    let run = async |variant: usize, launches: usize| -> Result<f64, GpuError> {
        let started = Instant::now();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, (0..launches).flat_map(|_| &prepared[variant]), rows);
        gpu.queue().submit([encoder.finish()]);
        gpu.read(&output.buffer, 0, 4).await?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    // The first launch of each compiles.
    for variant in 0..variants.len() {
        run(variant, 1).await?;
    }
    let launches = (SUBMISSION_MILLIS / run(0, 1).await?.max(0.01)).clamp(1.0, 32.0) as usize;
    let mut best = (f64::INFINITY, 0);
    for _ in 0..ROUNDS {
        for variant in 0..variants.len() {
            let millis = run(variant, launches).await?;
            if millis < best.0 {
                best = (millis, variant);
            }
        }
    }
    Ok(variants[best.1])
}
