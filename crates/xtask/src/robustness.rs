//! `cargo xtask robustness`: one table of the figures that fuzzing and the thorough tests have left in `target/robustness`, and of those that are
//! missing.

use crate::fuzz::{NODE_RUNS, RUST_RUNS, node_targets, rust_targets};
use crate::process::{root, target_dir};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const BROWSERS: [&str; 2] = ["chromium", "firefox"];
/// Fewest points of an operation in a tab, on the disk, and on a GPU. The tests check that they take all points that they count; these numbers
/// are below those of any complete run, and above those of a run that took one point of each kind.
const POINTS_IN_A_TAB: u64 = 30;
const POINTS_ON_THE_DISK: u64 = 30;
const POINTS_ON_A_GPU: u64 = 10;
/// `QWEN_VL_ROUNDS` of the nightly run.
const ROUNDS: u64 = 200;

/// A row of the table.
struct Figure {
    /// Name of its file, or of the fuzz target.
    key: String,
    what: String,
    /// Inputs, points of faults, answers or rounds.
    points: u64,
    /// Points after which something was not right: an answer, an error, or what the next run did.
    wrong: u64,
    /// Points after which something that was stored was gone or damaged.
    lost: u64,
    seconds: Option<f64>,
    /// Version of the sources; figures of before it was recorded have none.
    commit: Option<String>,
}

/// A row that the table must have.
#[derive(Debug, PartialEq)]
struct Expected {
    key: String,
    least: u64,
}

/// Prints the table in Markdown. Fails if a figure is missing, is of too few cases, or is of something wrong or lost.
pub fn run() -> Result<()> {
    let figures = read(&target_dir().join("robustness"))?;
    println!("| what | number | wrong | lost | seconds | commit |\n| --- | --- | --- | --- | --- | --- |");
    for Figure { what, points, wrong, lost, seconds, commit, .. } in &figures {
        let seconds = seconds.map_or(String::new(), |seconds| format!("{seconds:.0}"));
        println!("| {what} | {points} | {wrong} | {lost} | {seconds} | {} |", commit.as_deref().unwrap_or_default());
    }
    let problems = problems(&figures, &expected()?);
    problems.iter().for_each(|problem| println!("{problem}"));
    ensure!(problems.is_empty(), "{} of the figures are not there or not sound: docs/robustness.md has the commands", problems.len());
    Ok(())
}

fn problems(figures: &[Figure], expected: &[Expected]) -> Vec<String> {
    let bad = figures.iter().filter(|figure| figure.wrong + figure.lost > 0);
    let mut problems: Vec<String> = bad.map(|figure| format!("wrong or lost: {}", figure.what)).collect();
    for Expected { key, least } in expected {
        match figures.iter().find(|figure| figure.key == *key) {
            None => problems.push(format!("missing: {key}")),
            Some(figure) if figure.points < *least => {
                problems.push(format!("too few: {key} has {}, expected at least {least}", figure.points));
            }
            Some(_) => {}
        }
    }
    problems
}

