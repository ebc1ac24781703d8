//! How fast the kernels are at the shapes of the published model, on whatever adapter there is.
//!
//! Weights and inputs are zeros: kernels take the same time whatever the numbers are. A case is launched several times in one submission,
//! so that the cost of a submission and of reading back counts little, and the median of several submissions is taken.

use crate::{Gpu, RuntimeError};
use qwen_vl_format::{MAX_PART_BYTES, Scheme};
use qwen_vl_kernels::attention::{Attention, Heads, attention, attention_decode};
use qwen_vl_kernels::matmul::{Epilogue, Product, matmul, matvec};
use qwen_vl_kernels::{Activation, Dispatch, StepBuffer, Weight, encode};
use serde::Serialize;
use web_time::Instant;

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

/// Runs every case; `on_measurement` hears each as it is done.
pub async fn run(gpu: &Gpu, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<Vec<Measurement>, RuntimeError> {
    let bench = Bench { gpu, step: StepBuffer::new(gpu), token: gpu.storage("bench.token", 4)? };
    let mut measurements = Vec::new();
    let mut done = |measurement: Measurement| {
        on_measurement(&measurement);
        measurements.push(measurement);
    };
    let q4 = Scheme::Q4 { group_size: 32 };
    for (name, cols, out, epilogue) in [
        ("decode: 4096 → 4096", 4096, 4096, Epilogue::Accumulate),
        ("decode: qkv, 4096 → 12288", 4096, 12_288, Epilogue::Store),
        ("decode: gate and up, 4096 → 2 × 11008", 4096, 22_016, Epilogue::SwiGlu),
        ("decode: down, 11008 → 4096", 11_008, 4096, Epilogue::Accumulate),
        ("decode: head, 4096 → 151936", 4096, 151_936, Epilogue::Store),
    ] {
        done(bench.product(name, q4, 1, cols, out, epilogue).await?);
    }
    for keys in [512, 2048] {
        done(bench.attention(&format!("decode: attention over {keys}, 32 heads of 128"), 1, keys, 32, 128, true).await?);
    }
    for rows in [64, 128, 512] {
        done(bench.product(&format!("prefill: {rows} × 4096 → 4096"), q4, rows, 4096, 4096, Epilogue::Accumulate).await?);
    }
    done(bench.attention("prefill: attention, 320 causal, 32 heads of 128", 320, 320, 32, 128, true).await?);
    done(bench.product("vision: fc1, 1024 × 1664 → 8192", q4, 1024, 1664, 8192, Epilogue::Gelu).await?);
    done(bench.attention("vision: attention, 1024, 16 heads of 104", 1024, 1024, 16, 104, false).await?);
    Ok(measurements)
}

struct Bench<'a> {
    gpu: &'a Gpu,
    step: StepBuffer,
    /// Read back to wait for the work before.
    token: wgpu::Buffer,
}

impl Bench<'_> {
    async fn product(
        &self,
        name: &str,
        scheme: Scheme,
        rows: usize,
        cols: usize,
        out: usize,
        epilogue: Epilogue,
    ) -> Result<Measurement, RuntimeError> {
        let row_bytes = scheme.row_data_bytes(cols);
        let part = (MAX_PART_BYTES as usize / row_bytes / 32 * 32).min(out);
        let part_rows: Vec<usize> = (0..out).step_by(part).map(|first| part.min(out - first)).collect();
        let weight = Weight::allocate(self.gpu, "bench.weight", scheme, cols, &part_rows)?;
        let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
        let input = self.gpu.activation("bench.input", rows, cols)?;
        let output = self.gpu.activation("bench.output", rows, stored)?;
        let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue };
        self.step.write(self.gpu, rows, 0, rows);
        let dispatches = if rows == 1 { matvec(self.gpu, product, None) } else { matmul(self.gpu, &self.step, product) };
        let bytes = out * (row_bytes + scheme.row_scale_bytes(cols));
        self.measure(name, &dispatches, rows, 2.0 * (rows * cols * out) as f64, bytes as f64).await
    }

    async fn attention(
        &self,
        name: &str,
        rows: usize,
        keys: usize,
        heads: usize,
        head_dim: usize,
        causal: bool,
    ) -> Result<Measurement, RuntimeError> {
        let width = heads * head_dim;
        let buffer = |rows| self.gpu.activation("bench.attention", rows, width);
        let (q, k, v, output): (Activation, Activation, Activation, Activation) =
            (buffer(rows)?, buffer(keys)?, buffer(keys)?, buffer(rows)?);
        let of = |rows| Heads { rows, first_col: 0 };
        let launch = Attention { queries: of(&q), keys: of(&k), values: of(&v), output: &output, heads, head_dim, causal };
        self.step.write(self.gpu, rows, keys - rows, keys);
        let dispatch = if rows == 1 { attention_decode(self.gpu, &self.step, launch) } else { attention(self.gpu, &self.step, launch) };
        // Half of the pairs where causal, as every position sees those before it.
        let pairs = if causal && rows == keys { rows * (rows + 1) / 2 } else { rows * keys };
        self.measure(name, &[dispatch], rows, 4.0 * (pairs * width) as f64, (2 * keys * width * 4) as f64).await
    }

    async fn measure(&self, name: &str, dispatches: &[Dispatch], rows: usize, flop: f64, bytes: f64) -> Result<Measurement, RuntimeError> {
        self.sample(dispatches, rows, 1).await?;
        let once = self.sample(dispatches, rows, 1).await?;
        let runs = (SAMPLE_MILLIS / once.max(0.01)).clamp(1.0, 500.0) as usize;
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            samples.push(self.sample(dispatches, rows, runs).await? / runs as f64);
        }
        samples.sort_by(f64::total_cmp);
        let millis = samples[SAMPLES / 2];
        Ok(Measurement { name: name.to_owned(), millis, gflop_per_second: flop / millis / 1e6, gigabytes_per_second: bytes / millis / 1e6 })
    }

    /// Time of one submission that runs the dispatches `runs` times, milliseconds.
    async fn sample(&self, dispatches: &[Dispatch], rows: usize, runs: usize) -> Result<f64, RuntimeError> {
        let started = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, (0..runs).flat_map(|_| dispatches), rows);
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.read(&self.token, 0, 4).await?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }
}
