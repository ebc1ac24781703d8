//! Times of the kernels at the shapes of the published model, and the same launches as plain data for other programs.
//!
//! Weights and inputs are zeros: the time of a kernel does not depend on the values. A draw's does, so its logits are like those of a trained
//! model.

use super::Timer;
use crate::argmax::{Best, argmax};
use crate::attention::{Attention, Heads, SPLIT_KEYS, Span, attention, attention_decode, attention_split, split_bytes};
use crate::matmul::{Epilogue, Product, matmul, matvec, packed_bytes};
use crate::sample::{Draw, DrawBuffer, Scratch, sample};
use crate::{Activation, Dispatch, Gpu, GpuError, Launch, Weight};
use qwen_vl_format::{MAX_PART_BYTES, PART_ROW_ALIGN, Scheme};
use serde::Serialize;

/// Scheme of the weights.
const SCHEME: Scheme = Scheme::Q4Z { group_size: 32 };
/// Approximate duration of a submission, in milliseconds.
const SAMPLE_MILLIS: f64 = 60.0;

/// The measurement of one case.
#[derive(Debug, Clone, Serialize)]
pub struct KernelTime {
    /// Name of the case.
    pub name: String,
    /// Median time of one run, in milliseconds.
    pub millis: f64,
    /// Operations; a multiply-add counts as two.
    pub gflop_per_second: f64,
    /// Weights, keys and values read.
    pub gigabytes_per_second: f64,
}

/// The work of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shape {
    /// `[rows, cols]` times a 4-bit weight `[out, cols]`: of prefill if there is more than one row, otherwise of decoding.
    Product {
        /// Rows of the input.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Output features.
        out: usize,
        /// Applied before the result is stored.
        #[serde(skip)]
        epilogue: Epilogue,
    },
    /// `rows` queries at the last of `keys` positions.
    Attention {
        /// Queries.
        rows: usize,
        /// Keys.
        keys: usize,
        /// Heads of the queries.
        heads: usize,
        /// Heads of the keys and values.
        kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
        /// True if a query attends only to the keys up to its own position.
        causal: bool,
    },
    /// The most likely of `vocab` tokens.
    Argmax {
        /// Logits.
        vocab: usize,
    },
    /// A token drawn by top-k and top-p at temperature 1, with the argmax that comes before it.
    Draw {
        /// Logits.
        vocab: usize,
        /// See [`Draw::top_k`].
        top_k: u32,
        /// [`Draw::top_p`] in percent.
        top_p_percent: u32,
    },
}

/// A case as plain data, for a program with its own WebGPU device.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedCase {
    /// Name of the case, as in [`KernelTime`].
    pub name: String,
    /// Its work.
    pub shape: Shape,
    /// Words of the step uniform.
    pub step: [u32; 4],
    /// Its launches, in order.
    pub launches: Vec<Launch>,
}

/// Returns every case whose name contains `only`, with its name.
fn cases(only: &str) -> Vec<(String, Shape)> {
    let mut cases = Vec::new();
    for (name, cols, out, epilogue) in [
        ("4096 → 4096", 4096, 4096, Epilogue::Accumulate),
        ("qkv, 4096 → 12288", 4096, 12_288, Epilogue::Store),
        ("4096 → 11008", 4096, 11_008, Epilogue::Store),
        ("gate and up, 4096 → 2 × 11008", 4096, 22_016, Epilogue::SwiGlu),
        ("down, 11008 → 4096", 11_008, 4096, Epilogue::Accumulate),
        ("head, 4096 → 151936", 4096, 151_936, Epilogue::Store),
    ] {
        cases.push((format!("decode: {name}"), Shape::Product { rows: 1, cols, out, epilogue }));
    }
    let attention = |rows, keys, heads, head_dim, causal| Shape::Attention { rows, keys, heads, kv_heads: heads, head_dim, causal };
    let shared = |rows, keys, heads, kv_heads| Shape::Attention { rows, keys, heads, kv_heads, head_dim: 128, causal: true };
    for keys in [512, 1023, 2048] {
        cases.push((format!("decode: attention over {keys}, 32 heads of 128"), attention(1, keys, 32, 128, true)));
        for (heads, kv_heads) in [(16, 8), (28, 4)] {
            cases.push((format!("decode: attention over {keys}, {heads} heads of 128 on {kv_heads}"), shared(1, keys, heads, kv_heads)));
        }
    }
    let vocab = 151_936;
    cases.push((format!("decode: argmax of {vocab}"), Shape::Argmax { vocab }));
    for (name, top_k, top_p_percent) in [("all tokens", 0, 100), ("top-p 0.9", 0, 90), ("top-k 20 and top-p 0.8", 20, 80)] {
        cases.push((format!("decode: draw from {vocab}, {name}"), Shape::Draw { vocab, top_k, top_p_percent }));
    }
    for rows in [64, 128, 512] {
        let shape = Shape::Product { rows, cols: 4096, out: 4096, epilogue: Epilogue::Accumulate };
        cases.push((format!("prefill: {rows} × 4096 → 4096"), shape));
    }
    for rows in [128, 320] {
        cases.push((format!("prefill: attention, {rows} causal, 32 heads of 128"), attention(rows, rows, 32, 128, true)));
        for (heads, kv_heads) in [(16, 8), (28, 4)] {
            cases.push((
                format!("prefill: attention, {rows} causal, {heads} heads of 128 on {kv_heads}"),
                shared(rows, rows, heads, kv_heads),
            ));
        }
    }
    let fc1 = Shape::Product { rows: 1024, cols: 1664, out: 8192, epilogue: Epilogue::Gelu };
    cases.push(("vision: fc1, 1024 × 1664 → 8192".to_owned(), fc1));
    for rows in [256, 1024] {
        cases.push((format!("vision: attention, {rows}, 16 heads of 104"), attention(rows, rows, 16, 104, false)));
    }
    cases.retain(|(name, _)| name.contains(only));
    cases
}

