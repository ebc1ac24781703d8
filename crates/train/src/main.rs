//! `train`: trains a small Qwen-VL in the paper's three stages.

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

/// Replaces the system's allocator. A step makes and drops hundreds of large tensors, and the system's allocator returns their pages to the
/// system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a small Qwen-VL: first text only, then the vision tower, then the three stages of the paper. Resumes an interrupted run in the
/// same folder.
#[derive(Parser)]
#[command(name = "train", version)]
struct Arguments {
    /// Built-in recipe (nano; for comparisons queries-64, queries-16, queries-9, tower-frozen) or JSON file.
    #[arg(long, default_value = "nano")]
    recipe: String,
    /// Output folder for checkpoints, log, plot and models.
    #[arg(long)]
    out: PathBuf,
    /// Checkpoint of another run. Tensors of the same shape start with its weights, so that several runs can share their first stages.
    #[arg(long)]
    start_from: Option<PathBuf>,
    /// Device that computes. The features `wgpu` and `cuda` of the crate add devices of these names.
    #[arg(long, value_enum, default_value_t = DeviceName::Flex)]
    device: DeviceName,
    /// Minutes between two checkpoints.
    #[arg(long, default_value = "3", value_parser = minutes, allow_negative_numbers = true)]
    checkpoint_minutes: Duration,
    /// Print the loss on texts after each stage of the run in the folder, without training.
    #[arg(long)]
    text_kept: bool,
    /// Minutes after which the run stops with a checkpoint.
    #[arg(long, value_parser = minutes, allow_negative_numbers = true)]
    stop_after_minutes: Option<Duration>,
}

/// Backends of burn in this build.
#[derive(Clone, Copy, clap::ValueEnum)]
enum DeviceName {
    /// The CPU.
    Flex,
    /// Vulkan or Metal.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// NVIDIA.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// Parses a number of minutes.
fn minutes(text: &str) -> Result<Duration, String> {
    let duration = text.parse().ok().and_then(|minutes: f64| Duration::try_from_secs_f64(60.0 * minutes).ok());
    duration.ok_or_else(|| "expected a number of minutes, at least 0".to_owned())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = match arguments.device {
        DeviceName::Flex => Device::flex(),
        #[cfg(feature = "wgpu")]
        DeviceName::Wgpu => {
            let (device, adapter) = qwen_vl_reference::wgpu_device()?;
            println!("adapter: {} ({:?}, {:?})", adapter.name, adapter.device_type, adapter.backend);
            device
        }
        #[cfg(feature = "cuda")]
        DeviceName::Cuda => Device::cuda(0),
    };
    let settings = run::Settings {
        device: device.autodiff(),
        out: arguments.out,
        start_from: arguments.start_from,
        checkpoint_every: arguments.checkpoint_minutes,
        stop_after: arguments.stop_after_minutes,
    };
    let recipe = Recipe::read(&arguments.recipe)?;
    if arguments.text_kept { run::print_text_kept(&recipe, &settings) } else { run::run(&recipe, &settings) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_checked() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for wrong in ["-1", "nan", "inf", "1e300", "x"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
