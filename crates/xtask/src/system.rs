//! Programs and libraries that the machine needs, and their installation.

use crate::process::{command, installed, output, root, run, target_dir};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Installs the Rust target of the browser.
pub fn wasm_target() -> Result<()> {
    let libraries = output(&mut command("rustc --print sysroot"))?;
    if Path::new(libraries.trim()).join("lib/rustlib/wasm32-unknown-unknown/lib").is_dir() {
        return Ok(());
    }
    run(&mut command("rustup target add wasm32-unknown-unknown"))
}

/// Checks Node, and installs the npm packages of the lockfile.
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

/// Installs Chromium, for the headless demo and for the tests.
pub fn chromium() -> Result<()> {
    debian_packages(&[("chromium", || chromium_program().is_some())])
}

/// Installs both browsers and a software Vulkan adapter.
pub fn browsers_and_vulkan() -> Result<()> {
    debian_packages(&[
        ("chromium", || chromium_program().is_some()),
        ("firefox-esr", || firefox_program().is_some()),
        ("mesa-vulkan-drivers", || lavapipe_icd().is_some()),
        ("libvulkan1", vulkan_loader),
    ])
}

/// Installs strace, which injects faults into system calls.
pub fn strace() -> Result<()> {
    debian_packages(&[("strace", || installed("strace"))])
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

/// The description of a lavapipe that Dawn accepts. Dawn refuses that of Mesa 22, which Debian 12 has. In that case the backport is unpacked
/// into the build folder, and not installed.
pub fn dawn_icd() -> Result<PathBuf> {
    let unpacked = target_dir().join("mesa/lvp_icd.json");
    let taken = |icd: &PathBuf| {
        let mut probe = command("node pkg-tests/dawn/adapter.mjs");
        icd.is_file() && output(probe.env("VK_DRIVER_FILES", icd)).is_ok()
    };
    if let Some(icd) = lavapipe_icd().into_iter().chain([unpacked.clone()]).find(taken) {
        return Ok(icd);
    }
    unpack_backport(&unpacked).context("Dawn refuses the lavapipe that is installed: a newer mesa-vulkan-drivers is needed")?;
    if !taken(&unpacked) {
        bail!("Dawn does not accept the lavapipe of {} either: install a newer mesa-vulkan-drivers", unpacked.display());
    }
    Ok(unpacked)
}

/// Downloads Debian's backport of the Mesa drivers. Uses separate package lists, so that those of the system do not change.
fn unpack_backport(icd: &Path) -> Result<()> {
    let folder = icd.parent().context("no folder")?;
    let lists = folder.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let release = fs::read_to_string("/etc/os-release").context("could not read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME, which Debian sets")?;
    let sources = folder.join("sources.list");
    let archive = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian";
    fs::write(&sources, format!("deb {archive} {codename}-backports main\n"))?;
    let apt = |line: &str| {
        let mut apt = command(line);
        apt.arg(format!("-oDir::Etc::sourcelist={}", sources.display()));
        apt.arg(format!("-oDir::State::Lists={}", lists.display()));
        apt.arg("-oDir::Etc::sourceparts=-").current_dir(folder);
        apt
    };
    run(&mut apt("apt-get update"))?;
    run(&mut apt("apt-get download mesa-vulkan-drivers"))?;
    let package = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|name| name == "deb"));
    run(command("dpkg-deb --extract").arg(package.context("apt-get downloaded nothing")?).arg(folder))?;
    let library =
        fs::read_dir(folder.join("usr/lib"))?.flatten().map(|entry| entry.path().join("libvulkan_lvp.so")).find(|path| path.is_file());
    let description = serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": library.context("the package has no lavapipe")?, "api_version": "1.3.0" },
    });
    Ok(fs::write(icd, description.to_string())?)
}

fn vulkan_loader() -> bool {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    folders.iter().any(|folder| Path::new(folder).join("libvulkan.so.1").exists())
}

/// A Debian package, and a check that returns true if its files are on the machine.
type Package<'a> = (&'a str, fn() -> bool);

/// Installs the Debian packages whose check fails. Elsewhere, or without root, returns an error that names them.
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
