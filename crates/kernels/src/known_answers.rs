//! Small inputs with known results, to detect drivers that compute incorrectly.

use crate::attention::oracle::Shape;
use crate::attention::{self, Attention, Heads, Span};
use crate::matmul::{self, Epilogue, Product};
use crate::norm::{self, Norm};
use crate::rotary::{self, HeadNorms, PositionTables};
use crate::taps::{self, Taps};
use crate::{Activation, Dispatch, Gpu, GpuError, KvCache, KvFormat, StepBuffer, Temporary, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, decode_rows, encode_rows};

/// A kernel to check. A model checks only kernels that it uses, because the others would have to be compiled for the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// The product of many rows.
    Matmul {
        /// Scheme of the weight.
        scheme: Scheme,
        /// Operation before the result is stored.
        epilogue: Epilogue,
        /// See [`Product::exact`].
        exact: bool,
    },
    /// The product of one row; true with a fused RMS norm.
    Matvec(Scheme, bool),
    /// Attention of many rows that is not causal; `group` query heads share one key head.
    Attention {
        /// Width of a head.
        head_dim: usize,
        /// Heads of the queries for each head of the keys.
        group: usize,
        /// True if rows attend to their segments, false if to all keys.
        segments: bool,
    },
    /// LayerNorm.
    Norm,
    /// Rotary embedding with the write to the KV cache.
    Rotary {
        /// Heads of the queries and of the keys, and their width.
        shape: Shape,
        /// Format of the cache.
        kv: KvFormat,
        /// True with norms of the heads.
        norms: bool,
        /// True with log-n scaling.
        logn: bool,
    },
    /// Rotary embedding in place, for heads of this width.
    RotaryRows(usize),
    /// The resampling of a table by four taps.
    Taps,
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
/// Rows of the first of two segments.
const SEGMENT: usize = 2;
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
        Checked::Matmul { scheme, epilogue, exact } => product(gpu, &step, scheme, epilogue, Rows::Many { exact }).await,
        Checked::Matvec(scheme, normed) => product(gpu, &step, scheme, Epilogue::Gelu, Rows::One { normed }).await,
        Checked::Attention { head_dim, group, segments } => {
            let shape = Shape { heads: HEADS * group, kv_heads: HEADS, head_dim };
            let width = shape.heads * head_dim;
            let [q, k, v] = [(1, width), (2, HEADS * head_dim), (3, HEADS * head_dim)].map(|(seed, width)| noise(seed, ROWS * width));
            let [queries, keys, values] = [rows(gpu, ROWS, &q)?, rows(gpu, ROWS, &k)?, rows(gpu, ROWS, &v)?];
            let output = gpu.temporary("known answers", ROWS, width)?;
            let span = |row: usize| match row {
                _ if !segments => 0..ROWS,
                0..SEGMENT => 0..SEGMENT,
                _ => SEGMENT..ROWS,
            };
            let words: Vec<u32> = (0..ROWS).map(span).flat_map(|span| [span.start as u32, span.end as u32]).collect();
            let spans = bytes(gpu, bytemuck::cast_slice(&words))?;
            let heads = |rows| Heads { rows, first_col: 0 };
            let launch = Attention {
                queries: heads(&queries),
                keys: heads(&keys).into(),
                values: heads(&values).into(),
                output: &output,
                heads: shape.heads,
                kv_heads: HEADS,
                head_dim,
                span: if segments { Span::Segments(&spans.buffer) } else { Span::All },
            };
            let want = attention::oracle::attention(&q, &k, &v, shape, span);
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
        Checked::Rotary { shape, kv, norms, logn } => rotated(gpu, &step, shape, kv, norms, logn).await,
        Checked::RotaryRows(head_dim) => {
            let (width, angles) = (HEADS * head_dim, angles(head_dim));
            let mut want = noise(1, ROWS * 3 * width);
            let (qkv, table) = (rows(gpu, ROWS, &want)?, bytes(gpu, bytemuck::cast_slice(&angles))?);
            for (row, angles) in want.chunks_exact_mut(3 * width).zip(angles.chunks_exact(head_dim / 2)) {
                rotary::oracle::rotate(&mut row[..2 * width], angles, 1.0);
            }
            compare(gpu, &[rotary::rotary_rows(gpu, &step, &table.buffer, &qkv, HEADS)], &qkv, ROWS, &want).await
        }
        Checked::Taps => {
            let (table, mut want) = (noise(1, OUT * COLS), noise(2, ROWS * COLS));
            let indices: Vec<[u32; 4]> = (0..ROWS as u32).map(|row| [0, 1, 8, 9].map(|step| row + step)).collect();
            let weights: Vec<[f32; 4]> = noise(3, ROWS * 4).as_chunks().0.to_vec();
            let (on_gpu, output) = (rows(gpu, OUT, &table)?, rows(gpu, ROWS, &want)?);
            let [at, by] = [bytes(gpu, bytemuck::cast_slice(&indices))?, bytes(gpu, bytemuck::cast_slice(&weights))?];
            let taps = Taps { indices: at.buffer.clone(), weights: by.buffer.clone() };
            taps::oracle::add_taps(&table, COLS, &indices, &weights, &mut want);
            compare(gpu, &[taps::add_taps(gpu, &step, &on_gpu, &taps, &output)], &output, ROWS, &want).await
        }
    }
}

