//! The licences of the code inside the wasm files: `web/THIRD_PARTY_LICENSES.txt`, which the npm package and the demo page contain.

use crate::process::{command, output, root};
use crate::wasm;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of the text's own lines.
const WIDTH: usize = 78;

const INTRODUCTION: &str = "\
Licences of third-party code in qwen-vl-web

The wasm files contain the Rust crates below, unchanged. The source code of
each is at https://crates.io/crates/NAME/VERSION. The numbers in brackets are
those of the licence texts that the crate passes on, which follow the list.
`cargo xtask licences` writes this file.
";

/// The parts of Rust's library that the compiler adds. No `Cargo.toml` names them.
const LIBRARY: &str = "\
The wasm files also contain parts of Rust's standard library, MIT OR
Apache-2.0, and of the crates inside it: compiler_builtins (MIT AND Apache-2.0
WITH LLVM-exception AND (MIT OR Apache-2.0)), dlmalloc and rustc-demangle
(MIT OR Apache-2.0), hashbrown (MIT OR Apache-2.0), foldhash (Zlib).

    Copyright (c) The Rust Project Contributors
    compiler_builtins: Copyright (c) 2009-2016 the contributors of LLVM's
    compiler-rt; Copyright (c) 2018 Jorge Aparicio; Copyright (c) 2005-2020
    Rich Felker and the contributors of musl
    dlmalloc, rustc-demangle: Copyright (c) 2014 Alex Crichton
    hashbrown: Copyright (c) 2016 Amanieu d'Antras
    foldhash: Copyright (c) 2024 Orson Peters
";

/// The terms of the MIT licence, for crates that carry no text.
const MIT: &str = "\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the \"Software\"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
";

/// Writes `web/THIRD_PARTY_LICENSES.txt`.
pub fn write() -> Result<()> {
    fs::write(file(), text()?).with_context(|| format!("could not write {}", file().display()))
}

/// Returns an error if `web/THIRD_PARTY_LICENSES.txt` is not what [`write`] would write.
pub fn check() -> Result<()> {
    let found = fs::read_to_string(file()).with_context(|| format!("could not read {}", file().display()))?;
    match difference(&text()?, &found) {
        Some(line) => bail!("web/THIRD_PARTY_LICENSES.txt: line {line} is stale: run `cargo xtask licences`"),
        None => Ok(()),
    }
}

/// Returns the number of the first line that differs, from 1.
fn difference(expected: &str, found: &str) -> Option<usize> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    (1..).find_map(|number| match (expected.next(), found.next()) {
        (None, None) => Some(None),
        (expected, found) if expected != found => Some(Some(number)),
        _ => None,
    })?
}

fn file() -> PathBuf {
    root().join("web/THIRD_PARTY_LICENSES.txt")
}

fn text() -> Result<String> {
    let metadata = output(&mut command("cargo metadata --format-version 1 --filter-platform wasm32-unknown-unknown"))?;
    let metadata: Value = serde_json::from_str(&metadata).context("could not parse the output of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata: `packages` is missing")?;
    let mut texts = Texts::default();
    let mut list = String::new();
    for (name, version) in crates()? {
        let package = packages.iter().find(|package| package["name"] == name && package["version"] == version);
        let package = package.with_context(|| format!("cargo metadata lists no {name} {version}"))?;
        let licence = package["license"].as_str().with_context(|| format!("{name} {version}: `license` is missing in its Cargo.toml"))?;
        let numbers = licence_texts(package)?.into_iter().map(|text| texts.number(text).to_string());
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        writeln!(list, "{name} {version}: {licence} [{numbers}]")?;
    }
    let library = texts.number(MIT.to_owned());
    let mut text = format!("{INTRODUCTION}\n{list}\n{LIBRARY}\n");
    writeln!(
        text,
        "MIT is text [{library}]; Apache-2.0 and Zlib are among the others, and LLVM's exception\nasks for no text in compiled code."
    )?;
    for (index, licence) in texts.0.iter().enumerate() {
        write!(text, "\n{}\n[{}]\n\n{}\n", "-".repeat(WIDTH), index + 1, licence.trim_end())?;
    }
    Ok(text)
}

/// Licence texts, each once.
#[derive(Default)]
struct Texts(Vec<String>);

