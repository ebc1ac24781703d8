//! `train`: makes a small Qwen-VL by the paper's three stages.

mod adamw;
mod batch;
mod checkpoint;
mod initial;
mod patches;
mod plot;
mod recipe;
mod run;

use anyhow::Result;
use clap::Parser;
use qwen_vl_reference::burn::tensor::Device;
use recipe::Recipe;
use std::path::PathBuf;
use std::time::Duration;

/// A step makes and drops hundreds of large tensors; the system's allocator gives their pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a small Qwen-VL: text alone, then the three stages of the paper. Goes on where an earlier call in the same folder was left.
#[derive(Parser)]
#[command(name = "train", version)]
struct Arguments {
    /// A built-in recipe (nano; for comparison queries-64, queries-16, queries-9, tower-frozen) or a JSON file.
    #[arg(long, default_value = "nano")]
    recipe: String,
    /// Where checkpoints, log, plot and models go.
    #[arg(long)]
    out: PathBuf,
    /// Begin with the weights of another run's checkpoint, where their shapes are the same: what a comparison has in common is made once.
    #[arg(long)]
    start_from: Option<PathBuf>,
    /// Where it computes.
    #[arg(long, value_enum, default_value_t = DeviceName::Flex)]
    device: DeviceName,
    /// Minutes between two checkpoints.
    #[arg(long, default_value_t = 3.0)]
    checkpoint_minutes: f64,
    /// Train nothing: print the loss on texts after each stage of the run in the folder.
    #[arg(long)]
    text_kept: bool,
    /// Stop with a checkpoint after so many minutes.
    #[arg(long)]
    stop_after_minutes: Option<f64>,
}

/// burn's backends in this build.
#[derive(Clone, Copy, clap::ValueEnum)]
enum DeviceName {
    /// The CPU.
    Flex,
    /// Vulkan, Metal or DirectX.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// NVIDIA.
    #[cfg(feature = "cuda")]
    Cuda,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = match arguments.device {
        DeviceName::Flex => Device::flex(),
        #[cfg(feature = "wgpu")]
        DeviceName::Wgpu => Device::wgpu(qwen_vl_reference::burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        DeviceName::Cuda => Device::cuda(0),
    };
    let settings = run::Settings {
        device: device.autodiff(),
        out: arguments.out,
        start_from: arguments.start_from,
        checkpoint_every: Duration::from_secs_f64(60.0 * arguments.checkpoint_minutes),
        stop_after: arguments.stop_after_minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
    };
    let recipe = Recipe::read(&arguments.recipe)?;
    if arguments.text_kept { run::print_text_kept(&recipe, &settings) } else { run::run(&recipe, &settings) }
}
