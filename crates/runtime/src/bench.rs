//! How fast the kernels are at the shapes of the published model, on whatever adapter there is.
//!
//! Weights and inputs are zeros: kernels take the same time whatever the numbers are. A case is launched several times in one submission,
//! so that the cost of a submission and of reading back counts little, and the median of several submissions is taken.

use crate::decoder::SPLIT_KEYS;
use crate::{Gpu, RuntimeError};
use qwen_vl_format::{MAX_PART_BYTES, Scheme};
use qwen_vl_kernels::add::add;
use qwen_vl_kernels::attention::{Attention, Heads, attention, attention_decode, attention_split, split_bytes};
use qwen_vl_kernels::matmul::{Epilogue, Product, matmul, matvec};
use qwen_vl_kernels::{Dispatch, GpuOptions, Launch, StepBuffer, Temporary, Weight, encode};
use serde::Serialize;
use web_time::Instant;

/// How the weights are stored.
const SCHEME: Scheme = Scheme::Q4 { group_size: 32 };
/// Submissions that the median is taken of.
const SAMPLES: usize = 7;
/// A submission takes about this long.
const SAMPLE_MILLIS: f64 = 60.0;

/// The measurement of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What was run.
    pub name: String,
    /// Median time of one run, milliseconds.
    pub millis: f64,
    /// Multiply-adds count as two.
    pub gflop_per_second: f64,
    /// Weights, keys and values read.
    pub gigabytes_per_second: f64,
}

/// What a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shape {
    /// `[rows, cols]` times a 4-bit weight `[out, cols]`, as prefill does it (more than one row) or decoding (one).
    Product {
        /// Rows of the input.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Output features.
        out: usize,
        /// What happens before storing.
        #[serde(skip)]
        epilogue: Epilogue,
    },
    /// `rows` queries, the last of `keys` positions where causal.
    Attention {
        /// Queries.
        rows: usize,
        /// Keys.
        keys: usize,
        /// Heads.
        heads: usize,
        /// Width of a head.
        head_dim: usize,
        /// Whether a query sees only the keys up to its own position.
        causal: bool,
    },
}

/// A case as plain data: what another program needs to run it on its own WebGPU device.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedCase {
    /// As in [`Measurement`].
    pub name: String,
    /// What it is.
    pub shape: Shape,
    /// Words of the step uniform.
    pub step: [u32; 4],
    /// Its launches, in order.
    pub launches: Vec<ExportedLaunch>,
}

/// [`qwen_vl_kernels::Launch`] for JSON.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedLaunch {
    /// The kernel's name.
    pub label: String,
    /// WGSL.
    pub source: String,
    /// Words of the uniform at binding 7.
    pub sizes: Vec<u32>,
    /// Binding and bytes of each storage buffer.
    pub buffers: Vec<(u32, u64)>,
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
}

/// Every case whose name contains `only`, by its name.
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
    let attention = |rows, keys, heads, head_dim, causal| Shape::Attention { rows, keys, heads, head_dim, causal };
    for keys in [512, 2048] {
        cases.push((format!("decode: attention over {keys}, 32 heads of 128"), attention(1, keys, 32, 128, true)));
    }
    for rows in [64, 128, 512] {
        let shape = Shape::Product { rows, cols: 4096, out: 4096, epilogue: Epilogue::Accumulate };
        cases.push((format!("prefill: {rows} × 4096 → 4096"), shape));
    }
    for rows in [128, 320] {
        cases.push((format!("prefill: attention, {rows} causal, 32 heads of 128"), attention(rows, rows, 32, 128, true)));
    }
    let fc1 = Shape::Product { rows: 1024, cols: 1664, out: 8192, epilogue: Epilogue::Gelu };
    cases.push(("vision: fc1, 1024 × 1664 → 8192".to_owned(), fc1));
    for rows in [256, 1024] {
        cases.push((format!("vision: attention, {rows}, 16 heads of 104"), attention(rows, rows, 16, 104, false)));
    }
    cases.retain(|(name, _)| name.contains(only));
    cases
}

/// Runs the cases whose names contain `only`; `on_measurement` hears each as it is done.
pub async fn run(gpu: &Gpu, only: &str, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<Vec<Measurement>, RuntimeError> {
    let bench = Bench::new(gpu)?;
    let mut measurements = Vec::new();
    for (name, shape) in cases(only) {
        let launches = bench.prepare(shape)?;
        measurements.push(bench.measure(name, shape, &launches).await?);
        measurements.iter().last().into_iter().for_each(&mut *on_measurement);
    }
    Ok(measurements)
}

/// Whether [`run`] times by the GPU's clock.
pub fn has_timestamps(gpu: &Gpu) -> bool {
    gpu.device().features().contains(GpuOptions::TIMESTAMPS)
}

/// What an adapter can do at best: decoding is bound by one or the other of the first two, loading by the last.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes read and as many written, each counted, by a copy of a large buffer.
    pub copy_gigabytes_per_second: f64,
    /// A launch that does next to nothing, one of many in a submission.
    pub microseconds_per_dispatch: f64,
    /// Bytes written from memory to a buffer on the adapter, in pieces as weights come.
    pub upload_gigabytes_per_second: f64,
}

