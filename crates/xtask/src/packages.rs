//! The npm package, its tarball, and the demo page.

use crate::process::{command, root, run, target_dir};
use crate::system;
use crate::wasm::{self, Backends};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

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
    let folder = target_dir().join("package");
    let mut files = fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
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
    run(command("npm pack --silent --workspace web --pack-destination").arg(&folder))?;
    tarball()
}

/// Packs the package and unpacks the tarball to `target/package/package`, which the browser tests run.
pub fn pack_and_unpack() -> Result<()> {
    let tarball = pack()?;
    run(command("tar -x -z -f").arg(&tarball).arg("-C").arg(target_dir().join("package")))
}
