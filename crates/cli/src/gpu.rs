//! Choices of the GPU that several commands have.

use anyhow::Result;
use clap::Args;
use qwen_vl_runtime::{Gpu, GpuOptions, Kernels, Precision};

/// Which kernels run.
#[derive(Args)]
pub struct GpuArgs {
    /// The kernels to use: plain, cpu, subgroups, f16 or packed. Without it, those that a short measurement finds fastest.
    #[arg(long, value_name = "SET")]
    kernels: Option<Kernels>,
    /// How far the measurement may choose to round pictures and prompts: f32, f16 or q8.
    #[arg(long, value_name = "PRECISION", default_value = "f32", conflicts_with = "kernels")]
    precision: Precision,
}

impl GpuArgs {
    /// A device; `timestamps` where the GPU's clock is asked for.
    pub fn request(&self, timestamps: bool) -> Result<Gpu> {
        let options = GpuOptions { kernels: self.kernels, precision: self.precision, timestamps, ..GpuOptions::default() };
        Ok(pollster::block_on(Gpu::request(options))?)
    }
}
