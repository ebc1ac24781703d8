//! `cargo xtask evaluate`: the embedded model on the world's test split, and the cost of fewer bits.

use crate::checkpoints;
use crate::process::{command, root, run as run_command, target_dir};
use anyhow::{Result, ensure};
use clap::Args;
use std::path::Path;

/// The trained chat model, in f16.
const SOURCE: &str = "models/nano-chat-f16";
const EMBEDDED: &str = "models/nano";

#[derive(Args)]
pub struct Options {
    /// Scenes of the test split, with about four questions each
    #[arg(long, default_value_t = 500)]
    count: u64,
    /// Dialogues
    #[arg(long, default_value_t = 200)]
    dialogues: u64,
    /// Write a sample of the test split with the 4-bit model's answers instead, for the browser tests
    #[arg(long)]
    sample: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let folder = target_dir().join("evaluation");
    let q4 = format!("q4={}", root().join(EMBEDDED).display());
    if options.sample {
        let sample = root().join("models/sample");
        // The evaluation refuses to continue the answers of another model.
        if sample.exists() {
            std::fs::remove_dir_all(&sample)?;
        }
        export(&sample, 12, 0)?;
        for name in ["caption.json", "dialogue.jsonl", "suite.json"] {
            std::fs::remove_file(sample.join(name))?;
        }
        for (name, task) in [("vqa", "exact"), ("ocr", "exact"), ("grounding", "grounding")] {
            let data = sample.join(format!("{name}.jsonl"));
            let mut eval = evaluation();
            let eval = eval.args(["--task", task, "--model", &q4]).arg("--data").arg(data).arg("--predictions").arg(sample.join("answers"));
            run_command(eval)?;
        }
        return Ok(());
    }
    let suite = folder.join("test");
    export(&suite, options.count, options.dialogues)?;
    ensure!(root().join(SOURCE).is_dir(), "{SOURCE} is missing: restore it with `git checkout models`");
    let mut eval = evaluation();
    for scheme in ["f32", "q8"] {
        let out = folder.join(scheme);
        checkpoints::convert(&root().join(SOURCE), &out, scheme)?;
        eval.arg("--model").arg(format!("{scheme}={}", out.display()));
    }
    run_command(eval.args(["--model", &q4]).arg("--suite").arg(suite).arg("--predictions").arg(folder.join("answers")))
}

fn evaluation() -> std::process::Command {
    command("cargo run --quiet --release --package qwen-vl-cli --bin qwenvl -- eval")
}

/// Exports the test split, whose seed is 2. Seed 1 was used to develop the recipes, so it would not be a fair test.
fn export(folder: &Path, count: u64, dialogues: u64) -> Result<()> {
    let export = "cargo run --quiet --release --package qwen-vl-world -- export --split test --seed 2";
    run_command(command(export).args(["--count", &count.to_string(), "--dialogues", &dialogues.to_string(), "--out"]).arg(folder))
}
