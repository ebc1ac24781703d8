//! `cargo xtask demo`.

use crate::process::{self, command};
use crate::wasm::Backends;
use crate::{checkpoints, packages, system};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

#[derive(Args)]
pub struct Options {
    /// Web checkpoint to show: a folder, an address, or a Hugging Face folder, which is converted first
    #[arg(long, value_name = "DIR_OR_URL")]
    model: Option<String>,
    /// Ask this question in a headless browser, print the answer, and exit
    #[arg(long, value_name = "TEXT")]
    ask: Option<String>,
    /// Picture to ask about
    #[arg(long, value_name = "FILE", requires = "ask")]
    image: Option<PathBuf>,
    /// Port of the page; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Builds the page and shows it.
///
/// The first answer does not need the CPU fallback, whose wasm takes as long to build as everything else. `--ask` leaves it out; the served
/// page gets it as soon as it is built.
pub fn run(options: &Options) -> Result<()> {
    if options.ask.is_some() {
        system::chromium()?;
    }
    packages::build(Backends::WebGpu)?;
    packages::page()?;
    let model = checkpoints::for_demo(options.model.as_deref())?;

    let mut node = command("node tools/demo.mjs --site www/dist");
    node.arg("--model").arg(model).arg("--port").arg(options.port.to_string());
    let Some(question) = &options.ask else { return serve(&mut node) };
    node.arg("--ask").arg(question);
    node.arg("--chromium").arg(system::chromium_program().context("Chromium is not installed")?);
    if let Some(image) = &options.image {
        node.arg("--image").arg(image.canonicalize().with_context(|| format!("--image {}", image.display()))?);
    }
    process::run(&mut node)
}

/// Serves the page, and adds the CPU fallback to it meanwhile if it is not there.
fn serve(node: &mut Command) -> Result<()> {
    let mut server = process::start(node)?;
    if !packages::has_fallback() {
        println!("browsers without WebGPU need the CPU fallback: it is being built");
        match packages::build(Backends::All).and_then(|()| packages::page()) {
            Ok(()) => println!("the CPU fallback is built: reload the page in a browser without WebGPU"),
            Err(error) => eprintln!("could not build the CPU fallback: {error:#}"),
        }
    }
    process::wait(&mut server, node)
}