/// Times the cases whose names contain `only`; calls `on_time` after each.
pub async fn run(gpu: &Gpu, only: &str, on_time: &mut dyn FnMut(&KernelTime)) -> Result<Vec<KernelTime>, GpuError> {
    let timer = Timer::new(gpu)?;
    let mut times = Vec::new();
    for (name, shape) in cases(only) {
        let launches = prepare(&timer, shape)?;
        let time = measure(&timer, name, shape, &launches).await?;
        on_time(&time);
        times.push(time);
    }
    Ok(times)
}

/// Returns the cases whose names contain `only` as plain data, without the draws: another program would have to know their logits.
pub fn export(gpu: &Gpu, only: &str) -> Result<Vec<ExportedCase>, GpuError> {
    let timer = Timer::new(gpu)?;
    let export = |(name, shape): (String, Shape)| {
        let launches = prepare(&timer, shape)?.iter().map(|launch| launch.describe(shape.rows())).collect();
        Ok(ExportedCase { name, shape, step: shape.step().map(|word| word as u32), launches })
    };
    cases(only).into_iter().filter(|(_, shape)| !matches!(shape, Shape::Draw { .. })).map(export).collect()
}

impl Shape {
    fn rows(&self) -> usize {
        match *self {
            Self::Product { rows, .. } | Self::Attention { rows, .. } => rows,
            Self::Argmax { .. } | Self::Draw { .. } => 1,
        }
    }

    /// Returns rows, start, keys and the padding word.
    fn step(&self) -> [usize; 4] {
        match *self {
            Self::Product { rows, .. } => [rows, 0, rows, 0],
            Self::Attention { rows, keys, .. } => [rows, keys - rows, keys, 0],
            Self::Argmax { .. } | Self::Draw { .. } => [1, 0, 1, 0],
        }
    }

    /// Returns the number of operations; a multiply-add counts as two, a logit that is read as one.
    fn flop(&self) -> f64 {
        match *self {
            Self::Product { rows, cols, out, .. } => 2.0 * (rows * cols * out) as f64,
            Self::Attention { rows, keys, heads, head_dim, causal, .. } => {
                // Half of the pairs if causal: a position attends to those before it and to itself.
                let pairs = if causal && rows == keys { rows * (rows + 1) / 2 } else { rows * keys };
                4.0 * (pairs * heads * head_dim) as f64
            }
            Self::Argmax { .. } | Self::Draw { .. } => self.bytes() / 4.0,
        }
    }

    /// Returns the bytes of weights, keys and values, or of logits: argmax reads them once, a draw once or twice more.
    fn bytes(&self) -> f64 {
        match *self {
            Self::Product { cols, out, .. } => (out * (SCHEME.row_data_bytes(cols) + SCHEME.row_scale_bytes(cols))) as f64,
            Self::Attention { keys, kv_heads, head_dim, .. } => (2 * keys * kv_heads * head_dim * 4) as f64,
            Self::Argmax { vocab } => (vocab * 4) as f64,
            Self::Draw { vocab, top_k, top_p_percent } => {
                let passes = if top_k == 0 && top_p_percent == 100 { 2 } else { 3 };
                (passes * vocab * 4) as f64
            }
        }
    }
}

