//! `cargo xtask isa`: what the kernels compile to on GPUs that are not there. `crates/kernels/README.md` describes it.

mod compare;
mod figures;
mod listing;
mod record;
mod setup;

use crate::process::{command, path_of, root, run as run_command, target_dir};
use crate::system;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use compare::{Differences, other_versions};
use figures::{Figures, Key, NAMES, Table, shown};
use record::Record;
use setup::Setup;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

/// The file that the figures are compared with.
const FILE: &str = "crates/kernels/isa.tsv";

#[derive(Args)]
pub struct Options {
    /// Compile for this GPU alone; may be repeated
    #[arg(long, value_enum)]
    target: Vec<Target>,
    /// Compile only the kernels whose name contains this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    kernel: String,
    /// Write the figures into the file of the repository, in place of the comparison
    #[arg(long, conflicts_with_all = ["target", "kernel"])]
    write: bool,
}

/// A GPU, by the driver that compiles for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Target {
    /// AMD's second generation of RDNA, by RADV
    Rdna2,
    /// AMD's third generation of RDNA, by RADV
    Rdna3,
    /// NVIDIA's GA102, by NVK
    Nvk,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Rdna2 => "rdna2",
            Self::Rdna3 => "rdna3",
            Self::Nvk => "nvk",
        }
    }

    /// The library of the driver, and the variable that chooses the GPU.
    fn driver(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::Rdna2 => ("libvulkan_radeon.so", ["RADV_FORCE_FAMILY", "navi21"]),
            Self::Rdna3 => ("libvulkan_radeon.so", ["RADV_FORCE_FAMILY", "navi31"]),
            Self::Nvk => ("libvulkan_nouveau.so", ["NOUVEAU_CHIPSET", "172"]),
        }
    }

    fn figures(self, record: &Record) -> Figures {
        match self {
            Self::Rdna2 | Self::Rdna3 => Figures::amd(record),
            Self::Nvk => Figures::nvidia(record),
        }
    }
}

/// A compiler of WGSL.
#[derive(Clone, Copy)]
enum Compiler {
    /// That of wgpu, natively and in Firefox.
    Naga,
    /// That of Dawn, in Chromium.
    Tint,
}

impl Compiler {
    const ALL: [Self; 2] = [Self::Naga, Self::Tint];

    fn name(self) -> &'static str {
        match self {
            Self::Naga => "naga",
            Self::Tint => "tint",
        }
    }

    /// The program that compiles the kernels of a folder, with its first arguments.
    fn program(self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Naga => Ok(vec![built("isa"), "compile".into()]),
            Self::Tint => Ok(vec![path_of("node").context("Node is not installed")?, root().join("tools/isa-dawn.mjs")]),
        }
    }
}

/// The file has the figures of other compilers, so that nothing can be compared.
#[derive(Debug)]
pub struct OtherVersions(String);

impl std::fmt::Display for OtherVersions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nothing was compared, because {FILE} is of other versions: {}", self.0)
    }
}

impl std::error::Error for OtherVersions {}

/// Compiles every kernel for every target, prints the figures, and compares them with the file or writes it.
pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let setup = Setup::get()?;
    system::npm_packages()?;
    run_command(&mut command("cargo build --quiet --package qwen-vl-isa"))?;
    fs::write(driver_description(), description().to_string())?;
    let kernels = setup::folder().join("kernels");
    list(&setup, &kernels, &options.kernel)?;
    let targets = if options.target.is_empty() { Target::value_variants() } else { &options.target };
    let mut now = Table { versions: versions(&setup)?, ..Table::default() };
    for &target in targets {
        let rows = compile(&setup, target, &kernels)?;
        print(target, &rows);
        now.rows.extend(rows);
    }
    println!(
        "\n{} rows in {:.0} s; {} has the assembly",
        now.rows.len(),
        started.elapsed().as_secs_f64(),
        setup::folder().join("records").display()
    );
    if options.write {
        fs::write(root().join(FILE), now.to_tsv()).with_context(|| format!("could not write {FILE}"))?;
        println!("wrote {FILE}");
        return Ok(());
    }
    compare(&now, |kernel, target| kernel.contains(&options.kernel) && targets.iter().any(|chosen| chosen.name() == target))
}

/// Compares the figures with those rows of the file whose kernel and target are `chosen`.
fn compare(now: &Table, chosen: impl Fn(&str, &str) -> bool) -> Result<()> {
    let text =
        fs::read_to_string(root().join(FILE)).with_context(|| format!("could not read {FILE}, which `cargo xtask isa --write` writes"))?;
    let mut known: Table = text.parse().with_context(|| FILE.to_owned())?;
    let other = other_versions(&known, now);
    if !other.is_empty() {
        bail!(OtherVersions(other.join("; ")));
    }
    known.rows.retain(|[kernel, target, _], _| chosen(kernel, target));
    Differences::new(&known.rows, &now.rows).check()?;
    println!("no kernel has more spills, scratch or instructions than in {FILE}");
    Ok(())
}

/// A file of the package `qwen-vl-isa`.
fn built(name: &str) -> PathBuf {
    target_dir().join("debug").join(name)
}

