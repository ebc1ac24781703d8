//! Small inputs with known results, to detect drivers that compute incorrectly.

use crate::attention::{self, Attention, Heads};
use crate::matmul::{self, Epilogue, Product};
use crate::norm::{self, Norm};
use crate::{Activation, Dispatch, Gpu, GpuError, StepBuffer, Temporary, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, decode_rows, encode_rows};

/// A kernel to check. A model checks only kernels that it uses, because the others would have to be compiled for the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// The product of many rows.
    Matmul(Scheme),
    /// The product of one row; true with a fused RMS norm.
    Matvec(Scheme, bool),
    /// Attention of many rows without a mask, for heads of this width, as many of the queries to one of the keys as `group`.
    Attention {
        /// Width of a head.
        head_dim: usize,
        /// Heads of the queries for each head of the keys.
        group: usize,
    },
    /// LayerNorm.
    Norm,
}

/// Difference between a kernel's results and the oracle's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Largest difference of two values; infinite if a result is not finite.
    pub worst: f32,
    /// Largest magnitude of the oracle's results.
    pub largest: f32,
}

// No multiple of a tile, a group or a vector.
const ROWS: usize = 5;
const COLS: usize = 154;
const OUT: usize = 46;
const HEADS: usize = 2;
const EPSILON: f32 = 1e-6;

/// Largest difference to a known result, relative to the largest result, with which a kernel counts as correct. It is chosen: on
/// lavapipe 8-bit activations cause 0.0033, f16 0.00103 and f32 2.2e-7 (printed by `every_kernel_set_gives_the_known_answers`). A kernel
/// that computes incorrectly causes differences of the order of 1.
pub const TOLERANCE: f32 = 0.05;

/// Runs a kernel and compares its results with the oracle's.
pub async fn difference(gpu: &Gpu, checked: &Checked) -> Result<Difference, GpuError> {
    let step = StepBuffer::new(gpu);
    step.write(gpu, ROWS, 0, ROWS);
    match *checked {
        Checked::Matmul(scheme) => product(gpu, &step, scheme, None).await,
        Checked::Matvec(scheme, normed) => product(gpu, &step, scheme, Some(normed)).await,
        Checked::Attention { head_dim, group } => {
            let shape = attention::oracle::Shape { heads: HEADS * group, kv_heads: HEADS, head_dim };
            let width = shape.heads * head_dim;
            let [q, k, v] = [(1, width), (2, HEADS * head_dim), (3, HEADS * head_dim)].map(|(seed, width)| noise(seed, ROWS * width));
            let [queries, keys, values] = [rows(gpu, ROWS, &q)?, rows(gpu, ROWS, &k)?, rows(gpu, ROWS, &v)?];
            let output = gpu.temporary("known answers", ROWS, width)?;
            let heads = |rows| Heads { rows, first_col: 0 };
            let launch = Attention {
                queries: heads(&queries),
                keys: heads(&keys).into(),
                values: heads(&values).into(),
                output: &output,
                heads: shape.heads,
                kv_heads: HEADS,
                head_dim,
                causal: false,
            };
            let want = attention::oracle::attention(&q, &k, &v, shape, None);
            compare(gpu, &[attention::attention(gpu, &step, launch)], &output, ROWS, &want).await
        }
        Checked::Norm => {
            let [x, weight, bias] = [(1, ROWS), (2, 1), (3, 1)].map(|(seed, rows)| noise(seed, rows * COLS));
            let (input, output) = (rows(gpu, ROWS, &x)?, gpu.temporary("known answers", ROWS, COLS)?);
            let (on_gpu, bias_on_gpu) = (rows(gpu, 1, &weight)?, rows(gpu, 1, &bias)?);
            let norm = Norm { weight: on_gpu.buffer.clone(), bias: Some(bias_on_gpu.buffer.clone()), epsilon: EPSILON };
            let want = norm::oracle::norm(&x, &weight, Some(&bias), EPSILON);
            compare(gpu, &[norm::norm(gpu, &step, &norm, &input, &output)], &output, ROWS, &want).await
        }
    }
}

/// Checks the product of many rows if `normed` is `None`, otherwise that of one row.
async fn product(gpu: &Gpu, step: &StepBuffer, scheme: Scheme, normed: Option<bool>) -> Result<Difference, GpuError> {
    let count = if normed.is_some() { 1 } else { ROWS };
    let EncodedRows { data, scales } = encode_rows(scheme, &noise(1, OUT * COLS), COLS);
    let decoded = decode_rows(scheme, &EncodedRows { data: data.clone(), scales: scales.clone() }, COLS);
    let on_gpu = [bytes(gpu, &data)?, bytes(gpu, &scales)?];
    let [data, codes_scales] = on_gpu.each_ref().map(|part| part.buffer.clone());
    let part = WeightPart { rows: OUT, data, scales: (!scales.is_empty()).then_some(codes_scales) };
    let weight = Weight { scheme, rows: OUT, cols: COLS, parts: vec![part] };
    let [x, b, factors] = [(2, count * COLS), (3, OUT), (4, COLS)].map(|(seed, count)| noise(seed, count));
    let (input, bias, output) = (rows(gpu, count, &x)?, rows(gpu, 1, &b)?, gpu.temporary("known answers", count, OUT)?);
    let product = Product { weight: &weight, bias: Some(&bias.buffer), input: &input, output: &output, epilogue: Epilogue::Gelu };
    let on_gpu = rows(gpu, 1, &factors)?;
    let norm = Norm { weight: on_gpu.buffer.clone(), bias: None, epsilon: EPSILON };
    let launches = match normed {
        None => matmul::matmul(gpu, step, product),
        Some(normed) => matmul::matvec(gpu, product, normed.then_some(&norm)),
    };
    let x = if normed == Some(true) { norm::oracle::norm(&x, &factors, None, EPSILON) } else { x };
    let mut want = vec![0.0; count * OUT];
    matmul::oracle::product(&x, &decoded, Some(&b), COLS, Epilogue::Gelu, &mut want);
    compare(gpu, &launches, &output, count, &want).await
}

async fn compare(gpu: &Gpu, launches: &[Dispatch], output: &Activation, rows: usize, want: &[f32]) -> Result<Difference, GpuError> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encode(&mut encoder, launches, rows);
    gpu.queue().submit([encoder.finish()]);
    let got = gpu.read_rows(output, rows).await?;
    let apart = |(got, want): (&f32, &f32)| if got.is_finite() { (got - want).abs() } else { f32::INFINITY };
    let worst = got.iter().zip(want).map(apart).fold(0.0, f32::max);
    Ok(Difference { worst, largest: want.iter().map(|want| want.abs()).fold(0.0, f32::max) })
}

fn rows(gpu: &Gpu, rows: usize, values: &[f32]) -> Result<Temporary, GpuError> {
    let activation = gpu.temporary("known answers", rows, values.len() / rows)?;
    gpu.write_rows(&activation, values);
    Ok(activation)
}

fn bytes(gpu: &Gpu, bytes: &[u8]) -> Result<Temporary, GpuError> {
    let held = gpu.temporary("known answers", 1, bytes.len().div_ceil(4).max(1))?;
    gpu.queue().write_buffer(&held.buffer, 0, bytes);
    Ok(held)
}

/// Returns repeatable numbers from −1 to 1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}