/// The rows of a complete campaign, from the lists in the sources.
fn expected() -> Result<Vec<Expected>> {
    let source = |file: &str| {
        let path = root().join(file);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let entries = |file: &str, object: &str| {
        let found = entries(&source(file)?, object);
        ensure!(!found.is_empty(), "{file} has no object `{object}` with a key on each line");
        Ok(found)
    };
    let mut rows = Vec::new();
    let mut add = |name: &str, least: u64| rows.push(Expected { key: file_name(name), least });
    rust_targets()?.keys().for_each(|name| add(&target_key(name), RUST_RUNS));
    node_targets()?.iter().for_each(|name| add(&target_key(name), NODE_RUNS));
    let scenes = entries("pkg-tests/suites/interruptions.mjs", "scenes")?;
    let devices = "pkg-tests/suites/devices.mjs";
    let (kinds, gpu_scenes) = (entries(devices, "KINDS")?, entries(devices, "SCENES")?);
    let turns = source("pkg-tests/suites/soak.mjs")?;
    for browser in BROWSERS {
        scenes.iter().for_each(|(scene, _)| add(&format!("interruptions {browser} {scene}"), POINTS_IN_A_TAB));
        for (scene, text) in &gpu_scenes {
            let chosen = |kind: &str| text.contains("kinds: Object.keys(KINDS)") || text.contains(&format!("\"{kind}\""));
            let kinds: Vec<&String> = kinds.iter().map(|(kind, _)| kind).filter(|kind| chosen(kind)).collect();
            ensure!(!kinds.is_empty(), "{devices}: the scene `{scene}` names no kind");
            kinds.into_iter().for_each(|kind| add(&format!("devices {browser} {kind} {scene}"), POINTS_ON_A_GPU));
        }
        let answers = number(&turns, "TURNS", browser).with_context(|| format!("soak.mjs has no number of answers in {browser}"))?;
        add(&format!("soak {browser}"), answers);
    }
    for (scene, _) in entries("pkg-tests/faults/native.mjs", "SCENES")? {
        add(&format!("interruptions native {scene}"), POINTS_ON_THE_DISK);
    }
    add("soak native", ROUNDS);
    Ok(rows)
}

fn target_key(name: &str) -> String {
    format!("fuzz {name}")
}

/// The name that `pkg-tests/figures.mjs` makes of a figure's: each run of other characters than word characters becomes a hyphen.
fn file_name(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c.is_ascii_alphanumeric() || c == '_' {
            true => text.push(c),
            false if text.ends_with('-') => {}
            false => text.push('-'),
        }
    }
    text
}

/// The entries of the object that a constant of a formatted script holds, with the text of each. A key begins a line that is indented by two more
/// spaces than the constant.
fn entries(script: &str, object: &str) -> Vec<(String, String)> {
    let mut lines = script.lines();
    let begin = format!("const {object} = {{");
    let Some(indent) = lines.find_map(|line| line.trim_start().eq(&begin).then(|| line.len() - begin.len())) else { return Vec::new() };
    let (prefix, end) = (" ".repeat(indent + 2), format!("{}}};", " ".repeat(indent)));
    let key = |line: &str| {
        let rest = line.strip_prefix(&prefix)?;
        let (key, _) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\":")?,
            None => rest.split_once(':')?,
        };
        (!key.is_empty() && !key.starts_with([' ', '/', '*', '}', '.'])).then(|| key.to_owned())
    };
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in lines.take_while(|line| *line != end) {
        if let Some(key) = key(line) {
            entries.push((key, String::new()));
        }
        if let Some((_, text)) = entries.last_mut() {
            *text += line.trim();
        }
    }
    entries
}

/// The number of a key in the object that a constant holds in one line.
fn number(script: &str, object: &str, key: &str) -> Option<u64> {
    let line = script.lines().find_map(|line| line.strip_prefix(&format!("const {object} = {{")))?;
    let value = line.split(',').find_map(|entry| entry.trim().strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().trim_end_matches([';', '}', ' ']).replace('_', "").parse().ok()
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
        let key = file.file_stem().unwrap_or_default().to_string_lossy();
        figures.extend(parse(&key, &text).with_context(|| format!("could not parse {}", file.display()))?);
    }
    Ok(figures)
}

/// Reads the figures of a file: one of a test, or a list of fuzz targets.
fn parse(key: &str, text: &str) -> Result<Vec<Figure>> {
    let value: Value = serde_json::from_str(text)?;
    let entries = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    entries.iter().map(|entry| figure(key, entry).with_context(|| format!("not a figure: {entry}"))).collect()
}

