//! The comparison of what was compiled with the file of the repository.

use super::figures::{Figures, Key, NAMES, Table, shown};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Figures that must not grow.
const GUARDED: [&str; 3] = ["spills", "scratch", "instructions"];

/// The differences of two tables, as lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Guarded figures that are larger.
    pub worse: Vec<String>,
    /// Guarded figures that are smaller.
    pub better: Vec<String>,
    /// Other figures that differ.
    pub other: Vec<String>,
    /// Rows that only one of the tables has.
    pub unmatched: Vec<String>,
}

impl Differences {
    /// Compares rows of the same compilers.
    pub fn new(before: &BTreeMap<Key, Figures>, now: &BTreeMap<Key, Figures>) -> Self {
        let mut differences = Self::default();
        for (key, figures) in now {
            match before.get(key) {
                Some(known) => differences.add(key, known, figures),
                None => differences.unmatched.push(format!("{}: not in the file", key.join(", "))),
            }
        }
        let gone = before.keys().filter(|key| !now.contains_key(*key));
        differences.unmatched.extend(gone.map(|key| format!("{}: in the file, and not compiled", key.join(", "))));
        differences
    }

    fn add(&mut self, key: &Key, before: &Figures, now: &Figures) {
        for ((name, before), now) in NAMES.iter().zip(before.all()).zip(now.all()) {
            if before == now {
                continue;
            }
            let list = match (GUARDED.contains(name), now > before) {
                (false, _) => &mut self.other,
                (true, true) => &mut self.worse,
                (true, false) => &mut self.better,
            };
            list.push(format!("{}: {name} {} -> {}", key.join(", "), shown(before), shown(now)));
        }
    }

    /// Prints the differences. Returns an error if a guarded figure is larger or a row has no counterpart.
    pub fn check(&self) -> Result<()> {
        let lists = [("worse", &self.worse), ("better", &self.better), ("changed", &self.other), ("unmatched", &self.unmatched)];
        for (name, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            println!("\n{name}:\n  {}", lines.join("\n  "));
        }
        ensure!(
            self.worse.is_empty() && self.unmatched.is_empty(),
            "{} of {} are larger than in the file, {} rows have no counterpart; `cargo xtask isa --write` accepts that",
            self.worse.len(),
            GUARDED.join(", "),
            self.unmatched.len()
        );
        Ok(())
    }
}

/// Returns the versions that differ, as lines.
pub fn other_versions(file: &Table, now: &Table) -> Vec<String> {
    let unknown = || "unknown".to_owned();
    let differing = now.versions.iter().filter(|(name, version)| file.versions.get(*name) != Some(version));
    differing
        .map(|(name, version)| format!("{name} {version}, in the file {}", file.versions.get(name).cloned().unwrap_or_else(unknown)))
        .collect()
}
