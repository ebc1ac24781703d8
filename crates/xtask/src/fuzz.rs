//! `cargo xtask fuzz`: the targets of `crates/fuzz` under libFuzzer, and those of `pkg-tests/fuzz` in Node.

use crate::process::{command, output, root, target_dir};
use crate::version::Version;
use anyhow::{Context, Error, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The targets in Rust: longest input of each, bytes.
const TARGETS: &str = "crates/fuzz/targets.json";
/// Inputs of a target, unless `--runs` says otherwise.
pub const RUST_RUNS: u64 = 10_000_000;
pub const NODE_RUNS: u64 = 1_000_000;
/// Longest time of one input, seconds.
const TIMEOUT: u32 = 10;
/// Most memory of a process. `crates/fuzz/src/memory.rs` limits that of an input.
const MEMORY_MB: u32 = 1024;
/// Inputs are neither chosen by the rarity of what they cover, nor replaced by shorter ones: that bookkeeping takes half of the time of a target.
const SCHEDULE: [&str; 2] = ["-entropic=0", "-reduce_inputs=0"];
/// Instrumentation of coverage. That of comparisons, which `cargo fuzz` adds, makes a target half as fast; the mutators and dictionaries know the
/// values that parsers compare with.
const COVERAGE: [&str; 3] = ["level=3", "inline-8bit-counters", "pc-table"];

#[derive(Args)]
pub struct Options {
    /// Run this target alone; may be repeated
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Run the targets in this language alone
    #[arg(long, value_enum)]
    language: Option<Language>,
    /// Run the N-th of M parts of the targets, such as 1/2
    #[arg(long, value_name = "N/M", value_parser = part)]
    part: Option<(usize, usize)>,
    /// Inputs of each target; 10 million in Rust and 1 million in TypeScript by default
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Run nothing: add the smallest found inputs that cover what the corpus in the repository does not, and remove `found_*` that cover nothing
    #[arg(long, conflicts_with = "runs")]
    minimize: bool,
}

/// Parses a part of the targets.
fn part(text: &str) -> Result<(usize, usize)> {
    let numbers = text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    numbers.filter(|(part, parts)| (1..=*parts).contains(part)).context("expected a part such as 1/2")
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Typescript,
}

/// The result of a target.
struct Outcome {
    target: String,
    inputs: u64,
    seconds: f64,
    corpus: u64,
    /// Edges of the control flow, or the kinds of results where coverage is not measured.
    edges: u64,
    features: u64,
    /// The file of the input that broke the target, or of the error without an input, and the command that repeats it.
    failure: Option<(PathBuf, String)>,
}

/// Runs the chosen targets, prints a table, and fails if one of them was broken.
pub fn run(options: &Options) -> Result<()> {
    let (lengths, node) = (rust_targets()?, node_targets()?);
    let known = |name: &String| lengths.contains_key(name) || node.contains(name);
    if let Some(other) = options.target.iter().find(|name| !known(name)) {
        let all: Vec<&String> = lengths.keys().chain(&node).collect();
        bail!("the target `{other}` does not exist: expected one of {all:?}");
    }
    let chosen = |name: &&String| options.target.is_empty() || options.target.contains(name);
    let in_language = |language: Language| options.language.is_none_or(|wanted| wanted == language);
    let (part, parts) = options.part.unwrap_or((1, 1));
    let in_part = |names: Vec<&String>| names.into_iter().skip(part - 1).step_by(parts).cloned().collect::<Vec<String>>();
    let rust = in_part(lengths.keys().filter(chosen).filter(|_| in_language(Language::Rust)).collect());
    let node = in_part(node.iter().filter(chosen).filter(|_| in_language(Language::Typescript)).collect());
    let (version, results) = (Version::now(), results()?);
    let programs = if rust.is_empty() { PathBuf::new() } else { build(&rust)? };
    let mut outcomes = Vec::new();
    // A target that cannot run is broken too, and the later ones run.
    let mut keep = |name: &str, outcome: Result<Outcome>| -> Result<()> {
        let outcome = outcome.or_else(|error| Outcome::without_input(name, &error))?;
        record(&results, &outcome.json(&version))?;
        outcomes.push(outcome);
        Ok(())
    };
    for name in &rust {
        let program = Program::new(&programs, name, lengths[name].as_u64().context(TARGETS)?)?;
        if options.minimize {
            program.minimize()?;
        } else {
            keep(name, program.run(options.runs.unwrap_or(RUST_RUNS)))?;
        }
    }
    for name in node.iter().filter(|_| !options.minimize) {
        keep(name, run_in_node(name, options.runs.unwrap_or(NODE_RUNS)))?;
    }
    print_table(&outcomes);
    let failures: Vec<String> = outcomes.iter().filter_map(Outcome::failure).collect();
    ensure!(failures.is_empty(), "{} of {} targets were broken:\n{}", failures.len(), outcomes.len(), failures.join("\n"));
    Ok(())
}

impl Outcome {
    fn new(target: &str) -> Self {
        Self { target: target.to_owned(), inputs: 0, seconds: 0.0, corpus: 0, edges: 0, features: 0, failure: None }
    }

    /// The result of a target that ended without a result. Its error is written to a file.
    fn without_input(target: &str, error: &Error) -> Result<Self> {
        println!("{target}: {error:#}");
        let file = broken()?.join(format!("{target}-error.txt"));
        fs::write(&file, format!("{error:#}\n")).with_context(|| format!("could not write {}", file.display()))?;
        Ok(Self { failure: Some((file, format!("cargo xtask fuzz --target {target}"))), ..Self::new(target) })
    }

    fn failure(&self) -> Option<String> {
        let (input, repeat) = self.failure.as_ref()?;
        Some(format!("  {}: {}\n    repeat it with `{repeat}`", self.target, input.display()))
    }

    fn json(&self, version: &Version) -> Value {
        json!({
            "commit": version.commit,
            "date": version.date,
            "target": self.target,
            "inputs": self.inputs,
            "inputs_per_second": (self.inputs as f64 / self.seconds.max(1e-3)).round(),
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "corpus": self.corpus,
            "edges": self.edges,
            "features": self.features,
            "failures": self.failure.iter().map(|(input, _)| input.display().to_string()).collect::<Vec<_>>(),
        })
    }
}

/// Builds programs of libFuzzer on stable Rust, without a sanitizer. Returns their folder.
fn build(names: &[String]) -> Result<PathBuf> {
    let version = output(&mut command("rustc -vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let mut flags = "--cfg fuzzing -Cpasses=sancov-module".to_owned();
    flags.extend(COVERAGE.map(|option| format!(" -Cllvm-args=-sanitizer-coverage-{option}")));
    // With `--target` the flags are not used for build scripts.
    let mut cargo = command(&format!("cargo build --release --locked --target {host}"));
    cargo.arg("--target-dir").arg(folder()).args(["--manifest-path", "crates/fuzz/libfuzzer/Cargo.toml"]);
    cargo.args(names.iter().flat_map(|name| ["--bin", name.as_str()])).env("RUSTFLAGS", flags);
    crate::process::run(&mut cargo)?;
    Ok(folder().join(host).join("release"))
}

/// The folder of all that fuzzing makes. `found` in it has the corpora, and `broken` the inputs that broke a target.
fn folder() -> PathBuf {
    target_dir().join("fuzz")
}

fn broken() -> Result<PathBuf> {
    created(folder().join("broken"))
}

fn created(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    Ok(folder)
}

/// A target in Rust.
struct Program {
    name: String,
    program: PathBuf,
    /// Its corpus in the repository.
    corpus: PathBuf,
    /// Inputs that the fuzzer found, of all runs so far.
    found: PathBuf,
    /// Options of libFuzzer.
    options: Vec<String>,
}

impl Program {
    fn new(programs: &Path, name: &str, max_len: u64) -> Result<Self> {
        let data = root().join("crates/fuzz");
        let mut options = vec![format!("-max_len={max_len}"), format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY_MB}")];
        options.extend(SCHEDULE.map(str::to_owned));
        let words = data.join(format!("dictionaries/{name}.dict"));
        options.extend(words.exists().then(|| format!("-dict={}", words.display())));
        Ok(Self {
            name: name.to_owned(),
            program: programs.join(name),
            corpus: data.join("corpus").join(name),
            found: created(folder().join("found").join(name))?,
            options,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(root()).args(&self.options);
        command
    }

    fn run(&self, runs: u64) -> Result<Outcome> {
        let Self { name, program, .. } = self;
        println!("\n== {name}");
        let prefix = broken()?.join(format!("{name}-"));
        let mut command = self.command();
        command.arg(format!("-runs={runs}")).arg(format!("-artifact_prefix={}", prefix.display())).arg("-print_final_stats=1");
        command.args([&self.found, &self.corpus]);
        let started = Instant::now();
        let (log, success) = logged(command, name)?;
        let mut outcome = Outcome { seconds: started.elapsed().as_secs_f64(), ..Outcome::new(name) };
        for line in log.lines() {
            // `#1000  DONE   cov: 100 ft: 200 corp: 30/4000b …`
            if let Some(words) = line.strip_prefix('#').map(|line| line.split_whitespace().collect::<Vec<_>>()) {
                let after = |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1));
                let number = |text: &str| text.split('/').next().and_then(|number| number.parse().ok());
                outcome.inputs = words.first().and_then(|count| number(count)).unwrap_or(outcome.inputs);
                outcome.edges = after("cov:").and_then(|count| number(count)).unwrap_or(outcome.edges);
                outcome.features = after("ft:").and_then(|count| number(count)).unwrap_or(outcome.features);
                outcome.corpus = after("corp:").and_then(|count| number(count)).unwrap_or(outcome.corpus);
            }
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                outcome.inputs = count.trim().parse().unwrap_or(outcome.inputs);
            }
            // A slow input is written too, and breaks nothing.
            if let Some((_, input)) = line.split_once("Test unit written to ").filter(|_| !success) {
                outcome.failure = Some((input.into(), format!("{} {input}", program.display())));
            }
        }
        if !success && outcome.failure.is_none() {
            // Killed from outside, for example. Its log has the seed, with which it makes the same inputs from the same corpus.
            let log = log_file(name)?;
            println!("{name} ended without an input that broke it: see {}", log.display());
            outcome.failure = Some((log, format!("cargo xtask fuzz --target {name} --runs {runs}")));
        }
        Ok(outcome)
    }

    /// Adds found inputs to the corpus in the repository, as few and short as possible. Only edges count: with counters of how often each is
    /// taken, there would be thousands.
    fn minimize(&self) -> Result<()> {
        let merged = folder().join("merged").join(&self.name);
        if merged.exists() {
            fs::remove_dir_all(&merged)?;
        }
        created(merged.clone())?;
        let inputs = |folder: &Path| -> Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
        let is_found = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("found_"));
        // Named inputs stay.
        for path in inputs(&self.corpus)?.iter().filter(|path| !is_found(path)) {
            fs::copy(path, merged.join(path.file_name().context("a corpus has files")?))?;
        }
        let mut command = self.command();
        command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&merged, &self.corpus, &self.found]);
        let (_, success) = logged(command, &format!("{}-minimize", self.name))?;
        ensure!(success, "{}: the corpus could not be minimised", self.name);
        let before = inputs(&self.corpus)?;
        for path in before.iter().filter(|path| is_found(path)) {
            fs::remove_file(path)?;
        }
        for path in inputs(&merged)? {
            let name = path.file_name().context("a corpus has files")?.to_string_lossy().into_owned();
            // libFuzzer names inputs by their SHA-1.
            let is_new = name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let name = if is_new { format!("found_{}", &name[..12]) } else { name };
            fs::copy(&path, self.corpus.join(name))?;
        }
        println!("{}: {} inputs, {} before", self.name, inputs(&self.corpus)?.len(), before.len());
        Ok(())
    }
}

