//! `cargo xtask test`: everything that must pass, cheapest first.

use crate::process::{Background, command, installed, processor_time, root, run as run_command, target_dir};
use crate::version::Version;
use crate::wasm::Backends;
use crate::{cases, checkpoints, lint, packages, page, system};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Args, Default)]
pub struct Options {
    /// Run this part alone, with the parts that it needs; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Run only the tests whose name contains this text
    #[arg(long, value_name = "TEXT", requires = "only")]
    test: Option<String>,
    /// Take all cases and points where tests in browsers take a part otherwise; hours
    #[arg(long, requires = "only")]
    thorough: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Tools, packages and browsers that the machine lacks
    Setup,
    /// rustfmt, and Prettier for TypeScript, JavaScript and CSS
    Format,
    /// Unit tests, kernels against their oracles, goldens, on a software Vulkan adapter
    Native,
    /// The npm package and the demo page
    Package,
    /// Clippy for this machine and for wasm32, the links in the docs, the linter of TypeScript, the writing rules, circles of imports
    Lint,
    /// The golden models, converted
    Checkpoints,
    /// The conversions of the native tests as files, for the converter of the package
    Cases,
    /// The package in Node, on Dawn (Chromium's WebGPU) with a newer lavapipe than that of the native tests
    Dawn,
    /// The benchmark of a GPU (`tools/bench/gpu.mjs`) with small sizes, on the lavapipe of `Dawn`
    Bench,
    /// The package and the page in Chromium
    Chromium,
    /// The package and the page in Firefox, while Chromium runs
    Firefox,
    /// The parts of the package that run without a browser, while Chromium runs
    Node,
    /// The packed package in projects of other tools, in both browsers
    Packaging,
    /// Conversions on the disk in which every system call on files and network fails in turn; runs only if it is named
    Faults,
    /// Lighthouse on the demo page; runs only if it is named
    Audit,
    /// The reference and the training on burn-wgpu, on a software Vulkan adapter; runs only if it is named, because it compiles 150 crates
    BurnWgpu,
}

impl Part {
    /// Parts that must pass before this one. All except `Setup` are quick if nothing changed.
    fn needs(self) -> &'static [Part] {
        match self {
            Self::Setup => &[],
            Self::Format | Self::Native | Self::Package | Self::Checkpoints | Self::Cases | Self::Audit | Self::BurnWgpu => &[Self::Setup],
            // The linter of TypeScript reads the types of the built wasm.
            Self::Lint => &[Self::Setup, Self::Package],
            Self::Bench | Self::Faults => &[Self::Setup, Self::Package],
            Self::Node => &[Self::Setup, Self::Package, Self::Cases],
            Self::Dawn | Self::Packaging => &[Self::Setup, Self::Package, Self::Checkpoints],
            Self::Chromium | Self::Firefox => &[Self::Setup, Self::Package, Self::Checkpoints, Self::Cases],
        }
    }

    /// True for parts that are too slow or too uneven for every run.
    fn only_if_named(self) -> bool {
        matches!(self, Self::Audit | Self::BurnWgpu | Self::Faults)
    }

    /// True if `--test` can choose from the part's tests.
    fn has_named_tests(self) -> bool {
        use Part::{Bench, BurnWgpu, Chromium, Dawn, Firefox, Native, Node, Packaging};
        matches!(self, Native | Node | Dawn | Bench | Chromium | Firefox | Packaging | BurnWgpu)
    }

    /// Runs the part, or only the tests whose name contains `name`.
    fn run(self, name: Option<&str>, thorough: bool) -> Result<()> {
        match self {
            Self::Setup => {
                system::wasm_target()?;
                system::browsers_and_vulkan()?;
                system::npm_packages()
            }
            Self::Format => all(vec![
                ("cargo fmt", run_command(&mut command("cargo fmt --all --check"))),
                ("prettier", run_command(&mut command("npm run --silent format:check"))),
            ]),
            Self::Lint => all(lint::run()),
            Self::Native => native(name),
            Self::Package => {
                packages::build(Backends::All)?;
                packages::pack_and_unpack()?;
                packages::page()
            }
            Self::Checkpoints => checkpoints::for_tests(),
            Self::Cases => cases::write(),
            Self::Node => run_command(&mut node(name)?),
            Self::Dawn => dawn(name),
            Self::Bench => bench(name),
            Self::Chromium => run_command(&mut browser("chromium", system::chromium_program(), name, thorough)?),
            Self::Firefox => run_command(&mut browser("firefox", system::firefox_program(), name, thorough)?),
            Self::Packaging => packaging(name),
            Self::Faults => faults(),
            Self::Audit => page::audit(),
            Self::BurnWgpu => burn_wgpu(name),
        }
    }
}

