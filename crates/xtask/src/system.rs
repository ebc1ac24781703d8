//! What has to be on the machine, and how it gets there.

use crate::process::{command, installed, output, root, run};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The Rust target of the browser.
pub fn wasm_target() -> Result<()> {
    let libraries = output(&mut command("rustc --print sysroot"))?;
    if Path::new(libraries.trim()).join("lib/rustlib/wasm32-unknown-unknown/lib").is_dir() {
        return Ok(());
    }
    run(&mut command("rustup target add wasm32-unknown-unknown"))
}

/// Node and the packages of the lockfile.
pub fn npm_packages() -> Result<()> {
    if !installed("node") || !installed("npm") {
        bail!("Node is not installed: get version 20.19 or newer from https://nodejs.org or your system's packages");
    }
    // npm writes this file last, so it is as new as the lockfile that it was installed from.
    let (lock, done) = (root().join("package-lock.json"), root().join("node_modules/.package-lock.json"));
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if modified(&done) >= modified(&lock) {
        return Ok(());
    }
    run(&mut command("npm ci --no-fund --no-audit"))
}

/// Chromium, for the demo without a screen and for the tests.
pub fn chromium() -> Result<()> {
    debian_packages(&[("chromium", || chromium_program().is_some())])
}

/// Both browsers and a software Vulkan adapter.
pub fn browsers_and_vulkan() -> Result<()> {
    debian_packages(&[
        ("chromium", || chromium_program().is_some()),
        ("firefox-esr", || firefox_program().is_some()),
        ("mesa-vulkan-drivers", || lavapipe_icd().is_some()),
        ("libvulkan1", vulkan_loader),
    ])
}

/// The installed Chromium.
pub fn chromium_program() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| installed(program))
}

/// The installed Firefox.
pub fn firefox_program() -> Option<&'static str> {
    ["firefox-esr", "firefox"].into_iter().find(|program| installed(program))
}

/// The description of Mesa's software Vulkan driver. Tests name it, so that their results do not depend on the machine's GPU.
pub fn lavapipe_icd() -> Option<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let mut files: Vec<PathBuf> =
        folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd") && !name.to_string_lossy().contains("i686"))
    });
    files.sort();
    files.into_iter().next()
}

fn vulkan_loader() -> bool {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    folders.iter().any(|folder| Path::new(folder).join("libvulkan.so.1").exists())
}

/// A Debian package and the check whether what it brings is there.
type Package<'a> = (&'a str, fn() -> bool);

/// Installs the Debian packages whose check fails; where this is not Debian or not root, says what is missing.
fn debian_packages(packages: &[Package]) -> Result<()> {
    let missing = |packages: &[Package]| -> Vec<String> {
        packages.iter().filter(|(_, present)| !present()).map(|(name, _)| (*name).to_owned()).collect()
    };
    let needed = missing(packages);
    if needed.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", needed.join(" "));
    let is_root = installed("id") && output(&mut command("id -u"))?.trim() == "0";
    if !installed("apt-get") || !is_root {
        bail!(
            "missing: {}. On Debian, as root: {by_hand}\nElsewhere: install Chromium, Firefox and Mesa's lavapipe Vulkan driver",
            needed.join(", ")
        );
    }
    run(&mut command("apt-get update"))?;
    run(command("apt-get install --yes --no-install-recommends").args(&needed).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let still = missing(packages);
    if !still.is_empty() {
        bail!("apt-get installed {}, and still missing: {}", needed.join(", "), still.join(", "));
    }
    Ok(())
}