fn log_file(name: &str) -> Result<PathBuf> {
    Ok(created(folder().join("logs"))?.join(format!("{name}.log")))
}

/// Runs a command whose output goes into a log, and prints the lines that show its progress. Returns the log, and true if it succeeded.
fn logged(mut command: Command, name: &str) -> Result<(String, bool)> {
    let path = log_file(name)?;
    let mut file = File::create(&path).with_context(|| format!("could not write {}", path.display()))?;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| format!("could not start {name}"))?;
    let lines = BufReader::new(child.stderr.take().context("the standard error is piped")?);
    let mut log = String::new();
    for line in lines.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(file, "{line}")?;
        // New and reduced inputs, and new functions, are thousands of lines.
        if !line.starts_with(['#', '\t']) || line.contains("pulse") || line.contains("DONE") {
            println!("{line}");
        }
        log += &line;
        log.push('\n');
    }
    Ok((log, child.wait()?.success()))
}

/// The targets in Rust, with the longest input of each.
pub fn rust_targets() -> Result<Map<String, Value>> {
    serde_json::from_str(&fs::read_to_string(root().join(TARGETS)).context(TARGETS)?).context(TARGETS)
}

/// Names of the targets in TypeScript.
pub fn node_targets() -> Result<Vec<String>> {
    let list = root().join("pkg-tests/fuzz/targets");
    let files = fs::read_dir(&list).with_context(|| format!("could not list {}", list.display()))?;
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().strip_suffix(".mjs").map(str::to_owned));
    let mut names: Vec<String> = files.filter_map(|entry| name(entry).transpose()).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Runs a target in Node, which prints its result as JSON.
