//! Options of the GPU that several commands share.

use anyhow::Result;
use clap::Args;
use qwen_vl_runtime::{ChoiceOptions, Gpu, GpuOptions, Kernels, Precision, choose};

/// Choice of kernels.
#[derive(Args)]
pub struct GpuArgs {
    /// Kernel set: plain, cpu, subgroups, f16 or packed [default: the fastest by a short measurement].
    #[arg(long, value_name = "SET")]
    kernels: Option<Kernels>,
    /// Lowest precision of products that the measurement may choose: f32, f16 or q8.
    #[arg(long, value_name = "PRECISION", default_value = "f32", conflicts_with = "kernels")]
    precision: Precision,
}

impl GpuArgs {
    /// Creates a device; with `timestamps`, one that reports times of the GPU's clock.
    pub fn request(&self, timestamps: bool) -> Result<Gpu> {
        let options = GpuOptions { kernels: self.kernels, timestamps, ..GpuOptions::default() };
        pollster::block_on(async {
            let mut gpu = Gpu::request(options).await?;
            if self.kernels.is_none() {
                choose(&mut gpu, ChoiceOptions { precision: self.precision, ..ChoiceOptions::default() }).await?;
            }
            Ok(gpu)
        })
    }
}