impl Texts {
    /// Returns the number of a text, from 1. Texts that differ in white space alone are the same.
    fn number(&mut self, text: String) -> usize {
        let same = |other: &String| other.split_whitespace().eq(text.split_whitespace());
        let index = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        });
        index + 1
    }
}

/// Returns name and version of each crate that is compiled into a module. Macros run in the compiler, so they and their crates are left out.
fn crates() -> Result<BTreeSet<(String, String)>> {
    let mut crates = BTreeSet::new();
    for package in wasm::packages() {
        let tree =
            "cargo tree --target wasm32-unknown-unknown --edges normal,no-proc-macro --prefix none --no-dedupe --format {p} --package";
        for line in output(command(tree).arg(&package))?.lines() {
            let mut words = line.split(' ');
            let name = words.next().context("`cargo tree` printed an empty line")?;
            let version = words.next().and_then(|version| version.strip_prefix('v')).with_context(|| format!("cargo tree: {line}"))?;
            // The workspace's own crates have a path.
            if words.next().is_none() {
                crates.insert((name.to_owned(), version.to_owned()));
            }
        }
    }
    Ok(crates)
}

/// Returns the texts in a crate's folder, or the text of its licence if it has none.
fn licence_texts(package: &Value) -> Result<Vec<String>> {
    let manifest = package["manifest_path"].as_str().context("cargo metadata: `manifest_path` is missing")?;
    let folder = Path::new(manifest).parent().with_context(|| format!("{manifest} has no folder"))?;
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file() && file.file_name().is_some_and(|name| is_licence(&name.to_string_lossy())));
    files.sort();
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
        Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    };
    let texts = files.iter().map(read).collect::<Result<Vec<String>>>()?;
    if texts.is_empty() { Ok(vec![substitute(package)?]) } else { Ok(texts) }
}

/// True for the name of a file that holds a licence or a notice.
fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"].iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the MIT licence with the names of a crate's authors, for a crate that offers this licence and carries no text.
fn substitute(package: &Value) -> Result<String> {
    let (name, licence) = (package["name"].as_str().unwrap_or_default(), package["license"].as_str().unwrap_or_default());
    let alternatives: Vec<&str> = licence.split(['/', ' ']).collect();
    let mit = alternatives.contains(&"MIT") && !alternatives.contains(&"AND");
    ensure!(mit, "{name}: its folder has no licence text, and `{licence}` is not MIT: add the text to crates/xtask/src/licences.rs");
    let authors: Vec<&str> = package["authors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let authors = if authors.is_empty() { format!("the authors of {name}") } else { authors.join(", ") };
    Ok(format!("Copyright (c) {authors}\n\n{MIT}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_that_differ_in_white_space_have_one_number() {
        let mut texts = Texts::default();
        let numbers = ["a b", "c", "a\n  b\n", "c d"].map(|text| texts.number(text.to_owned()));
        assert_eq!(numbers, [1, 2, 1, 3]);
    }

    #[test]
    fn a_stale_line_is_named() {
        assert_eq!(difference("a\nb\n", "a\r\nb\r\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(difference("a\nb\n", "a\n"), Some(2));
        assert_eq!(difference("a\n", "a\n\n"), Some(2));
    }

    #[test]
    fn a_crate_without_text_has_that_of_mit_with_its_authors_and_no_other() {
        let package = |licence: &str| json!({ "name": "some", "license": licence, "authors": ["A <a@example.org>", "B"] });
        let text = substitute(&package("MIT/Apache-2.0")).expect("MIT is offered");
        assert!(text.starts_with("Copyright (c) A <a@example.org>, B\n\nPermission is hereby granted"), "{text}");
        for licence in ["Apache-2.0", "MIT AND Unicode-3.0", "MITX"] {
            let error = substitute(&package(licence)).expect_err(licence).to_string();
            assert!(error.contains(licence), "{error}");
        }
    }

    #[test]
    fn notices_are_licence_files_and_sources_are_not() {
        assert!(
            ["LICENSE", "LICENSE-MIT", "license.md", "COPYING", "NOTICE", "UNLICENSE", "LICENSE-THIRD-PARTY"]
                .iter()
                .all(|name| is_licence(name))
        );
        assert!(!["README.md", "Cargo.toml", "src", "deny.toml"].iter().any(|name| is_licence(name)));
    }
}