/// The end of a part.
enum Outcome {
    Passed,
    Failed(anyhow::Error),
    /// A part that it needs did not pass.
    NotRun(Part),
}

/// Runs the chosen parts, by default all that need not be named, and prints how long each took. Continues after a part that fails, except
/// with the parts that need it.
pub fn run(options: &Options) -> Result<()> {
    let asked = &options.only;
    if let (Some(_), Some(part)) = (&options.test, asked.iter().find(|part| !part.has_named_tests())) {
        bail!("--test chooses from tests, and the part {part:?} has none that it could choose");
    }
    let chosen = |part: &Part| match asked.is_empty() {
        true => !part.only_if_named(),
        false => asked.contains(part) || asked.iter().any(|other| other.needs().contains(part)),
    };
    for old in fs::read_dir(failures_dir()?)? {
        fs::remove_file(old?.path())?;
    }
    let mut rows: Vec<(Part, Duration, Option<Duration>, Outcome)> = Vec::new();
    // Neither browser keeps two cores busy.
    let mut background = Vec::new();
    for part in Part::value_variants().iter().copied().filter(chosen) {
        println!("\n== {part:?}");
        let failed = rows.iter().find(|(other, .., outcome)| part.needs().contains(other) && !matches!(outcome, Outcome::Passed));
        if let Some((needed, ..)) = failed {
            let needed = *needed;
            println!("not run, because {needed:?} did not pass");
            rows.push((part, Duration::ZERO, None, Outcome::NotRun(needed)));
            continue;
        }
        let (started, processor) = (Instant::now(), processor_time());
        let name = options.test.as_deref().filter(|_| asked.contains(&part));
        if part == Part::Chromium {
            for other in [Part::Firefox, Part::Node].into_iter().filter(chosen) {
                // An error here comes again when the part runs.
                let command = match other {
                    Part::Node => node(name),
                    _ => browser("firefox", system::firefox_program(), name, options.thorough),
                };
                if let Ok(command) = command {
                    background.push((other, Background::start(&format!("{other:?}").to_lowercase(), command)?));
                }
            }
        }
        let running = background.iter().position(|(other, _)| *other == part).map(|index| background.remove(index).1);
        let result = running.map_or_else(|| part.run(name, options.thorough), Background::end);
        let outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                println!("{part:?} failed: {error:#}");
                Outcome::Failed(error)
            }
        };
        let processor = processor.zip(processor_time()).map(|(before, after)| after.saturating_sub(before));
        rows.push((part, started.elapsed(), processor, outcome));
    }
    print_failed_tests()?;
    print_table(&rows);
    let failures: Vec<String> = rows.iter().filter_map(|(part, .., outcome)| failure(*part, outcome)).collect();
    ensure!(failures.is_empty(), "{} of {} parts did not pass:\n{}", failures.len(), rows.len(), failures.join("\n"));
    Ok(())
}

fn failure(part: Part, outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Passed => None,
        Outcome::Failed(error) => Some(format!("  {part:?}: {error:#}")),
        Outcome::NotRun(needed) => Some(format!("  {part:?}: not run, because {needed:?} did not pass")),
    }
}

/// Prints what `tools/failures.mjs` wrote about the tests that failed in Node and in browsers.
fn print_failed_tests() -> Result<()> {
    for entry in fs::read_dir(failures_dir()?)? {
        let entry = entry?;
        let failed = fs::read_to_string(entry.path())?;
        if !failed.is_empty() {
            println!("\nFailed in {}:\n{failed}", entry.file_name().display());
        }
    }
    Ok(())
}

