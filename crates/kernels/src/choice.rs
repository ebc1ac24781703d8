//! The choice of the kernel set by measurement.

use crate::matmul::{Epilogue, Product, matmul, matvec};
use crate::{Gpu, GpuError, Kernels, Precision, StepBuffer, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use web_time::Instant;

/// Duration of a submission, in milliseconds. Short launches are batched up to it, so that the overhead of submitting is negligible.
const SUBMISSION_MILLIS: f64 = 4.0;
/// Rounds in which every variant is measured; its best counts.
const ROUNDS: usize = 3;

/// Sets the fastest kernel set of the device, measured on small products, and returns it.
///
/// The product of one row, which compiles fast, distinguishes GPUs from software adapters. Software adapters skip the variants with
/// subgroups, which would cost compile time. `coarsest` is the coarsest precision to which activations may be rounded.
pub async fn choose(gpu: &mut Gpu, coarsest: Precision) -> Result<Kernels, GpuError> {
    let mut kernels = fastest_of(gpu, &[Kernels::PLAIN, Kernels::CPU], Shape { rows: 1, cols: 1024, out: 512 }).await?;
    if kernels == Kernels::PLAIN && gpu.has_subgroups() {
        kernels = fastest_of(gpu, &[kernels, Kernels::SUBGROUPS], Shape { rows: 1, cols: 4096, out: 4096 }).await?;
    }
    let mut precisions = vec![Precision::F32, Precision::F16, Precision::Q8];
    precisions.retain(|precision| *precision <= coarsest && (*precision != Precision::F16 || gpu.has_f16()));
    if precisions.len() > 1 {
        let variants: Vec<_> = precisions.into_iter().map(|precision| Kernels { precision, ..kernels }).collect();
        kernels = fastest_of(gpu, &variants, Shape { rows: 64, cols: 512, out: 256 }).await?;
    }
    gpu.set_kernels(kernels);
    Ok(kernels)
}

/// A product that is large enough to rank the variants, and small enough for an adapter with a thousandth of a GPU's speed.
struct Shape {
    rows: usize,
    cols: usize,
    out: usize,
}

/// Returns the variant whose product of this shape takes the least time.
async fn fastest_of(gpu: &mut Gpu, variants: &[Kernels], Shape { rows, cols, out }: Shape) -> Result<Kernels, GpuError> {
    // Zeros: the time of a kernel does not depend on the values.
    let scheme = Scheme::Q4 { group_size: 32 };
    let (data, scales) = (gpu.temporary("choice", out, cols / 8)?, gpu.temporary("choice", out, cols / 64)?);
    let (input, output) = (gpu.temporary("choice", rows, cols)?, gpu.temporary("choice", rows, out)?);
    let part = WeightPart { rows: out, data: data.buffer.clone(), scales: Some(scales.buffer.clone()) };
    let weight = Weight { scheme, rows: out, cols, parts: vec![part] };
    let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue: Epilogue::Store, exact: false };
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
    // The first launch of each variant compiles it. Variants that the driver rejects although it advertises their features are skipped.
    // Variant 0 needs no feature, so its failure is an error.
    let mut working = Vec::with_capacity(variants.len());
    for variant in 0..variants.len() {
        match rejection(gpu.device(), || launch(variant, 1)).await {
            None => working.push(variant),
            Some(error) if variant == 0 => return Err(error),
            Some(_) => {}
        }
        gpu.read(&output.buffer, 0, 4).await?;
    }
    let launches = (SUBMISSION_MILLIS / run(0, 1).await?.max(0.01)).clamp(1.0, 32.0) as usize;
    let mut best = (f64::INFINITY, 0);
    for _ in 0..ROUNDS {
        for &variant in &working {
            let millis = run(variant, launches).await?;
            if millis < best.0 {
                best = (millis, variant);
            }
        }
    }
    Ok(variants[best.1])
}

/// Runs `work` and returns its error of any kind: a driver rejects a pipeline with an internal error, the launch of a pipeline that was
/// rejected is a validation error.
async fn rejection(device: &wgpu::Device, work: impl FnOnce()) -> Option<GpuError> {
    let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory]
        .map(|filter| device.push_error_scope(filter));
    work();
    // Scopes are popped in reverse order, before anything else runs.
    let [validation, internal, memory] = scopes;
    let (memory, internal, validation) = (memory.pop(), internal.pop(), validation.pop());
    let errors = [memory.await, internal.await, validation.await];
    errors.into_iter().flatten().next().map(GpuError::from)
}