/// The file that leads the Vulkan loader to the driver of `qwen-vl-isa`.
fn driver_description() -> PathBuf {
    setup::folder().join("driver.json")
}

fn description() -> serde_json::Value {
    serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": built("libisa_driver.so"), "api_version": "1.4.0" },
    })
}

/// Versions of everything between WGSL and assembly.
fn versions(setup: &Setup) -> Result<BTreeMap<String, String>> {
    let package = fs::read_to_string(root().join("node_modules/webgpu/package.json")).context("could not read the version of Dawn")?;
    let package: serde_json::Value = serde_json::from_str(&package).context("the package of Dawn")?;
    let dawn = package["version"].as_str().context("the package of Dawn has no version")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("could not read Cargo.lock")?;
    let naga = lock.split("name = \"naga\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
    let versions = [("Mesa", setup.mesa.as_str()), ("Dawn (npm webgpu)", dawn), ("naga", naga.context("Cargo.lock has no naga")?)];
    Ok(versions.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
}

/// Creates a command that runs a program with the unpacked libraries on a target.
fn on(setup: &Setup, target: Target, program: &[PathBuf]) -> Command {
    let (driver, [variable, value]) = target.driver();
    let mut command = Command::new(&setup.program_loader);
    command.current_dir(root()).arg("--library-path").arg(&setup.libraries);
    if target == Target::Nvk {
        command.arg("--preload").arg(setup.libraries.join("libnouveau_noop_drm_shim.so"));
    }
    command.args(program).env(variable, value).env("ISA_DRIVER", setup.libraries.join(driver));
    command.env("VK_DRIVER_FILES", driver_description()).env("MESA_SHADER_CACHE_DISABLE", "true");
    command
}

/// Runs a command. Its output is printed only if it fails: drivers without a GPU print warnings.
fn quietly(mut command: Command, what: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("could not start {what}"))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = printed.lines().rev().take(20).collect();
        bail!("{what} failed: {}\n{}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

/// Writes the WGSL of every kernel whose name contains `text` into an empty folder.
fn list(setup: &Setup, folder: &Path, text: &str) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let mut command = on(setup, Target::Rdna3, &[built("isa"), "list".into()]);
    command.arg(folder).arg(text);
    quietly(command, "the listing of the kernels")
}

/// Compiles the kernels of a folder with all compilers at once.
fn compile(setup: &Setup, target: Target, kernels: &Path) -> Result<BTreeMap<Key, Figures>> {
    let records = setup::folder().join("records");
    fs::create_dir_all(&records)?;
    let one = |compiler: Compiler| -> Result<BTreeMap<Key, Figures>> {
        let (target_name, compiler_name) = (target.name(), compiler.name());
        let out = records.join(format!("{target_name}-{compiler_name}.txt"));
        fs::write(&out, "")?;
        let mut command = on(setup, target, &compiler.program()?);
        command.arg(kernels).arg(&out).env("ISA_OUT", &out);
        quietly(command, &format!("{compiler_name} for {target_name}"))?;
        let records = record::parse(&fs::read_to_string(&out)?);
        let empty = records.iter().find(|(_, record)| record.statistics.is_empty());
        ensure!(empty.is_none(), "{}: `{}` has no statistics", out.display(), empty.map_or("", |(name, _)| name));
        let key = |kernel: String| [kernel, target_name.to_owned(), compiler_name.to_owned()];
        Ok(records.into_iter().map(|(kernel, record)| (key(kernel), target.figures(&record))).collect())
    };
    thread::scope(|scope| {
        let running = Compiler::ALL.map(|compiler| scope.spawn(move || one(compiler)));
        let mut rows = BTreeMap::new();
        for thread in running {
            rows.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread that compiles panicked"))??);
        }
        Ok(rows)
    })
}

/// Prints the rows of a target as Markdown: one line for a kernel, `naga / tint` where the two differ.
fn print(target: Target, rows: &BTreeMap<Key, Figures>) {
    let mut kernels: Vec<&str> = rows.keys().map(|[kernel, ..]| kernel.as_str()).collect();
    kernels.dedup();
    let mut lines = vec![["kernel"].into_iter().chain(NAMES).map(str::to_owned).collect::<Vec<_>>()];
    for kernel in kernels {
        let figures = Compiler::ALL.map(|compiler| {
            let key = [kernel, target.name(), compiler.name()].map(str::to_owned);
            rows.get(&key).map_or([None; NAMES.len()], Figures::all)
        });
        let cells = (0..NAMES.len()).map(|at| match figures.map(|figures| figures[at]) {
            [naga, tint] if naga == tint => shown(naga),
            [naga, tint] => format!("{} / {}", shown(naga), shown(tint)),
        });
        lines.push([kernel.to_owned()].into_iter().chain(cells).collect());
    }
    println!("\n{}: naga / tint\n\n{}", target.name(), markdown(&lines));
}

/// Returns an aligned table; the first line is its head.
fn markdown(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let row = |line: &[String]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut rows: Vec<String> = lines.iter().map(|line| row(line)).collect();
    rows.insert(1, row(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>()));
    rows.join("\n")
}

#[cfg(test)]
mod tests;