/// Measures the limits.
pub async fn limits(gpu: &Gpu) -> Result<Limits, RuntimeError> {
    const BYTES: usize = 64 << 20;
    const PIECE_BYTES: usize = 2 << 20;
    const DISPATCHES: usize = 1000;
    let bench = Bench::new(gpu)?;
    let (from, to) = (gpu.temporary("bench.from", 1, BYTES / 4)?, gpu.temporary("bench.to", 1, BYTES / 4)?);
    let copies = bench.median(async || {
        let started = Instant::now();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, BYTES as u64);
        gpu.queue().submit([encoder.finish()]);
        bench.settle().await?;
        Ok(started.elapsed().as_secs_f64())
    });
    let copy_seconds = copies.await?;
    let piece = vec![1; PIECE_BYTES];
    let uploads = bench.median(async || {
        let started = Instant::now();
        for at in (0..BYTES).step_by(PIECE_BYTES) {
            gpu.queue().write_buffer(&to.buffer, at as u64, &piece);
        }
        bench.settle().await?;
        Ok(started.elapsed().as_secs_f64())
    });
    let upload_seconds = uploads.await?;
    let (a, b) = (gpu.temporary("bench.add", 1, 32)?, gpu.temporary("bench.sum", 1, 32)?);
    bench.step.write(gpu, 1, 0, 1);
    let nothing = [add(gpu, &bench.step, &a, &a, &b)];
    let launch_millis = bench.median(async || bench.sample(&nothing, 1, DISPATCHES).await).await?;
    Ok(Limits {
        copy_gigabytes_per_second: 2.0 * BYTES as f64 / copy_seconds / 1e9,
        microseconds_per_dispatch: launch_millis * 1e3 / DISPATCHES as f64,
        upload_gigabytes_per_second: BYTES as f64 / upload_seconds / 1e9,
    })
}

/// The cases whose names contain `only`, as plain data.
pub fn export(gpu: &Gpu, only: &str) -> Result<Vec<ExportedCase>, RuntimeError> {
    let bench = Bench::new(gpu)?;
    let export = |(name, shape): (String, Shape)| {
        let launches = bench.prepare(shape)?.iter().map(|launch| launch.describe(shape.rows())).map(ExportedLaunch::from).collect();
        Ok(ExportedCase { name, shape, step: shape.step().map(|word| word as u32), launches })
    };
    cases(only).into_iter().map(export).collect()
}

impl From<Launch> for ExportedLaunch {
    fn from(launch: Launch) -> Self {
        let Launch { label, source, sizes, buffers, workgroups } = launch;
        Self { label: label.to_owned(), source, sizes, buffers, workgroups }
    }
}

impl Shape {
    fn rows(&self) -> usize {
        match *self {
            Self::Product { rows, .. } | Self::Attention { rows, .. } => rows,
        }
    }

    /// Rows, start, keys and the word that fills up.
    fn step(&self) -> [usize; 4] {
        match *self {
            Self::Product { rows, .. } => [rows, 0, rows, 0],
            Self::Attention { rows, keys, .. } => [rows, keys - rows, keys, 0],
        }
    }

    /// Operations, a multiply-add being two.
    fn flop(&self) -> f64 {
        match *self {
            Self::Product { rows, cols, out, .. } => 2.0 * (rows * cols * out) as f64,
            Self::Attention { rows, keys, heads, head_dim, causal } => {
                // Half of the pairs where causal, as every position sees those before it.
                let pairs = if causal && rows == keys { rows * (rows + 1) / 2 } else { rows * keys };
                4.0 * (pairs * heads * head_dim) as f64
            }
        }
    }