async fn rotated(gpu: &Gpu, step: &StepBuffer, shape: Shape, kv: KvFormat, norms: bool, logn: bool) -> Result<Difference, GpuError> {
    let Shape { heads, kv_heads, head_dim } = shape;
    let (width, kv_width, angles) = (heads * head_dim, kv_heads * head_dim, angles(head_dim));
    let [x, q_weight, k_weight, factors] =
        [(1, ROWS * (width + 2 * kv_width)), (2, head_dim), (3, head_dim), (4, ROWS)].map(|(seed, count)| noise(seed, count));
    let (qkv, table) = (rows(gpu, ROWS, &x)?, bytes(gpu, bytemuck::cast_slice(&angles))?);
    let [q_on_gpu, k_on_gpu, factors_on_gpu] = [rows(gpu, 1, &q_weight)?, rows(gpu, 1, &k_weight)?, rows(gpu, 1, &factors)?];
    let words = || gpu.temporary("known answers", 1, (KvCache::size(ROWS, kv_heads, head_dim, kv) / 4) as usize);
    let held = [words()?, words()?];
    let [keys, values] = held.each_ref().map(|held| KvCache { buffer: held.buffer.clone(), heads: kv_heads, head_dim, format: kv });
    let tables = PositionTables { angles: table.buffer.clone(), logn: logn.then(|| factors_on_gpu.buffer.clone()) };
    let head_norms = HeadNorms { queries: q_on_gpu.buffer.clone(), keys: k_on_gpu.buffer.clone(), epsilon: EPSILON };
    submit(gpu, &[rotary::rotary(gpu, step, &tables, norms.then_some(&head_norms), &qkv, &keys, &values)], ROWS);
    let after = gpu.read_rows(&qkv, ROWS).await?;
    let queries = after.chunks_exact(width + 2 * kv_width).flat_map(|row| &row[..width]);
    let got = [queries.copied().collect(), keys.read(gpu, ROWS).await?, values.read(gpu, ROWS).await?].concat();

    let normed = |heads: &[f32], weight| if norms { norm::oracle::norm(heads, weight, None, EPSILON) } else { heads.to_vec() };
    let mut want = [Vec::new(), Vec::new(), Vec::new()];
    for (row, x) in x.chunks_exact(width + 2 * kv_width).enumerate() {
        let angles = &angles[row * head_dim / 2..][..head_dim / 2];
        let (mut q, mut k) = (normed(&x[..width], &q_weight), normed(&x[width..][..kv_width], &k_weight));
        rotary::oracle::rotate(&mut q, angles, if logn { factors[row] } else { 1.0 });
        rotary::oracle::rotate(&mut k, angles, 1.0);
        want[0].extend(q);
        want[1].extend(k);
        want[2].extend(&x[width + kv_width..]);
    }
    Ok(apart(&got, &want.concat()))
}

