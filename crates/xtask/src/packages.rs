//! The npm package, its tarball, and the demo page.

use crate::process::{command, root, run, target_dir};
use crate::{system, wasm};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Builds `web/dist`: wasm and TypeScript.
pub fn build() -> Result<()> {
    system::npm_packages()?;
    wasm::build()?;
    typescript()
}

/// Compiles the TypeScript of the package, and checks its types.
pub fn typescript() -> Result<()> {
    run(&mut command("node node_modules/typescript/bin/tsc --project web"))
}

/// Builds `www/dist`; the package has to be built before.
pub fn site() -> Result<()> {
    run(&mut command("node node_modules/typescript/bin/tsc --project www"))?;
    run(command("node ../node_modules/vite/bin/vite.js build --logLevel warn").current_dir(root().join("www")))?;
    // Behind the page's own build, whose offline cache it is no part of.
    api_reference(&root().join("www/dist/api"), false)
}

/// Writes the package's API reference; the package has to be built before.
///
/// `strict`: a link that leads nowhere or a type that is not exported is an error.
pub fn api_reference(folder: &Path, strict: bool) -> Result<()> {
    let line = "node node_modules/typedoc/bin/typedoc --logLevel Warn --options web/typedoc.json --treatWarningsAsErrors";
    run(command(line).arg(strict.to_string()).arg("--out").arg(folder))
}

/// The tarball that [`pack`] has made.
pub fn tarball() -> Result<PathBuf> {
    let folder = target_dir().join("package");
    let mut files = fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "tgz")).context("there is no packed package")
}

/// Packs the built package as npm would publish it; returns the tarball.
pub fn pack() -> Result<PathBuf> {
    let folder = target_dir().join("package");
    if folder.is_dir() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(root().join(licence), root().join("web").join(licence))?;
    }
    run(command("npm pack --silent --workspace web --pack-destination").arg(&folder))?;
    let mut files = fs::read_dir(&folder)?;
    Ok(files.next().context("npm pack wrote nothing")??.path())
}

/// Packs the package and unpacks the tarball to `target/package/package`, which is what the browser tests run.
pub fn pack_and_unpack() -> Result<()> {
    let tarball = pack()?;
    run(command("tar -x -z -f").arg(&tarball).arg("-C").arg(target_dir().join("package")))
}
