//! The web checkpoints of the browser tests and of the demo.

use crate::process::{command, root, run, target_dir};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The file that makes a folder a web checkpoint.
const MANIFEST_FILE: &str = "manifest.json";

/// The folder with the checkpoints of the browser tests.
pub fn test_folder() -> PathBuf {
    target_dir().join("browser-tests")
}

/// Writes the checkpoints of the browser tests. Without `--package` cargo reuses what the native tests compiled.
pub fn for_tests() -> Result<()> {
    run(command("cargo run --quiet --example test_checkpoints --").arg(test_folder()))
}

/// The web checkpoint of the repository, which the demo shows.
pub fn embedded() -> Result<PathBuf> {
    let folder = root().join("models/nano");
    ensure!(
        folder.join(MANIFEST_FILE).is_file(),
        "{} is missing: restore it with `git checkout models`",
        folder.join(MANIFEST_FILE).display()
    );
    Ok(folder)
}

/// The folder or address of the model to show: the embedded one, or the given one. Converts the given one if it is a Hugging Face folder.
pub fn for_demo(given: Option<&str>) -> Result<String> {
    let Some(given) = given else { return Ok(embedded()?.display().to_string()) };
    if given.starts_with("http://") || given.starts_with("https://") {
        return Ok(given.to_owned());
    }
    let path = fs::canonicalize(given).with_context(|| format!("--model {given}"))?;
    if path.join(MANIFEST_FILE).is_file() {
        return Ok(path.display().to_string());
    }
    ensure!(
        path.join("config.json").is_file(),
        "--model {given}: expected a web checkpoint (manifest.json) or a Hugging Face folder (config.json)"
    );
    let name = path.file_name().with_context(|| format!("--model {given}: a root folder has no name"))?.to_string_lossy().into_owned();
    let folder = target_dir().join("demo");
    fs::create_dir_all(&folder)?;
    let out = folder.join(format!("{name}-q4"));
    convert(&path, &out, "q4")?;
    Ok(out.display().to_string())
}

/// Converts a Hugging Face folder. Optimised code takes a while to compile, which a large checkpoint is worth.
pub fn convert(source: &Path, out: &Path, scheme: &str) -> Result<()> {
    run(command("cargo run --quiet --release --package quantize -- --force --scheme").arg(scheme).arg(source).arg(out))
}
