//! The conversions of the tests of `quantize`, as cases for the converter of the npm package.

use crate::process::{command, root, run, target_dir};
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files that decide about the cases.
const SOURCES: [&str; 5] = ["quantize/src", "quantize/tests", "crates/format/src", "tests/fixtures", "Cargo.lock"];

/// The folder of the cases.
pub fn folder() -> PathBuf {
    target_dir().join("convert-cases")
}

/// Writes the cases anew, unless they are newer than their sources.
pub fn write() -> Result<()> {
    let (folder, complete) = (folder(), folder().join("complete"));
    let sources = SOURCES.iter().map(|path| newest(&root().join(path))).collect::<Result<Vec<_>>>()?;
    if modified(&complete).is_ok_and(|time| sources.iter().all(|source| *source < time)) {
        return Ok(());
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(format!("could not remove {}", folder.display())),
        _ => {}
    }
    // The tests that are left out write no cases. Without `--package` cargo reuses what the native tests compiled.
    run(command("cargo test --quiet --test suite -- --skip command:: --skip hub:: --skip output::").env("QWEN_VL_CASES", &folder))?;
    fs::write(&complete, "").with_context(|| format!("could not write {}", complete.display()))
}

/// The time of the last change of a file, or of the files of a folder.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut time = modified(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            time = time.max(newest(&entry?.path())?);
        }
    }
    Ok(time)
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).with_context(|| format!("could not read the time of {}", path.display()))
}
