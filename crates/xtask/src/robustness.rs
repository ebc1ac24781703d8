//! `cargo xtask robustness`: one table of the figures that fuzzing and the thorough tests have left in `target/robustness`.

use crate::process::target_dir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the table.
struct Figure {
    what: String,
    /// Inputs, points of faults, answers or rounds.
    points: u64,
    /// Points after which something was not right: an answer, an error, or what the next run did.
    wrong: u64,
    /// Points after which something that was stored was gone or damaged.
    lost: u64,
    seconds: Option<f64>,
}

/// Prints the table in Markdown. Fails if there are no figures, or if one of them is of something wrong or lost.
pub fn run() -> Result<()> {
    let folder = target_dir().join("robustness");
    let figures = read(&folder)?;
    ensure!(!figures.is_empty(), "{} holds no figures: docs/robustness.md has the commands that make them", folder.display());
    println!("| what | number | wrong | lost | seconds |\n| --- | --- | --- | --- | --- |");
    for Figure { what, points, wrong, lost, seconds } in &figures {
        let seconds = seconds.map_or(String::new(), |seconds| format!("{seconds:.0}"));
        println!("| {what} | {points} | {wrong} | {lost} | {seconds} |");
    }
    let bad: Vec<&str> = figures.iter().filter(|figure| figure.wrong + figure.lost > 0).map(|figure| figure.what.as_str()).collect();
    ensure!(bad.is_empty(), "something is wrong or lost: {}", bad.join("; "));
    Ok(())
}

fn read(folder: &Path) -> Result<Vec<Figure>> {
    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
        Err(_) => Vec::new(),
    };
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut figures = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        figures.extend(parse(&text).with_context(|| format!("could not parse {}", file.display()))?);
    }
    Ok(figures)
}

/// Reads the figures of a file: one of a test, or a list of fuzz targets.
fn parse(text: &str) -> Result<Vec<Figure>> {
    let value: Value = serde_json::from_str(text)?;
    let entries = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    entries.iter().map(|entry| figure(entry).with_context(|| format!("not a figure: {entry}"))).collect()
}

fn figure(entry: &Value) -> Option<Figure> {
    let seconds = entry["seconds"].as_f64();
    if let Some(target) = entry["target"].as_str() {
        let (points, wrong) = (entry["inputs"].as_u64()?, entry["failures"].as_array()?.len() as u64);
        return Some(Figure { what: format!("inputs of the fuzz target `{target}`"), points, wrong, lost: 0, seconds });
    }
    let number = |key: &str| entry[key].as_u64();
    Some(Figure {
        what: entry["what"].as_str()?.to_owned(),
        points: number("points")?,
        wrong: number("wrong")?,
        lost: number("lost")?,
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_broken_targets_are_wrong() {
        let rows = |text: &str| {
            let figures = parse(text).expect("figures");
            figures.into_iter().map(|figure| (figure.what, figure.points, figure.wrong, figure.lost)).collect::<Vec<_>>()
        };
        assert_eq!(rows(r#"{ "what": "answers", "points": 20, "wrong": 1, "lost": 2 }"#), [("answers".to_owned(), 20, 1, 2)]);
        let fuzzed = r#"[{ "target": "config", "inputs": 5, "seconds": 1.5, "failures": ["a file"] }]"#;
        assert_eq!(rows(fuzzed), [("inputs of the fuzz target `config`".to_owned(), 5, 1, 0)]);
        assert!(parse("{").is_err() && parse(r#"{ "what": "answers" }"#).is_err());
    }
}