    /// Weights, keys and values.
    fn bytes(&self) -> f64 {
        match *self {
            Self::Product { cols, out, .. } => (out * (SCHEME.row_data_bytes(cols) + SCHEME.row_scale_bytes(cols))) as f64,
            Self::Attention { keys, heads, head_dim, .. } => (2 * keys * heads * head_dim * 4) as f64,
        }
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    step: StepBuffer,
    /// Read back to wait for the work before.
    token: Temporary,
    /// Where the GPU notes when a submission began and ended, if it can.
    timestamps: Option<Timestamps>,
}

struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self, RuntimeError> {
        let timestamps = has_timestamps(gpu).then(|| Timestamps {
            queries: gpu.device().create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 }),
            resolved: gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("bench.timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
        });
        Ok(Self { gpu, step: StepBuffer::new(gpu), token: gpu.temporary("bench.token", 1, 1)?, timestamps })
    }

    fn prepare(&self, shape: Shape) -> Result<Vec<Dispatch>, RuntimeError> {
        let [rows, start, keys, _] = shape.step();
        self.step.write(self.gpu, rows, start, keys);
        match shape {
            Shape::Product { rows, cols, out, epilogue } => {
                let part = (MAX_PART_BYTES as usize / SCHEME.row_data_bytes(cols) / 32 * 32).min(out);
                let part_rows: Vec<usize> = (0..out).step_by(part).map(|first| part.min(out - first)).collect();
                let weight = Weight::allocate(self.gpu, "bench.weight", SCHEME, cols, &part_rows)?;
                let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
                let input = self.gpu.activation("bench.input", rows, cols)?;
                let output = self.gpu.activation("bench.output", rows, stored)?;
                let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue };
                Ok(if rows == 1 { matvec(self.gpu, product, None) } else { matmul(self.gpu, &self.step, product) })
            }
            Shape::Attention { rows, keys, heads, head_dim, causal } => {
                let buffer = |rows| self.gpu.activation("bench.attention", rows, heads * head_dim);
                let (q, k, v, output) = (buffer(rows)?, buffer(keys)?, buffer(keys)?, buffer(rows)?);
                let of = |rows| Heads { rows, first_col: 0 };
                let launch =
                    Attention { queries: of(&q), keys: of(&k).into(), values: of(&v).into(), output: &output, heads, head_dim, causal };
                Ok(match rows {
                    1 if keys >= SPLIT_KEYS => {
                        let partial = self.gpu.storage("bench.partial", split_bytes(heads, head_dim))?;
                        attention_split(self.gpu, &self.step, launch, &partial).into()
                    }
                    1 => vec![attention_decode(self.gpu, &self.step, launch)],
                    _ => vec![attention(self.gpu, &self.step, launch)],
                })
            }
        }
    }

    async fn measure(&self, name: String, shape: Shape, dispatches: &[Dispatch]) -> Result<Measurement, RuntimeError> {
        let rows = shape.rows();
        self.sample(dispatches, rows, 1).await?;
        let once = self.sample(dispatches, rows, 1).await?;
        let runs = (SAMPLE_MILLIS / once.max(0.01)).clamp(1.0, 500.0) as usize;
        let millis = self.median(async || Ok(self.sample(dispatches, rows, runs).await? / runs as f64)).await?;
        let (flop, bytes) = (shape.flop(), shape.bytes());
        Ok(Measurement { name, millis, gflop_per_second: flop / millis / 1e6, gigabytes_per_second: bytes / millis / 1e6 })
    }

    /// The median of several samples, after one that warms up.
    async fn median(&self, mut sample: impl AsyncFnMut() -> Result<f64, RuntimeError>) -> Result<f64, RuntimeError> {
        sample().await?;
        let mut samples = [0.0; SAMPLES];
        for slot in &mut samples {
            *slot = sample().await?;
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
    }

    /// Waits for all work so far.
    async fn settle(&self) -> Result<(), RuntimeError> {
        self.gpu.read(&self.token.buffer, 0, 4).await?;
        Ok(())
    }

    /// Time of one submission that runs the dispatches `runs` times, milliseconds: by the GPU's clock if it shows one, else by ours.
    async fn sample(&self, dispatches: &[Dispatch], rows: usize, runs: usize) -> Result<f64, RuntimeError> {
        let started = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let stamp = |encoder: &mut wgpu::CommandEncoder, index| {
            if let Some(Timestamps { queries, .. }) = &self.timestamps {
                encoder.write_timestamp(queries, index);
            }
        };
        stamp(&mut encoder, 0);
        encode(&mut encoder, (0..runs).flat_map(|_| dispatches), rows);
        stamp(&mut encoder, 1);
        if let Some(Timestamps { queries, resolved }) = &self.timestamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
        }
        self.gpu.queue().submit([encoder.finish()]);
        self.settle().await?;
        let Some(Timestamps { resolved, .. }) = &self.timestamps else {
            return Ok(started.elapsed().as_secs_f64() * 1e3);
        };
        let bytes = self.gpu.read(resolved, 0, 16).await?;
        let [began, ended] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])));
        Ok(ended.saturating_sub(began) as f64 * f64::from(self.gpu.queue().get_timestamp_period()) / 1e6)
    }
}
