//! `qwenvl bench`: how fast the kernels are on this machine.

use crate::checkpoint::Checkpoint;
use crate::gpu::GpuArgs;
use crate::values::{count, tokens};
use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_kernels::timing::{self, published};
use qwen_vl_runtime::benchmark::{BenchmarkOptions, benchmark};
use qwen_vl_runtime::{Backend, Budget, Gpu, KvFormat, Measured, ModelOptions, synthetic};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Time the kernels at the shapes of the published model, with 4-bit weights; or, with `--model`, a whole model.
#[derive(Args)]
pub struct BenchArgs {
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// A web checkpoint to load and time: a picture, a prompt, decoding at several lengths.
    #[arg(long, value_name = "DIR", conflicts_with = "export")]
    model: Option<PathBuf>,
    /// A configuration as published with a checkpoint (config.json): a model of this geometry with random 4-bit weights is timed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "export"])]
    geometry: Option<PathBuf>,
    /// Number of decoder layers [default: the configuration's].
    #[arg(long, value_name = "N", requires = "geometry", value_parser = count, allow_negative_numbers = true)]
    layers: Option<usize>,
    /// Do not time a picture.
    #[arg(long)]
    no_picture: bool,
    /// Format of keys and values in the cache: f32, f16 or q8.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    kv: KvFormat,
    /// Lengths of the prompts that are timed, tokens.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [128, 320, 1024], value_parser = tokens, allow_negative_numbers = true)]
    prompts: Vec<usize>,
    /// Lengths of the sequence at which decoding is timed, tokens.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [512, 2048], value_parser = tokens, allow_negative_numbers = true)]
    contexts: Vec<usize>,
    /// Tokens that are decoded at each length.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = tokens, allow_negative_numbers = true)]
    decode_tokens: usize,
    /// Number of repetitions; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count, allow_negative_numbers = true)]
    runs: usize,
    /// Only the cases whose names contain this.
    #[arg(long, value_name = "PART", default_value = "", conflicts_with = "model")]
    only: String,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Run nothing; write every case as plain data (WGSL, buffers, workgroups) for the bench page.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

/// Prints a line as each case is done.
pub fn run(args: &BenchArgs) -> Result<()> {
    let whole_model = args.model.is_some() || args.geometry.is_some();
    let gpu = args.gpu.request(!whole_model)?;
    if let Some(file) = &args.export {
        let cases = published::export(&gpu, &args.only)?;
        return std::fs::write(file, serde_json::to_string(&cases)?).with_context(|| format!("could not write {}", file.display()));
    }
    if whole_model {
        return run_model(args, gpu);
    }
    let info = gpu.info();
    if !args.json {
        println!("{} ({}, {}); {}", info.name, info.backend, info.driver_info, gpu.kernels());
        println!("{}", if timing::has_timestamps(&gpu) { "times by the GPU's clock" } else { "wall-clock times" });
        println!("{:52} {:>10} {:>10} {:>8}", "", "ms", "GFLOP/s", "GB/s");
    }
    let mut print = |case: &published::KernelTime| {
        if !args.json {
            println!("{:52} {:10.3} {:10.1} {:8.2}", case.name, case.millis, case.gflop_per_second, case.gigabytes_per_second);
        }
    };
    let cases = pollster::block_on(published::run(&gpu, &args.only, &mut print))?;
    if args.json {
        let mut json = adapter_json(&gpu);
        json["gpu_clock"] = timing::has_timestamps(&gpu).into();
        json["cases"] = serde_json::to_value(cases)?;
        println!("{json}");
    }
    Ok(())
}

/// Returns the part of the JSON that both kinds of measurements share.
fn adapter_json(gpu: &Gpu) -> serde_json::Value {
    let info = gpu.info();
    serde_json::json!({
        "adapter": info.name,
        "driver": info.driver_info,
        "backend": info.backend.to_string(),
        "device_type": format!("{:?}", info.device_type),
        "kernels": gpu.kernels().to_string(),
    })
}

/// Times a whole model and the limits of the adapter.
fn run_model(args: &BenchArgs, gpu: Gpu) -> Result<()> {
    let info = gpu.info().clone();
    let longest = args.contexts.iter().copied().max().unwrap_or(0).max(args.prompts.iter().max().map_or(1, |tokens| tokens + 1));
    let options = ModelOptions { context_length: longest, kv: args.kv, ..ModelOptions::default() };
    let before = gpu.allocated_bytes();
    let mut model = if let Some(file) = &args.geometry {
        let config = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
        let mut config =
            quantize::model_config(&config).with_context(|| format!("{} is not a configuration that can be timed", file.display()))?;
        config.decoder.layers = args.layers.unwrap_or(config.decoder.layers);
        pollster::block_on(synthetic::model(gpu, config, options))?
    } else {
        let folder = args.model.as_deref().context("neither a model nor a geometry")?;
        Checkpoint::open(folder)?.load(gpu, options)?
    };
    let budget = Budget::new(model.manifest(), &options, model.gpu().kernels().precision);
    let allocated = model.gpu().allocated_bytes() - before;
    let cases = BenchmarkOptions {
        contexts: args.contexts.clone(),
        prompts: args.prompts.clone(),
        decode_tokens: args.decode_tokens,
        runs: args.runs,
        picture: !args.no_picture,
    };
    let report = pollster::block_on(benchmark(&mut model, &cases, &mut |_, _| ControlFlow::Continue(())))?;
    let report = report.context("the benchmark was stopped")?;
    if args.json {
        let mut json = adapter_json(model.gpu());
        json["config"] = serde_json::to_value(&model.manifest().config)?;
        json["budget"] = serde_json::to_value(budget)?;
        json["allocated"] = allocated.into();
        // In the order of the report's `decode`: a long context takes more than a short one.
        json["decode_dispatches"] = report.decode.iter().map(|speed| model.decode_dispatches(speed.context)).collect();
        json["report"] = serde_json::to_value(report)?;
        println!("{json}");
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    println!("{} ({}, {}); {}", info.name, info.backend, info.driver_info, model.gpu().kernels());
    let limits = report.limits.context("the adapter was not measured")?;
    println!(
        "copy {:.1} GB/s, upload {:.2} GB/s, {:.2} µs a dispatch",
        limits.copy_gigabytes_per_second, limits.upload_gigabytes_per_second, limits.microseconds_per_dispatch
    );
    println!(
        "memory {:.2} GiB: weights {:.2}, keys and values {:.2}, scratch {:.2}; allocated {:.2}",
        gib(budget.total()),
        gib(budget.weights),
        gib(budget.kv_cache),
        gib(budget.scratch),
        gib(allocated)
    );
    if !args.no_picture {
        println!("picture {:.0} ms", report.encode_ms);
    }
    if let Some(parts) = report.picture_parts {
        println!("one block of the vision tower {:.2} ms, resampler {:.2} ms", parts.block_ms, parts.resampler_ms);
    }
    for speed in &report.prefill {
        println!("prompt of {}: {:.0} ms, {:.1} tokens/s", speed.tokens, speed.millis, speed.tokens_per_second);
    }
    for speed in &report.decode {
        let rate = speed.tokens_per_second * speed.bytes_per_token as f64 / 1e9;
        println!(
            "decode at {}: {:.2} tokens/s, {:.3} GB a token, {rate:.2} GB/s = {:.0} % of the copy",
            speed.context,
            speed.tokens_per_second,
            speed.bytes_per_token as f64 / 1e9,
            rate * 100.0 / limits.copy_gigabytes_per_second
        );
    }
    println!("{} dispatches a token", report.dispatches_per_token);
    Ok(())
}
