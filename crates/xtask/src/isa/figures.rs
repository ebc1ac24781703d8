//! The figures of one kernel, and the file of the repository that has those of all.

use super::listing::{self, Loop};
use super::record::Record;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;

/// A figure; absent where the compiler does not report it.
pub type Figure = Option<u64>;

/// The registers, memory and instructions of a kernel, as its compiler reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Registers of a lane.
    pub registers: Figure,
    /// Registers that were moved to memory because there were too few.
    pub spills: Figure,
    /// Memory for spills and for arrays that are not in registers, bytes: of a wave on AMD, of a lane on NVIDIA.
    pub scratch: Figure,
    /// Waves that a SIMD holds at once.
    pub waves: Figure,
    /// Instructions.
    pub instructions: Figure,
    /// Vector instructions of the main loop: the one with the most.
    pub loop_valu: Figure,
    /// Vector instructions of the innermost loop with the most.
    pub inner_valu: Figure,
    /// Loads of the main loop before its first wait for one.
    pub loads: Figure,
}

/// Names of the figures, in the order of [`Figures::all`].
pub const NAMES: [&str; 8] = ["registers", "spills", "scratch", "waves", "instructions", "loop VALU", "inner VALU", "loads"];

impl Figures {
    /// The figures in the order of [`NAMES`].
    pub fn all(&self) -> [Figure; 8] {
        let Self { registers, spills, scratch, waves, instructions, loop_valu, inner_valu, loads } = *self;
        [registers, spills, scratch, waves, instructions, loop_valu, inner_valu, loads]
    }

    fn from_all(all: [Figure; 8]) -> Self {
        let [registers, spills, scratch, waves, instructions, loop_valu, inner_valu, loads] = all;
        Self { registers, spills, scratch, waves, instructions, loop_valu, inner_valu, loads }
    }

    /// Returns the figures of RADV, the driver for AMD.
    pub fn amd(record: &Record) -> Self {
        let statistic = |name: &str| record.statistics.get(name).copied();
        let sum = |[a, b]: [&str; 2]| Some(statistic(a)? + statistic(b)?);
        let loops = listing::amd(&record.assembly);
        // RADV counts subgroups of 64 lanes twice.
        let halves = statistic("Subgroup size").map(|lanes| (lanes / 32).max(1));
        Self {
            registers: statistic("VGPRs"),
            spills: sum(["Spilled VGPRs", "Spilled SGPRs"]),
            scratch: statistic("Scratch size"),
            waves: statistic("Subgroups per SIMD").zip(halves).map(|(subgroups, halves)| subgroups / halves),
            instructions: statistic("Instructions"),
            loads: main(loops.iter()).map(|main| main.loads_in_flight() as u64),
            ..Self::of_loops(&loops)
        }
    }

    /// Returns the figures of NVK, Mesa's driver for NVIDIA. It does not count spills, which are in the scratch memory.
    pub fn nvidia(record: &Record) -> Self {
        let statistic = |name: &str| record.statistics.get(name).copied();
        let registers = statistic("Number of GPRs");
        Self {
            registers,
            scratch: statistic("SLM Size"),
            waves: registers.map(nvidia_waves),
            instructions: statistic("Instruction count"),
            ..Self::of_loops(&listing::nvidia(&record.assembly))
        }
    }

    fn of_loops(loops: &[Loop]) -> Self {
        let valu = |found: Option<&Loop>| found.map(|found| found.valu() as u64);
        let inner = loops.iter().filter(|found| found.innermost);
        Self { loop_valu: valu(main(loops.iter())), inner_valu: valu(main(inner)), ..Self::default() }
    }
}

fn main<'a>(loops: impl Iterator<Item = &'a Loop>) -> Option<&'a Loop> {
    loops.max_by_key(|found| found.valu())
}

/// Returns the warps that a quarter of a multiprocessor holds by their registers: it has 512 for each of 32 lanes, in units of 8, and holds 12
/// warps at most (compute capability 8.6). Workgroup memory may allow fewer.
fn nvidia_waves(registers: u64) -> u64 {
    (512 / registers.next_multiple_of(8).max(8)).min(12)
}

/// The place of a row: kernel, target, compiler.
pub type Key = [String; 3];

/// The rows of all kernels, and the versions of the compilers that made them.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Table {
    /// Names and versions.
    pub versions: BTreeMap<String, String>,
    /// The rows.
    pub rows: BTreeMap<Key, Figures>,
}

impl Table {
    /// Returns the table as text: versions as comments, a head, and a line for each row, with tabs between the values.
    pub fn to_tsv(&self) -> String {
        let mut text = String::from("# Written by `cargo xtask isa --write`; crates/kernels/README.md explains it.\n");
        for (name, version) in &self.versions {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# {name}: {version}");
        }
        let _ = writeln!(text, "kernel\ttarget\tcompiler\t{}", NAMES.join("\t"));
        for (key, figures) in &self.rows {
            let figures = figures.all().map(shown);
            let _ = writeln!(text, "{}\t{}", key.join("\t"), figures.join("\t"));
        }
        text
    }
}

impl FromStr for Table {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for (at, line) in text.lines().enumerate() {
            if let Some(comment) = line.strip_prefix("# ") {
                table.versions.extend(comment.split_once(": ").map(|(name, version)| (name.to_owned(), version.to_owned())));
            } else if !line.starts_with("kernel\t") {
                let (key, figures) = row(line).with_context(|| format!("line {}: `{line}`", at + 1))?;
                table.rows.insert(key, figures);
            }
        }
        Ok(table)
    }
}

fn row(line: &str) -> Result<(Key, Figures)> {
    let values: Vec<&str> = line.split('\t').collect();
    ensure!(values.len() == 3 + NAMES.len(), "{} values, expected {}", values.len(), 3 + NAMES.len());
    let mut figures = [None; NAMES.len()];
    for (figure, value) in figures.iter_mut().zip(&values[3..]) {
        *figure = match *value {
            "-" => None,
            number => Some(number.parse().with_context(|| format!("`{number}` is not a whole number"))?),
        };
    }
    Ok((std::array::from_fn(|at| values[at].to_owned()), Figures::from_all(figures)))
}

/// Returns a figure as text.
pub fn shown(figure: Figure) -> String {
    figure.map_or("-".to_owned(), |number| number.to_string())
}
