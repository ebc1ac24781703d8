//! `qwenvl bench`: how fast the kernels are on this machine.

use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_runtime::{Gpu, GpuOptions, bench};
use std::path::PathBuf;

/// Time the kernels at the shapes of the published model, with 4-bit weights.
#[derive(Args)]
pub struct BenchArgs {
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Run nothing; write every case as plain data (WGSL, buffers, workgroups) for the bench page.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

/// Prints a line as each case is done.
pub fn run(args: &BenchArgs) -> Result<()> {
    let gpu = pollster::block_on(Gpu::request(GpuOptions::default()))?;
    if let Some(file) = &args.export {
        let cases = bench::export(&gpu)?;
        return std::fs::write(file, serde_json::to_string(&cases)?).with_context(|| format!("can not write {}", file.display()));
    }
    let info = gpu.info();
    if !args.json {
        println!("{} ({}, {})", info.name, info.backend, info.driver_info);
        println!("{:52} {:>10} {:>10} {:>8}", "", "ms", "GFLOP/s", "GB/s");
    }
    let mut print = |case: &bench::Measurement| {
        if !args.json {
            println!("{:52} {:10.3} {:10.1} {:8.2}", case.name, case.millis, case.gflop_per_second, case.gigabytes_per_second);
        }
    };
    let cases = pollster::block_on(bench::run(&gpu, &mut print))?;
    if args.json {
        println!("{}", serde_json::json!({ "adapter": info.name, "driver": info.driver_info, "cases": cases }));
    }
    Ok(())
}
