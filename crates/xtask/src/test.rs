//! `cargo xtask test`: everything that must pass, cheapest first.

use crate::process::{command, installed, root, run as run_command, target_dir};
use crate::{checkpoints, packages, system};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use std::fs;
use std::time::{Duration, Instant};

#[derive(Args, Default)]
pub struct Options {
    /// Run this part alone, with what it needs; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Tools, packages and browsers that are not on the machine yet
    Setup,
    /// rustfmt
    Format,
    /// Clippy for this machine and for wasm32, and the links in the docs
    Lint,
    /// Unit tests, kernels against their oracles, goldens, on a software Vulkan adapter
    Native,
    /// The npm package and the demo page
    Package,
    /// The golden models, converted
    Checkpoints,
    /// What of the package runs without a browser
    Node,
    /// The package in Node, on Dawn (Chromium's WebGPU) with a newer lavapipe than the native tests may have
    Dawn,
    /// The package and the page in Chromium
    Chromium,
    /// The package and the page in Firefox
    Firefox,
    /// The packed package in projects of other tools, in both browsers
    Packaging,
}

impl Part {
    /// Parts that have to run before this one. All but `Setup` are quick where nothing changed.
    fn needs(self) -> &'static [Part] {
        match self {
            Self::Setup | Self::Format => &[],
            Self::Lint | Self::Native | Self::Package | Self::Checkpoints => &[Self::Setup],
            Self::Node => &[Self::Setup, Self::Package],
            Self::Dawn | Self::Chromium | Self::Firefox | Self::Packaging => &[Self::Setup, Self::Package, Self::Checkpoints],
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Setup => {
                system::wasm_target()?;
                system::browsers_and_vulkan()?;
                system::npm_packages()
            }
            Self::Format => run_command(&mut command("cargo fmt --all --check")),
            Self::Lint => lint(),
            Self::Native => native(),
            Self::Package => {
                packages::build()?;
                packages::pack_and_unpack()?;
                packages::site()
            }
            Self::Checkpoints => checkpoints::for_tests(),
            Self::Node => node(),
            Self::Dawn => dawn(),
            Self::Chromium => browser("chromium", system::chromium_program()),
            Self::Firefox => browser("firefox", system::firefox_program()),
            Self::Packaging => packaging(),
        }
    }
}

/// Runs the chosen parts, all by default, and prints how long each took. Stops at the first that fails.
pub fn run(options: &Options) -> Result<()> {
    let chosen = |part: &&Part| {
        let asked = &options.only;
        asked.is_empty() || asked.contains(part) || asked.iter().any(|other| other.needs().contains(part))
    };
    let mut rows: Vec<(Part, Duration, bool)> = Vec::new();
    let mut outcome = Ok(());
    for part in Part::value_variants().iter().filter(chosen) {
        println!("\n== {part:?}");
        let started = Instant::now();
        outcome = part.run().with_context(|| format!("{part:?} failed"));
        rows.push((*part, started.elapsed(), outcome.is_ok()));
        if outcome.is_err() {
            break;
        }
    }
    println!();
    for (part, took, passed) in &rows {
        println!("{:12} {:7.1} s  {}", format!("{part:?}"), took.as_secs_f64(), if *passed { "ok" } else { "FAILED" });
    }
    let whole: Duration = rows.iter().map(|(_, took, _)| *took).sum();
    println!("{:12} {:7.1} s", "all", whole.as_secs_f64());
    outcome
}

fn lint() -> Result<()> {
    run_command(&mut command("cargo clippy --quiet --all-targets -- --deny warnings"))?;
    // What runs in a tab is linted for its target too, with calls forbidden that block or do not exist there.
    let in_browser = ["format", "processor", "kernels", "runtime", "cpu", "web", "web-cpu"].map(|name| format!("--package qwen-vl-{name}"));
    let line = format!("cargo clippy --quiet --target wasm32-unknown-unknown {} -- --deny warnings", in_browser.join(" "));
    run_command(command(&line).env("CLIPPY_CONF_DIR", "web"))?;
    run_command(command("cargo doc --quiet --no-deps").env("RUSTDOCFLAGS", "--deny rustdoc::broken_intra_doc_links"))
}

fn native() -> Result<()> {
    let icd = system::lavapipe_icd().context("no software Vulkan driver")?;
    let runner = if installed("cargo-nextest") { "cargo nextest run" } else { "cargo test" };
    run_command(command(runner).env("VK_DRIVER_FILES", icd))
}

fn node() -> Result<()> {
    let mut node = command("node --test --test-reporter=dot");
    for folder in ["pkg-tests/node", "web/test"] {
        // Listed here, because versions of Node differ in what they take for a pattern or a folder.
        let mut files = fs::read_dir(root().join(folder))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.to_string_lossy().ends_with(".test.mjs"));
        ensure!(!files.is_empty(), "{folder} has no tests");
        node.args(files);
    }
    run_command(&mut node)
}

fn dawn() -> Result<()> {
    run_command(
        command("node --test --test-reporter=spec pkg-tests/dawn/dawn.test.mjs")
            .env("VK_DRIVER_FILES", system::dawn_icd()?)
            .env("QWEN_VL_CHECKPOINTS", checkpoints::test_folder()),
    )
}

fn browser(name: &str, program: Option<&str>) -> Result<()> {
    run_command(
        command("node --test --test-concurrency=1 --test-reporter=spec pkg-tests/browser.test.mjs")
            .env("QWEN_VL_BROWSER", name)
            .env("QWEN_VL_BROWSER_PROGRAM", program.with_context(|| format!("{name} is not installed"))?)
            .env("QWEN_VL_VULKAN_ICD", system::lavapipe_icd().context("no software Vulkan driver")?)
            .env("QWEN_VL_PACKAGE", target_dir().join("package/package"))
            .env("QWEN_VL_CHECKPOINTS", checkpoints::test_folder()),
    )
}

fn packaging() -> Result<()> {
    packages::api_reference(&target_dir().join("api"), true)?;
    run_command(
        command("node --test --test-concurrency=1 --test-reporter=spec pkg-tests/packaging/packaging.test.mjs")
            .env("QWEN_VL_TARBALL", packages::tarball()?)
            .env("QWEN_VL_CHECKPOINTS", checkpoints::test_folder())
            .env("QWEN_VL_SCRATCH", target_dir().join("packaging"))
            .env("QWEN_VL_CHROMIUM", system::chromium_program().context("Chromium is not installed")?)
            .env("QWEN_VL_FIREFOX", system::firefox_program().context("Firefox is not installed")?)
            .env("QWEN_VL_VULKAN_ICD", system::lavapipe_icd().context("no software Vulkan driver")?),
    )
}