fn run_in_node(name: &str, runs: u64) -> Result<Outcome> {
    println!("\n== {name}");
    let repeat = |input: &str| format!("node pkg-tests/fuzz/run.mjs {name} --repeat {input}");
    let mut node = command("node pkg-tests/fuzz/run.mjs");
    node.args([name, "--runs", &runs.to_string(), "--broken"]).arg(broken()?).stderr(Stdio::inherit());
    if name == "grounding" {
        // The parser of the worker, which must agree.
        crate::process::run(&mut command("cargo build --quiet --release --package qwen-vl-fuzz --example grounding"))?;
        node.env("QWEN_VL_GROUNDING", target_dir().join("release/examples/grounding"));
    }
    let started = Instant::now();
    let printed = node.output().context("could not start Node")?;
    let line = String::from_utf8_lossy(&printed.stdout).lines().last().unwrap_or_default().to_owned();
    let result: Value = serde_json::from_str(&line).with_context(|| format!("{name} ended without a result: {}", printed.status))?;
    let number = |key: &str| result[key].as_u64().unwrap_or_default();
    let failure = result["failure"].as_str().map(|input| (PathBuf::from(input), repeat(input)));
    Ok(Outcome {
        inputs: number("inputs"),
        seconds: started.elapsed().as_secs_f64(),
        corpus: number("corpus"),
        edges: number("edges"),
        features: number("features"),
        failure,
        ..Outcome::new(name)
    })
}

