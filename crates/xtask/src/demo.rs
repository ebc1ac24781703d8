//! `cargo xtask demo`.

use crate::process::{self, command};
use crate::{checkpoints, packages, system};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// Web checkpoint to show: a folder, an address, or a Hugging Face folder, which is converted first
    #[arg(long, value_name = "DIR_OR_URL")]
    model: Option<String>,
    /// Ask this question in a headless browser, print the answer, and end
    #[arg(long, value_name = "TEXT")]
    ask: Option<String>,
    /// Picture to ask about
    #[arg(long, value_name = "FILE", requires = "ask")]
    image: Option<PathBuf>,
    /// Port of the page; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Builds everything and shows it.
pub fn run(options: &Options) -> Result<()> {
    if options.ask.is_some() {
        system::chromium()?;
    }
    packages::build()?;
    packages::site()?;
    let model = checkpoints::for_demo(options.model.as_deref())?;

    let mut node = command("node tools/demo.mjs --site www/dist");
    node.arg("--model").arg(model).arg("--port").arg(options.port.to_string());
    if let Some(question) = &options.ask {
        node.arg("--ask").arg(question);
        node.arg("--chromium").arg(system::chromium_program().context("Chromium is not installed")?);
    }
    if let Some(image) = &options.image {
        node.arg("--image").arg(image.canonicalize().with_context(|| format!("--image {}", image.display()))?);
    }
    process::run(&mut node)
}