/// The folder with a file of failed tests for each run of `node --test`.
fn failures_dir() -> Result<PathBuf> {
    let folder = target_dir().join("failures");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Returns a run of `node --test`, which also lists its failed tests in a file of [`failures_dir`].
fn node_test(reporter: &str, run: &str) -> Result<Command> {
    let mut node = command("node --test --test-reporter=./tools/failures.mjs");
    node.arg(format!("--test-reporter-destination={}", failures_dir()?.join(run).display()));
    node.arg(format!("--test-reporter={reporter}")).arg("--test-reporter-destination=stdout");
    Ok(node)
}

fn print_table(rows: &[(Part, Duration, Option<Duration>, Outcome)]) {
    println!("\n{:12} {:>10} {:>12}", "part", "clock", "processor");
    let print = |name: &str, clock: Duration, processor: Option<Duration>, end: &str| {
        let processor = processor.map_or("unknown".to_owned(), |time| format!("{:.0} s", time.as_secs_f64()));
        println!("{name:12} {:>8.0} s {processor:>12}  {end}", clock.as_secs_f64());
    };
    for (part, clock, processor, outcome) in rows {
        let end = match outcome {
            Outcome::Passed => "ok",
            Outcome::Failed(_) => "FAILED",
            Outcome::NotRun(_) => "not run",
        };
        print(&format!("{part:?}"), *clock, *processor, end);
    }
    let sum = rows.iter().map(|(_, clock, ..)| *clock).sum();
    print("all", sum, rows.iter().filter_map(|(_, _, processor, _)| *processor).reduce(|a, b| a + b), "");
}

/// Collects the results of independent steps: fails if one does, and names all that did.
fn all(steps: Vec<(&str, Result<()>)>) -> Result<()> {
    let failures: Vec<String> = steps.into_iter().filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?))).collect();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

fn native(name: Option<&str>) -> Result<()> {
    let icd = system::lavapipe_icd().context("no software Vulkan driver")?;
    let nextest = installed("cargo-nextest");
    // All failures are listed, not only the first.
    let runner = if nextest { "cargo nextest run --no-fail-fast" } else { "cargo test --no-fail-fast" };
    let mut tests = command(runner);
    tests.args(name).env("VK_DRIVER_FILES", &icd);
    // Of the figure that the test of many rounds writes.
    let Version { commit, date } = Version::now();
    tests.envs([("QWEN_VL_COMMIT", commit), ("QWEN_VL_DATE", date)].into_iter().filter_map(|(name, value)| Some((name, value?))));
    let tests = run_command(&mut tests);
    let xtask = run_command(command("cargo test --quiet --package xtask --").args(name));
    // nextest leaves out the examples in the docs.
    let examples = if nextest && name.is_none() { run_command(&mut command("cargo test --quiet --doc")) } else { Ok(()) };
    print_missing_references();
    all(vec![("tests", tests), ("tests of xtask", xtask), ("examples in the docs", examples)])
}

/// Names the reference sets that are not on this machine: the test runners hide what passing tests print.
fn print_missing_references() {
    for (variable, default) in [("QWEN_VL_REFERENCE", "../shared/reference"), ("QWEN_VL_FAMILY_REFERENCE", "../shared/reference-family")] {
        let folder = std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from);
        if !folder.is_dir() {
            println!("not run: tests of the larger reference set, because {} is missing (set {variable} to its folder)", folder.display());
        }
    }
}

fn burn_wgpu(name: Option<&str>) -> Result<()> {
    let runner = if installed("cargo-nextest") { "cargo nextest run" } else { "cargo test" };
    let tests = "--no-fail-fast --package qwen-vl-reference --package qwen-vl-train --features wgpu --test burn_wgpu";
    run_command(
        command(&format!("{runner} {tests}"))
            .args(name)
            .env("VK_DRIVER_FILES", system::lavapipe_icd().context("no software Vulkan driver")?),
    )
}

