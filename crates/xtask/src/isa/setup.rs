//! Mesa's drivers with all that they need, unpacked next to the build: nothing is installed.

use crate::process::{command, installed, output, run, target_dir};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The release of Debian whose packages are used, on any release: newer than the drivers that Dawn refuses, and with NVK.
const RELEASE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DRIVERS: &str = "mesa-vulkan-drivers";
/// The drivers, a GPU of NVIDIA's that does nothing, and the Vulkan loader. Apt adds what they depend on, the C library included.
const PACKAGES: [&str; 3] = [DRIVERS, "mesa-drm-shim", "libvulkan1"];

/// The unpacked packages.
pub struct Setup {
    /// The folder with all libraries.
    pub libraries: PathBuf,
    /// The loader of programs of the C library there.
    pub program_loader: PathBuf,
    /// Version of the package with the drivers.
    pub mesa: String,
}

/// Returns the folder of everything that the command makes.
pub fn folder() -> PathBuf {
    target_dir().join("isa")
}

impl Setup {
    /// Returns the set-up, downloaded at the first call.
    pub fn get() -> Result<Self> {
        let packages = folder().join("packages");
        let (unpacked, version) = (packages.join("root"), packages.join("mesa-version"));
        if !version.is_file() {
            let mesa =
                download(&packages, &unpacked).with_context(|| format!("could not unpack Debian's drivers into {}", packages.display()))?;
            // Last, so that an interrupted set-up is repeated.
            fs::write(&version, mesa)?;
        }
        let libraries = subfolders(&unpacked.join("usr/lib"))?
            .into_iter()
            .find(|folder| folder.join("libvulkan.so.1").exists())
            .with_context(|| format!("no Vulkan loader in {}: delete the folder and try again", unpacked.display()))?;
        let program_loader = entries(&libraries)?
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
            .with_context(|| format!("no loader of programs in {}: delete the folder and try again", libraries.display()))?;
        Ok(Self { libraries, program_loader, mesa: fs::read_to_string(&version)? })
    }
}

/// Downloads and unpacks the packages with all that they depend on. Returns the version of the drivers.
fn download(packages: &Path, unpacked: &Path) -> Result<String> {
    ensure!(
        installed("apt-get") && installed("dpkg-deb"),
        "apt-get and dpkg-deb are missing, which Debian and systems made from it have: the drivers are unpacked from Debian's packages"
    );
    ensure!(Path::new(KEYRING).is_file(), "{KEYRING} is missing: install the package debian-archive-keyring");
    let archives = packages.join("archives");
    for folder in [&archives, &packages.join("lists")] {
        fs::create_dir_all(folder.join("partial"))?;
    }
    let sources = packages.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {RELEASE} main\n"))?;
    // With lists and a state apart from the system's. Without a status file no package counts as installed.
    let apt = |line: &str| {
        let mut apt = command(line);
        apt.arg(format!("-oDir::Etc::sourcelist={}", sources.display())).arg("-oDir::Etc::sourceparts=-");
        apt.arg(format!("-oDir::State={}", packages.display())).arg("-oDir::State::status=/dev/null");
        apt.arg(format!("-oDir::Cache={}", packages.display())).arg(format!("-oDir::Cache::archives={}", archives.display()));
        apt.arg("-oDebug::NoLocking=true");
        apt
    };
    run(&mut apt("apt-get --quiet update"))?;
    run(apt("apt-get --quiet --yes --download-only --no-install-recommends install").args(PACKAGES))?;
    let mut mesa = None;
    for archive in entries(&archives)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
        output(command("dpkg-deb --extract").arg(&archive).arg(unpacked))?;
        if archive.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DRIVERS)) {
            mesa = Some(output(command("dpkg-deb --field").arg(&archive).arg("Version"))?.trim().to_owned());
        }
    }
    mesa.with_context(|| format!("apt-get did not download {DRIVERS}"))
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("could not list {}", folder.display());
    fs::read_dir(folder).with_context(what)?.map(|entry| Ok(entry.with_context(what)?.path())).collect()
}
