//! Writes a checkpoint of random weights: `synthetic CONFIG.json QWEN.TIKTOKEN OUT_DIR [SEED]`.
//!
//! With the published configuration of Qwen-VL(-Chat) it has its 853 tensors and 19.3 GB. The later generations work likewise.

use anyhow::{Context, Result};
use std::path::Path;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, tokenizer, out, seed @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: synthetic CONFIG.json QWEN.TIKTOKEN OUT_DIR [SEED]");
    };
    let read = |path: &String| std::fs::read(path).with_context(|| format!("could not read {path}"));
    let config = serde_json::from_slice(&read(config)?).context("the configuration is not JSON")?;
    let seed = seed.first().map_or(Ok(0), |seed| seed.parse()).context("SEED is a number")?;
    qwen_vl_testkit::synthetic::write_synthetic_checkpoint(&config, seed, &read(tokenizer)?, Path::new(out))
}