fn prepare(timer: &Timer<'_>, shape: Shape) -> Result<Vec<Dispatch>, GpuError> {
    let (gpu, step) = (timer.gpu, &timer.step);
    let [rows, start, keys, _] = shape.step();
    step.write(gpu, rows, start, keys);
    match shape {
        Shape::Product { rows, cols, out, epilogue } => {
            let part = (MAX_PART_BYTES as usize / SCHEME.row_data_bytes(cols) / PART_ROW_ALIGN * PART_ROW_ALIGN).min(out);
            let part_rows: Vec<usize> = (0..out).step_by(part).map(|first| part.min(out - first)).collect();
            let weight = Weight::allocate(gpu, "timing.weight", SCHEME, cols, &part_rows)?;
            let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
            let input = gpu.activation("timing.input", rows, cols)?;
            let output = gpu.activation("timing.output", rows, stored)?;
            let packed = gpu.storage("timing.packed", packed_bytes(rows, cols))?;
            let product =
                Product { weight: &weight, bias: None, input: &input, output: &output, epilogue, exact: false, packed: Some(&packed) };
            Ok(if rows == 1 { matvec(gpu, product, None) } else { matmul(gpu, step, product) })
        }
        Shape::Attention { rows, keys, heads, kv_heads, head_dim, causal } => {
            let buffer = |rows, heads| gpu.activation("timing.attention", rows, heads * head_dim);
            let (q, k, v, output) = (buffer(rows, heads)?, buffer(keys, kv_heads)?, buffer(keys, kv_heads)?, buffer(rows, heads)?);
            let of = |rows| Heads { rows, first_col: 0 };
            let (queries, keys_at, values) = (of(&q), of(&k).into(), of(&v).into());
            let span = if causal { Span::Causal } else { Span::All };
            let launch = Attention { queries, keys: keys_at, values, output: &output, heads, kv_heads, head_dim, span };
            Ok(match rows {
                1 if keys >= SPLIT_KEYS => {
                    let partial = gpu.storage("timing.partial", split_bytes(heads, head_dim))?;
                    attention_split(gpu, step, launch, &partial).into()
                }
                1 => vec![attention_decode(gpu, step, launch)],
                _ => vec![attention(gpu, step, launch)],
            })
        }
        Shape::Argmax { vocab } => Ok(argmax(gpu, &logits(gpu, vocab)?, &Best::new(gpu)?, &gpu.storage("timing.token", 4)?).into()),
        Shape::Draw { vocab, top_k, top_p_percent } => {
            let (logits, best, token) = (logits(gpu, vocab)?, Best::new(gpu)?, gpu.storage("timing.token", 4)?);
            let draw = DrawBuffer::new(gpu);
            draw.write(gpu, Draw { temperature: 1.0, top_p: top_p_percent as f32 / 100.0, top_k, random: 0.5 });
            let launches = sample(gpu, &logits, &best, &Scratch::new(gpu, vocab)?, &draw, &token);
            Ok(argmax(gpu, &logits, &best, &token).into_iter().chain(launches).collect())
        }
    }
}

/// Returns logits of which most are close together and thirty are far above.
fn logits(gpu: &Gpu, vocab: usize) -> Result<Activation, GpuError> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut values: Vec<f32> = (0..vocab).map(|_| 5.0 * random.f32() - 2.5).collect();
    for (i, value) in values.iter_mut().step_by(vocab / 30).enumerate() {
        *value = 16.0 - 0.4 * i as f32;
    }
    let logits = gpu.activation("timing.logits", 1, vocab)?;
    gpu.write_rows(&logits, &values);
    Ok(logits)
}

async fn measure(timer: &Timer<'_>, name: String, shape: Shape, dispatches: &[Dispatch]) -> Result<KernelTime, GpuError> {
    let rows = shape.rows();
    timer.sample(dispatches, rows, 1).await?;
    let once = timer.sample(dispatches, rows, 1).await?;
    let runs = (SAMPLE_MILLIS / once.max(0.01)).clamp(1.0, 500.0) as usize;
    let millis = timer.median(async || Ok(timer.sample(dispatches, rows, runs).await? / runs as f64)).await?;
    let (flop, bytes) = (shape.flop(), shape.bytes());
    Ok(KernelTime { name, millis, gflop_per_second: flop / millis / 1e6, gigabytes_per_second: bytes / millis / 1e6 })
}