/// The file of the results of all runs.
fn results() -> Result<PathBuf> {
    Ok(created(target_dir().join("robustness"))?.join("fuzz.json"))
}

/// Merges a result into the file of all earlier ones. A sound result of more inputs stays, unless the new one is of a broken target.
fn record(path: &Path, result: &Value) -> Result<()> {
    let earlier: Vec<Value> = fs::read_to_string(path).ok().and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let (same, mut all): (Vec<Value>, Vec<Value>) = earlier.into_iter().partition(|entry| entry["target"] == result["target"]);
    let is_sound = |entry: &Value| entry["failures"].as_array().is_some_and(Vec::is_empty);
    let inputs = |entry: &Value| entry["inputs"].as_u64().unwrap_or_default();
    let longer = same.into_iter().find(|entry| is_sound(entry) && is_sound(result) && inputs(entry) > inputs(result));
    if let Some(longer) = &longer {
        let (target, kept) = (longer["target"].as_str().unwrap_or_default(), inputs(longer));
        println!("{target}: {} keeps its figure of {kept} inputs, because this run had {}", path.display(), inputs(result));
    }
    all.push(longer.unwrap_or_else(|| result.clone()));
    all.sort_by(|a, b| a["target"].as_str().cmp(&b["target"].as_str()));
    fs::write(path, serde_json::to_string_pretty(&all)? + "\n").with_context(|| format!("could not write {}", path.display()))
}