fn node(name: Option<&str>) -> Result<Command> {
    // Tests compare the converter in wasm with the native one. Without `--package` cargo reuses what the native tests compiled.
    run_command(&mut command("cargo build --quiet --bin quantize --example grounding"))?;
    let mut node = node_tests("node", &["pkg-tests/node", "web/test", "tools/lint"], name)?;
    node.env("QWEN_VL_QUANTIZE", target_dir().join("debug/quantize")).env("QWEN_VL_CASES", cases::folder());
    node.env("QWEN_VL_GROUNDING", target_dir().join("debug/examples/grounding"));
    Ok(node)
}

fn faults() -> Result<()> {
    system::strace()?;
    run_command(&mut command("cargo build --quiet --bin quantize"))?;
    let mut node = command("node pkg-tests/faults/native.mjs");
    node.env("QWEN_VL_QUANTIZE", target_dir().join("debug/quantize"));
    run_command(node.env("QWEN_VL_PACKAGE", target_dir().join("package/package")))
}

fn bench(name: Option<&str>) -> Result<()> {
    run_command(&mut command("cargo build --quiet --bin qwenvl"))?;
    let mut node = node_tests("bench", &["tools/bench/gpu"], name)?;
    run_command(node.env("QWEN_VL_PROGRAM", target_dir().join("debug/qwenvl")).env("VK_DRIVER_FILES", system::dawn_icd()?))
}

/// Returns the command that runs the tests of folders, or only those whose name contains `name`.
fn node_tests(run: &str, folders: &[&str], name: Option<&str>) -> Result<Command> {
    let mut node = node_test("dot", run)?;
    if let Some(name) = name {
        node.arg(format!("--test-name-pattern={}", escaped(name)));
    }
    for folder in folders {
        // Listed here, because versions of Node differ in the patterns and folders that they accept.
        let mut files = fs::read_dir(root().join(folder))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.to_string_lossy().ends_with(".test.mjs"));
        ensure!(!files.is_empty(), "{folder} has no tests");
        node.args(files);
    }
    Ok(node)
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_ascii_punctuation() { vec!['\\', c] } else { vec![c] }).collect()
}

fn dawn(name: Option<&str>) -> Result<()> {
    run_command(suite("dawn", "pkg-tests/dawn/dawn.test.mjs", name)?.env("VK_DRIVER_FILES", system::dawn_icd()?))
}

/// Returns the command that runs the tests of a browser.
fn browser(browser: &str, program: Option<&str>, name: Option<&str>, thorough: bool) -> Result<Command> {
    let mut suite = suite(browser, "pkg-tests/browser.test.mjs", name)?;
    suite
        .env("QWEN_VL_BROWSER", browser)
        .env("QWEN_VL_BROWSER_PROGRAM", program.with_context(|| format!("{browser} is not installed"))?)
        .env("QWEN_VL_VULKAN_ICD", system::lavapipe_icd().context("no software Vulkan driver")?)
        .env("QWEN_VL_PACKAGE", target_dir().join("package/package"))
        .env("QWEN_VL_CASES", cases::folder())
        .env("QWEN_VL_THOROUGH", if thorough { "1" } else { "" });
    Ok(suite)
}

fn packaging(name: Option<&str>) -> Result<()> {
    packages::api_reference(&target_dir().join("api"), true)?;
    run_command(
        suite("packaging", "pkg-tests/packaging/packaging.test.mjs", name)?
            .env("QWEN_VL_TARBALL", packages::tarball()?)
            .env("QWEN_VL_SCRATCH", target_dir().join("packaging"))
            .env("QWEN_VL_CHROMIUM", system::chromium_program().context("Chromium is not installed")?)
            .env("QWEN_VL_FIREFOX", system::firefox_program().context("Firefox is not installed")?)
            .env("QWEN_VL_VULKAN_ICD", system::lavapipe_icd().context("no software Vulkan driver")?),
    )
}

/// A file of tests that `pkg-tests/bed.mjs` registers: they choose by `QWEN_VL_TEST`.
fn suite(run: &str, file: &str, name: Option<&str>) -> Result<Command> {
    let mut node = node_test("spec", run)?;
    node.arg("--test-concurrency=1").arg(file).env("QWEN_VL_CHECKPOINTS", checkpoints::test_folder());
    if let Some(name) = name {
        node.env("QWEN_VL_TEST", name);
    }
    Ok(node)
}
