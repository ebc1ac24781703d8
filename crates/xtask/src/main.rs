//! All automation of Qwen-VL Web: `cargo xtask --help`.

mod cases;
mod checkpoints;
mod demo;
mod evaluate;
mod fuzz;
mod isa;
mod licences;
mod lint;
mod packages;
mod page;
mod process;
mod reproduce;
mod robustness;
mod system;
mod test;
mod version;
mod wasm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use wasm::Backends;

#[derive(Parser)]
#[command(about = "Build, demo and test automation of Qwen-VL Web")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build what the demo page needs, serve it with a model, and print its address
    Demo(demo::Options),
    /// Install what is missing and run everything that must pass
    Test(test::Options),
    /// Build the demo page with its embedded model into www/dist, ready for any static host
    Site,
    /// Take pictures of the demo page's main states: desktop and phone, light and dark, English and Chinese
    Screenshots {
        /// Folder for the pictures
        #[arg(long, value_name = "DIR", default_value = "target/screenshots")]
        out: PathBuf,
    },
    /// Measure the embedded model on the world's test split, in f32, 8 and 4 bits, and print the table
    Evaluate(evaluate::Options),
    /// Run Lighthouse on the demo page and print its table; fails below 95
    Audit,
    /// Compile every kernel for AMD and NVIDIA without a GPU, print registers, spills and instructions, and compare them with
    /// crates/kernels/isa.tsv; ends with 3 if that file is of other compilers
    Isa(isa::Options),
    /// Write web/THIRD_PARTY_LICENSES.txt: the licences of the crates in the wasm files
    Licences,
    /// Run the fuzz targets of all parsers of outside input, print a table, and write it to target/robustness/fuzz.json
    Fuzz(fuzz::Options),
    /// Build the npm package and pack it into target/package
    Package,
    /// Build the npm package from two copies of the tree at different paths, print the SHA-256 of its files, and fail if they differ
    Reproduce(reproduce::Options),
    /// Print one table of the figures that `fuzz` and `test --thorough` have left in target/robustness; fails if something was wrong or lost
    Robustness,
    /// Build the wasm and the TypeScript of the npm package into web/dist, and print where the bytes come from
    Web,
}

/// Exit code of `isa` if it could not compare.
const OTHER_VERSIONS: u8 = 3;

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<isa::OtherVersions>() { ExitCode::from(OTHER_VERSIONS) } else { ExitCode::FAILURE }
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Site => page::site(),
        Task::Screenshots { out } => page::screenshots(&out),
        Task::Evaluate(options) => evaluate::run(&options),
        Task::Audit => page::audit(),
        Task::Isa(options) => isa::run(&options),
        Task::Licences => licences::write(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Package => {
            packages::build(Backends::All)?;
            println!("{}", packages::pack()?.display());
            Ok(())
        }
        Task::Reproduce(options) => reproduce::run(&options),
        Task::Robustness => robustness::run(),
        Task::Web => {
            packages::build(Backends::All)?;
            wasm::report()
        }
    }
}
