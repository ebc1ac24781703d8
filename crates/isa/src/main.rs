//! Writes the kernels that the runtime makes, and compiles them as the runtime does: `cargo xtask isa` runs it on the driver of this package.

mod estimate;
mod kernels;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use qwen_vl_kernels::{Gpu, GpuOptions, Kernels, Precision, Shader};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the WGSL of every kernel whose name contains a text into a folder, as NAME.wgsl
    List {
        folder: PathBuf,
        #[arg(default_value = "")]
        text: String,
    },
    /// Compile the kernels of a folder; append each one's name to a file before
    Compile { folder: PathBuf, out: PathBuf },
    /// Print the page `docs/estimates.md`, from the figures in `crates/kernels/isa.tsv`
    Estimate,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::List { folder, text } => list(&folder, &text),
        Task::Compile { folder, out } => compile(&folder, &out),
        Task::Estimate => estimates(include_str!("../../kernels/isa.tsv")).map(|page| print!("{page}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list(folder: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    let mut kernels = kernels::all()?;
    kernels.retain(|name, _| name.contains(text));
    ensure!(!kernels.is_empty(), "no kernel has a name with `{text}`");
    for (name, source) in kernels {
        let path = folder.join(format!("{name}.wgsl"));
        fs::write(&path, source).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

fn compile(folder: &Path, out: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut log = OpenOptions::new().append(true).create(true).open(out).with_context(|| format!("could not open {}", out.display()))?;
    // A device with every feature that a kernel needs.
    let gpu = request(Kernels { precision: Precision::F16, ..Kernels::SUBGROUPS })?;
    for file in files {
        let source = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        let label = file.file_stem().context("a file without a name")?.to_string_lossy().into_owned();
        writeln!(log, "kernel {label}")?;
        let shader = Shader { label, source: source.into() };
        shader.compile(gpu.device());
        gpu.check().with_context(|| format!("could not compile `{}`", shader.label))?;
    }
    Ok(())
}

fn estimates(tsv: &str) -> Result<String> {
    let names = ["Qwen-VL (2023)", "Qwen2-VL-2B", "Qwen2.5-VL-3B", "Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen2.5-VL-7B"];
    let models: Vec<_> = names.into_iter().zip(kernels::models()?).collect();
    estimate::page(&models, tsv)
}

/// Requests a device that runs the given kernels.
fn request(kernels: Kernels) -> Result<Gpu> {
    let options = GpuOptions { kernels: Some(kernels), ..GpuOptions::default() };
    pollster::block_on(Gpu::request(options)).context("could not create a device")
}
