//! Speed of the kernels and of the adapter.
//!
//! Times are medians of several submissions. A submission repeats its launches, so that the costs of submitting and of reading back are a
//! small part of it.

pub mod published;

use crate::add::add;
use crate::{Dispatch, Gpu, GpuError, GpuOptions, StepBuffer, Temporary, encode};
use serde::Serialize;
use web_time::Instant;

/// Samples of which the median is taken.
const SAMPLES: usize = 7;

/// Upper bounds of an adapter's speed. Decoding is bound by the copy or by the dispatches, loading by the upload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct AdapterSpeed {
    /// Bytes read plus bytes written by a copy of a large buffer.
    pub copy_gigabytes_per_second: f64,
    /// Time of a launch that does almost nothing, one of many in a submission.
    pub microseconds_per_dispatch: f64,
    /// Bytes written from memory to a buffer, in pieces of the size in which weights arrive.
    pub upload_gigabytes_per_second: f64,
}

/// Measures the adapter.
pub async fn adapter_speed(gpu: &Gpu) -> Result<AdapterSpeed, GpuError> {
    const BYTES: usize = 64 << 20;
    const PIECE_BYTES: usize = 2 << 20;
    const DISPATCHES: usize = 1000;
    let timer = Timer::new(gpu)?;
    let (from, to) = (gpu.temporary("timing.from", 1, BYTES / 4)?, gpu.temporary("timing.to", 1, BYTES / 4)?);
    let copies = timer.median(async || {
        let started = Instant::now();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, BYTES as u64);
        gpu.queue().submit([encoder.finish()]);
        timer.settle().await?;
        Ok(started.elapsed().as_secs_f64())
    });
    let copy_seconds = copies.await?;
    let piece = vec![1; PIECE_BYTES];
    let uploads = timer.median(async || {
        let started = Instant::now();
        for at in (0..BYTES).step_by(PIECE_BYTES) {
            gpu.queue().write_buffer(&to.buffer, at as u64, &piece);
        }
        timer.settle().await?;
        Ok(started.elapsed().as_secs_f64())
    });
    let upload_seconds = uploads.await?;
    let (a, b) = (gpu.temporary("timing.add", 1, 32)?, gpu.temporary("timing.sum", 1, 32)?);
    timer.step.write(gpu, 1, 0, 1);
    let small = [add(gpu, &timer.step, &a, &a, &b)];
    let launch_millis = timer.median(async || timer.sample(&small, 1, DISPATCHES).await).await?;
    Ok(AdapterSpeed {
        copy_gigabytes_per_second: 2.0 * BYTES as f64 / copy_seconds / 1e9,
        microseconds_per_dispatch: launch_millis * 1e3 / DISPATCHES as f64,
        upload_gigabytes_per_second: BYTES as f64 / upload_seconds / 1e9,
    })
}

/// True if the GPU's clock takes the times, see [`GpuOptions::timestamps`]; otherwise they are wall-clock times.
pub fn has_timestamps(gpu: &Gpu) -> bool {
    gpu.device().features().contains(GpuOptions::TIMESTAMPS)
}

/// Takes samples on a device.
struct Timer<'a> {
    gpu: &'a Gpu,
    step: StepBuffer,
    /// Read back to wait for the work before.
    token: Temporary,
    timestamps: Option<Timestamps>,
}

/// Times at which a submission begins and ends, written by the GPU.
struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

impl<'a> Timer<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self, GpuError> {
        let timestamps = has_timestamps(gpu).then(|| Timestamps {
            queries: gpu.device().create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 }),
            resolved: gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("timing.timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
        });
        Ok(Self { gpu, step: StepBuffer::new(gpu), token: gpu.temporary("timing.token", 1, 1)?, timestamps })
    }

    /// Returns the median of several samples, after one that warms up.
    async fn median(&self, mut sample: impl AsyncFnMut() -> Result<f64, GpuError>) -> Result<f64, GpuError> {
        sample().await?;
        let mut samples = [0.0; SAMPLES];
        for slot in &mut samples {
            *slot = sample().await?;
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
    }

    /// Waits for all work submitted before.
    async fn settle(&self) -> Result<(), GpuError> {
        self.gpu.read(&self.token.buffer, 0, 4).await?;
        Ok(())
    }

    /// Returns the time of one submission that runs the dispatches `runs` times, in milliseconds.
    async fn sample(&self, dispatches: &[Dispatch], rows: usize, runs: usize) -> Result<f64, GpuError> {
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
