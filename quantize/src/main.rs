//! `quantize HF_DIR OUT_DIR`: the command line over the library.

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use quantize::{Event, Options, Rule, SchemeName, Summary};
use std::path::PathBuf;

/// Convert a Qwen-VL checkpoint into a web checkpoint.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Hugging Face folder: config.json, qwen.tiktoken, and weights as safetensors or pytorch_model*.bin
    source: PathBuf,
    /// Folder to make; it appears when it is whole
    out: PathBuf,
    /// How matrices are stored
    #[arg(long, value_enum, default_value = "q4")]
    scheme: SchemeName,
    /// Weights that share a scale in q4 and q8: 32, 64 or 128
    #[arg(long, default_value_t = 32)]
    group_size: u32,
    /// Store a module in a scheme of its own, for example `head=q8`; may be repeated, the last that applies counts
    #[arg(long, value_name = "MODULE=SCHEME", value_parser = |text: &str| Rule::parse(text))]
    keep: Vec<Rule>,
    /// Store NaN and infinite weights as zero instead of refusing them
    #[arg(long)]
    allow_nonfinite: bool,
    /// Replace OUT if it has something in it
    #[arg(long)]
    force: bool,
    /// Use this many cores [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// Print the summary as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut options = Options::new(&arguments.source, &arguments.out).scheme(arguments.scheme).group_size(arguments.group_size)?;
    options.rules = arguments.keep;
    options.write.allow_nonfinite = arguments.allow_nonfinite;
    options.write.force = arguments.force;
    options.write.threads = arguments.threads;

    // Draws on stderr, and nothing where that is no terminal.
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{wide_bar} {percent}% {human_pos}/{human_len} weights, {per_sec}, {eta} left {msg}")
            .expect("a constant template"),
    );
    let summary = quantize::convert(&options, &mut |event| match event {
        Event::Start { weights } => bar.set_length(weights),
        Event::Weights(weights) => bar.inc(weights),
        Event::Shard { file, .. } => bar.set_message(file),
        _ => {}
    })?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print(&summary, &arguments.out);
    }
    Ok(())
}

fn print(summary: &Summary, out: &std::path::Path) {
    for total in &summary.schemes {
        println!("{:>20}  {:>5} tensors  {:>13} weights  {:>13} bytes", total.scheme, total.tensors, total.weights, total.bytes);
    }
    println!("{} bytes in {} shards, {:.2} bits a weight: {}", summary.bytes, summary.shards, summary.bits_per_weight, out.display());
    if !summary.unused_tensors.is_empty() {
        println!("not part of the model, left out: {}", summary.unused_tensors.join(", "));
    }
}
