//! The npm package, its tarball, and the demo page.

use crate::process::{command, output, root, run, target_dir};
use crate::system;
use crate::wasm::{self, Backends};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds `web/dist`: wasm and TypeScript.
pub fn build(backends: Backends) -> Result<()> {
    system::npm_packages()?;
    wasm::build(backends)?;
    typescript()
}

/// True if `web/dist` holds the CPU fallback.
pub fn has_fallback() -> bool {
    wasm::has_fallback()
}

/// Compiles the TypeScript of the package, and checks its types.
pub fn typescript() -> Result<()> {
    remove_stale_scripts(&root().join("web/dist"))?;
    // Comments are a fifth of the scripts' compressed bytes: only the declarations keep them. One call cannot do both.
    run(&mut command("node node_modules/typescript/bin/tsc --project web --declaration false --removeComments"))?;
    run(&mut command("node node_modules/typescript/bin/tsc --project web/tsconfig.node.json --declaration false --removeComments"))?;
    run(&mut command("node node_modules/typescript/bin/tsc --project web --emitDeclarationOnly --noCheck"))
}

/// Removes the scripts of an earlier build: those of files that were moved or deleted must not be packed.
fn remove_stale_scripts(dist: &Path) -> Result<()> {
    if !dist.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dist)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        } else if path.file_name().is_some_and(|name| name != "wasm") {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Builds the demo page into `www/dist`. The package must be built before.
pub fn page() -> Result<()> {
    run(&mut command("node node_modules/typescript/bin/tsc --project www"))?;
    run(command("node ../node_modules/vite/bin/vite.js build --logLevel warn").current_dir(root().join("www")))
}

/// Builds the demo page and the API reference into `www/dist`. The package must be built before.
pub fn site() -> Result<()> {
    page()?;
    // After the page's own build, so that its offline cache leaves the reference out.
    api_reference(&root().join("www/dist/api"), false)
}

/// Writes the package's API reference. The package must be built before.
///
/// `strict`: a broken link or a type that is not exported is an error.
pub fn api_reference(folder: &Path, strict: bool) -> Result<()> {
    let line = "node node_modules/typedoc/bin/typedoc --logLevel Warn --options web/typedoc.json --treatWarningsAsErrors";
    run(command(line).arg(strict.to_string()).arg("--out").arg(folder))
}

/// The tarball that [`pack`] wrote.
pub fn tarball() -> Result<PathBuf> {
    tarball_in(&target_dir().join("package"))
}

/// The tarball in a folder.
pub fn tarball_in(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let found = files.find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    found.with_context(|| format!("{} holds no tarball: run `cargo xtask package`", folder.display()))
}

/// Packs the built package as npm would publish it. Returns the tarball.
pub fn pack() -> Result<PathBuf> {
    let folder = target_dir().join("package");
    if folder.is_dir() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(root().join(licence), root().join("web").join(licence))?;
    }
    write_build_record()?;
    run(command("npm pack --silent --workspace web --pack-destination").arg(&folder))?;
    tarball()
}

/// Writes `web/dist/build.json`: the commit, the versions of the tools, and the SHA-256 of each wasm file.
fn write_build_record() -> Result<()> {
    let dist = root().join("web/dist");
    let mut modules: Vec<PathBuf> = fs::read_dir(dist.join("wasm"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    modules.sort();
    let names = modules.iter().filter_map(|path| path.file_name()).map(|name| format!("wasm/{}", name.display()));
    let hashes: BTreeMap<String, String> = names.zip(sha256(&modules)?).collect();
    let (commit, tree) = source()?;
    let record = json!({
        "commit": commit,
        "tree": tree,
        "rustc": output(&mut command("rustc --version"))?.trim(),
        "wasm-bindgen": wasm_bindgen_version()?,
        "binaryen": npm_version("binaryen")?,
        "typescript": npm_version("typescript")?,
        "sha256": hashes,
    });
    fs::write(dist.join("build.json"), format!("{record:#}\n")).context("could not write web/dist/build.json")
}

/// Returns the commit that is checked out, and the state of the tree: "clean", "changed" (a file differs from the commit, or is new), or "no git".
fn source() -> Result<(Option<String>, &'static str)> {
    // A copy of the tree inside another repository is not that repository's.
    let top = optional(command("git rev-parse --show-toplevel")).and_then(|top| Path::new(&top).canonicalize().ok());
    if top.is_none_or(|top| top != root()) {
        return Ok((None, "no git"));
    }
    let commit = output(&mut command("git rev-parse HEAD"))?.trim().to_owned();
    let changes = output(&mut command("git status --porcelain"))?;
    Ok((Some(commit), if changes.is_empty() { "clean" } else { "changed" }))
}

/// Returns the output of a command, or `None` if it fails or does not exist.
fn optional(mut command: Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The version of wasm-bindgen, which made the scripts next to the wasm files.
fn wasm_bindgen_version() -> Result<String> {
    let tree = output(&mut command("cargo tree --package qwen-vl-web --invert wasm-bindgen --depth 0 --prefix none --format {p}"))?;
    tree.trim().strip_prefix("wasm-bindgen v").map(str::to_owned).with_context(|| format!("cargo tree: {tree}"))
}

/// The installed version of an npm package.
fn npm_version(package: &str) -> Result<String> {
    let path = root().join("node_modules").join(package).join("package.json");
    let manifest = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).with_context(|| format!("could not parse {}", path.display()))?;
    manifest["version"].as_str().map(str::to_owned).with_context(|| format!("{}: `version` is missing", path.display()))
}

/// Returns the SHA-256 of files, in hexadecimal digits.
pub fn sha256(files: &[PathBuf]) -> Result<Vec<String>> {
    let script = "const {readFileSync} = require('fs'), {createHash} = require('crypto'); for (const file of process.argv.slice(1)) \
                  console.log(createHash('sha256').update(readFileSync(file)).digest('hex'));";
    let hashes = output(command("node --eval").arg(script).args(files))?;
    Ok(hashes.lines().map(str::to_owned).collect())
}

/// Packs the package and unpacks the tarball to `target/package/package`, which the browser tests run.
pub fn pack_and_unpack() -> Result<()> {
    let tarball = pack()?;
    run(command("tar -x -z -f").arg(&tarball).arg("-C").arg(target_dir().join("package")))
}