fn figure(key: &str, entry: &Value) -> Option<Figure> {
    let (seconds, commit) = (entry["seconds"].as_f64(), entry["commit"].as_str().map(str::to_owned));
    if let Some(target) = entry["target"].as_str() {
        let (points, wrong) = (entry["inputs"].as_u64()?, entry["failures"].as_array()?.len() as u64);
        let (key, what) = (file_name(&target_key(target)), format!("inputs of the fuzz target `{target}`"));
        return Some(Figure { key, what, points, wrong, lost: 0, seconds, commit });
    }
    let number = |key: &str| entry[key].as_u64();
    Some(Figure {
        key: key.to_owned(),
        what: entry["what"].as_str()?.to_owned(),
        points: number("points")?,
        wrong: number("wrong")?,
        lost: number("lost")?,
        seconds,
        commit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_broken_targets_are_wrong() {
        let rows = |text: &str| {
            let figures = parse("a-file", text).expect("figures");
            figures.into_iter().map(|figure| (figure.key, figure.what, figure.points, figure.wrong, figure.lost)).collect::<Vec<_>>()
        };
        let expected = ("a-file".to_owned(), "answers".to_owned(), 20, 1, 2);
        assert_eq!(rows(r#"{ "what": "answers", "points": 20, "wrong": 1, "lost": 2 }"#), [expected]);
        let fuzzed = r#"[{ "target": "config", "inputs": 5, "seconds": 1.5, "failures": ["a file"] }]"#;
        assert_eq!(rows(fuzzed), [("fuzz-config".to_owned(), "inputs of the fuzz target `config`".to_owned(), 5, 1, 0)]);
        assert!(parse("a-file", "{").is_err() && parse("a-file", r#"{ "what": "answers" }"#).is_err());
    }

    #[test]
    fn missing_short_and_wrong_figures_are_problems() {
        let figures = |points: u64, wrong: u64| {
            let text = format!(r#"{{ "what": "answers", "points": {points}, "wrong": {wrong}, "lost": 0, "commit": "abc+" }}"#);
            parse("soak-chromium", &text).expect("figures")
        };
        assert_eq!(figures(10, 0)[0].commit.as_deref(), Some("abc+"));
        let wanted = [Expected { key: "soak-chromium".to_owned(), least: 10 }];
        assert_eq!(problems(&figures(10, 0), &wanted), <[String; 0]>::default());
        assert_eq!(problems(&figures(9, 0), &wanted), ["too few: soak-chromium has 9, expected at least 10"]);
        assert_eq!(problems(&[], &wanted), ["missing: soak-chromium"]);
        assert_eq!(problems(&figures(10, 1), &wanted), ["wrong or lost: answers"]);
        assert_eq!(problems(&figures(10, 1), &[]), ["wrong or lost: answers"]);
    }

    #[test]
    fn the_expected_rows_are_those_of_the_sources() {
        let rows = expected().expect("the sources have the lists");
        let least = |key: &str| rows.iter().find(|row| row.key == key).map(|row| row.least);
        let named = |beginning: &str| rows.iter().filter(|row| row.key.starts_with(beginning)).count();
        assert_eq!(least("fuzz-manifest"), Some(RUST_RUNS));
        assert_eq!(least("fuzz-prompt-api"), Some(NODE_RUNS));
        assert_eq!((least("soak-chromium"), least("soak-firefox"), least("soak-native")), (Some(1000), Some(300), Some(ROUNDS)));
        for browser in BROWSERS {
            assert!(least(&format!("interruptions-{browser}-a-first-download-into-the-Cache-API")).is_some());
            assert!(least(&format!("interruptions-{browser}-a-load-that-converts")).is_some());
            assert!(named(&format!("interruptions-{browser}-")) >= 13);
            for row in ["nan-a-load-and-answers", "lost-a-benchmark", "memory-a-load-that-chooses-its-kernels"] {
                assert_eq!(least(&format!("devices-{browser}-{row}")), Some(POINTS_ON_A_GPU), "{row}");
            }
            assert_eq!(least(&format!("devices-{browser}-nan-a-benchmark")), None);
        }
        assert_eq!(named("interruptions-native-"), 5);
        assert!(least("interruptions-native-a-conversion-in-Node").is_some());
        let mut keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), rows.len(), "two rows have the same key");
    }

    #[test]
    fn entries_of_objects() {
        let script = "  const a = {\n    // key: no\n    \"b c\": {\n      d: 1,\n    },\n    e: 2,\n    ...f,\n  };\n  const g = {\n    h: 3,\n  };\n";
        let entry = |key: &str, text: &str| (key.to_owned(), text.to_owned());
        assert_eq!(entries(script, "a"), [entry("b c", "\"b c\": {d: 1,},"), entry("e", "e: 2,...f,")]);
        assert_eq!(entries(script, "g"), [entry("h", "h: 3,")]);
        assert!(entries(script, "h").is_empty());
        assert_eq!(number("const T = { a: 1_000, bc: 2 };", "T", "a"), Some(1000));
        assert_eq!(number("const T = { a: 1_000, bc: 2 };", "T", "bc"), Some(2));
        assert_eq!(number("const T = { a: 1_000, bc: 2 };", "T", "d"), None);
    }
}