/// Returns `(cos, sin)` of arbitrary angles, `[ROWS, head_dim / 2]`.
fn angles(head_dim: usize) -> Vec<[f32; 2]> {
    noise(9, ROWS * head_dim / 2).into_iter().map(|x| [(4.0 * x).cos(), (4.0 * x).sin()]).collect()
}

/// The two products.
#[derive(Clone, Copy)]
enum Rows {
    Many { exact: bool },
    One { normed: bool },
}

async fn product(gpu: &Gpu, step: &StepBuffer, scheme: Scheme, epilogue: Epilogue, kind: Rows) -> Result<Difference, GpuError> {
    let (count, exact, normed) = match kind {
        Rows::Many { exact } => (ROWS, exact, false),
        Rows::One { normed } => (1, false, normed),
    };
    let stored = if epilogue == Epilogue::SwiGlu { OUT / 2 } else { OUT };
    let EncodedRows { data, scales } = encode_rows(scheme, &noise(1, OUT * COLS), COLS);
    let decoded = decode_rows(scheme, &EncodedRows { data: data.clone(), scales: scales.clone() }, COLS);
    let on_gpu = [bytes(gpu, &data)?, bytes(gpu, &scales)?];
    let [data, codes_scales] = on_gpu.each_ref().map(|part| part.buffer.clone());
    let part = WeightPart { rows: OUT, data, scales: (!scales.is_empty()).then_some(codes_scales) };
    let weight = Weight { scheme, rows: OUT, cols: COLS, parts: vec![part] };
    let [x, b, factors] = [(2, count * COLS), (3, OUT), (4, COLS)].map(|(seed, count)| noise(seed, count));
    let (input, bias, output) = (rows(gpu, count, &x)?, rows(gpu, 1, &b)?, gpu.temporary("known answers", count, stored)?);
    let packed = bytes(gpu, &vec![0; matmul::packed_bytes(count, COLS) as usize])?;
    let packed = Some(&packed.buffer);
    let product = Product { weight: &weight, bias: Some(&bias.buffer), input: &input, output: &output, epilogue, exact, packed };
    let on_gpu = rows(gpu, 1, &factors)?;
    let norm = Norm { weight: on_gpu.buffer.clone(), bias: None, epsilon: EPSILON };
    let launches = match kind {
        Rows::Many { .. } => matmul::matmul(gpu, step, product),
        Rows::One { normed } => matmul::matvec(gpu, product, normed.then_some(&norm)),
    };
    let x = if normed { norm::oracle::norm(&x, &factors, None, EPSILON) } else { x };
    let mut want = vec![0.0; count * stored];
    matmul::oracle::product(&x, &decoded, Some(&b), COLS, epilogue, &mut want);
    let few_rows = compare(gpu, &launches, &output, count, &want).await?;
    gpu.write_rows(&output, &vec![0.0; count * stored]);
    let launches: Vec<Dispatch> = launches.into_iter().filter_map(Dispatch::without_few_rows).collect();
    let many_rows = if launches.is_empty() { few_rows } else { compare(gpu, &launches, &output, count, &want).await? };
    Ok(if many_rows.worst > few_rows.worst { many_rows } else { few_rows })
}

async fn compare(gpu: &Gpu, launches: &[Dispatch], output: &Activation, rows: usize, want: &[f32]) -> Result<Difference, GpuError> {
    submit(gpu, launches, rows);
    Ok(apart(&gpu.read_rows(output, rows).await?, want))
}

fn submit(gpu: &Gpu, launches: &[Dispatch], rows: usize) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encode(&mut encoder, launches, rows);
    gpu.queue().submit([encoder.finish()]);
}

fn apart(got: &[f32], want: &[f32]) -> Difference {
    let apart = |(got, want): (&f32, &f32)| if got.is_finite() { (got - want).abs() } else { f32::INFINITY };
    let worst = got.iter().zip(want).map(apart).fold(0.0, f32::max);
    Difference { worst, largest: want.iter().map(|want| want.abs()).fold(0.0, f32::max) }
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