fn print_table(outcomes: &[Outcome]) {
    if outcomes.is_empty() {
        return;
    }
    println!("\n{:16} {:>10} {:>9} {:>8} {:>7} {:>7} {:>9}", "target", "inputs", "per s", "seconds", "corpus", "edges", "features");
    for Outcome { target, inputs, seconds, corpus, edges, features, failure } in outcomes {
        let rate = *inputs as f64 / seconds.max(1e-3);
        let end = if failure.is_some() { "  BROKEN" } else { "" };
        println!("{target:16} {inputs:>10} {rate:>9.0} {seconds:>8.0} {corpus:>7} {edges:>7} {features:>9}{end}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_targets() {
        assert_eq!(["1/2", "2/2", "1/1"].map(|text| part(text).expect(text)), [(1, 2), (2, 2), (1, 1)]);
        for text in ["", "1", "0/2", "3/2", "1/0", "a/b"] {
            assert!(part(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_target_has_a_name_that_no_other_has() {
        let (rust, node) = (rust_targets().expect("targets in Rust"), node_targets().expect("targets in TypeScript"));
        assert!(!rust.is_empty() && !node.is_empty());
        // `--target` and the figures go by the name.
        assert_eq!(node.iter().find(|name| rust.contains_key(*name)), None);
    }

    #[test]
    fn a_longer_sound_figure_stays() {
        let file = created(target_dir().join("tmp")).expect("a folder").join(format!("figures-{}.json", std::process::id()));
        let entry = |inputs: u64, failures: &[&str]| json!({ "target": "config", "inputs": inputs, "failures": failures });
        let other = json!({ "target": "answer", "inputs": 1, "failures": [] });
        let after = |first: &Value, second: &Value| {
            let _ = fs::remove_file(&file);
            for result in [first, &other, second] {
                record(&file, result).expect("a file");
            }
            let all: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).expect("figures")).expect("JSON");
            assert_eq!((all.len(), &all[0]), (2, &other));
            all[1].clone()
        };
        let (long, short) = (entry(10_000_000, &[]), entry(1000, &[]));
        assert_eq!(after(&long, &short), long);
        assert_eq!(after(&short, &long), long);
        let broken = entry(1000, &["a file"]);
        assert_eq!(after(&long, &broken), broken, "a broken target counts");
        assert_eq!(after(&broken, &short), short);
        fs::remove_file(&file).expect("the file is there");
    }

    /// A program that ends without an input, as one that the system kills.
    #[cfg(unix)]
    #[test]
    fn a_target_that_is_killed_is_broken() {
        use std::os::unix::fs::PermissionsExt;
        let folder = created(target_dir().join("tmp").join(format!("killed-{}", std::process::id()))).expect("a folder");
        let name = "killed-in-a-test";
        let program = folder.join(name);
        fs::write(&program, "#!/bin/sh\necho '#7 pulse cov: 5 ft: 6 corp: 2/9b' >&2\nkill -9 $$\n").expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        let target = Program {
            name: name.to_owned(),
            program,
            corpus: folder.clone(),
            found: folder.clone(),
            options: vec!["-max_len=1".to_owned()],
        };
        let outcome = target.run(9).expect("an outcome");
        assert_eq!((outcome.inputs, outcome.edges), (7, 5));
        let (file, _) = outcome.failure.as_ref().expect("it was killed");
        assert!(fs::read_to_string(file).expect("a log").contains("pulse"));
        assert_eq!(outcome.json(&Version::default())["failures"].as_array().map(Vec::len), Some(1));
        fs::remove_file(file).and_then(|()| fs::remove_dir_all(&folder)).expect("they are there");
    }

    #[test]
    fn a_target_that_cannot_run_is_broken() {
        let name = "missing-in-a-test";
        let without_input = Outcome::without_input(name, &Error::msg("no compiler"));
        for (outcome, text) in [(without_input, "no compiler"), (run_in_node(name, 1), "ended with code 1")] {
            let (file, _) = outcome.expect("an outcome").failure.expect("it is broken");
            assert!(fs::read_to_string(&file).expect("its error").contains(text), "{}", file.display());
            fs::remove_file(file).expect("the file is there");
        }
    }
}
