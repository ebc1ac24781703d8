//! The demo page as it is published, its pictures, and its audit.

use crate::process::{command, root, run};
use crate::wasm::Backends;
use crate::{checkpoints, packages, system};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes everything that is published to `www/dist`: the page, the API reference and the embedded model.
pub fn site() -> Result<()> {
    packages::build(Backends::All)?;
    packages::site()?;
    copy_files(&checkpoints::embedded()?, &root().join("www/dist/model"))?;
    println!("{}: any static host can serve it, in any folder", root().join("www/dist").display());
    Ok(())
}

/// Takes pictures of the page's main states, and of a visitor's path from a model's name to its answers, in both browsers.
pub fn screenshots(out: &Path) -> Result<()> {
    system::browsers_and_vulkan()?;
    let (model, chromium) = prepare()?;
    run(command("node tools/screenshots/states.mjs --site www/dist")
        .arg("--model")
        .arg(&model)
        .arg("--chromium")
        .arg(chromium)
        .arg("--out")
        .arg(out))?;
    let firefox = system::firefox_program().context("Firefox is not installed")?;
    let icd = system::lavapipe_icd().context("no software Vulkan driver")?;
    for (browser, program) in [("chromium", chromium), ("firefox", firefox)] {
        run(command("node tools/screenshots/path.mjs --site www/dist --checkpoint tests/fixtures/family/checkpoints/q3-a")
            .arg("--model")
            .arg(&model)
            .args(["--browser", browser, "--program", program])
            .arg("--vulkan-icd")
            .arg(&icd)
            .arg("--out")
            .arg(out))?;
    }
    Ok(())
}

/// Runs Lighthouse on the page.
pub fn audit() -> Result<()> {
    let (model, chromium) = prepare()?;
    run(command("npm ci --no-fund --no-audit").current_dir(root().join("tools/audit")))?;
    run(command("node tools/audit/audit.mjs --site www/dist").arg("--model").arg(model).arg("--chromium").arg(chromium))
}

fn prepare() -> Result<(PathBuf, &'static str)> {
    system::chromium()?;
    packages::build(Backends::All)?;
    packages::page()?;
    Ok((checkpoints::embedded()?, system::chromium_program().context("Chromium is not installed")?))
}

/// Copies the files of a folder that has no subfolders.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(|| format!("could not copy {}", entry.path().display()))?;
    }
    Ok(())
}
