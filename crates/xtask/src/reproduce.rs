//! `cargo xtask reproduce`: the same package from two builds, or the package of a tarball from one.

use crate::packages;
use crate::process::{command, output, root, run as run_command};
use crate::system;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Options {
    /// Build once, and compare with this tarball of the package; its commit must be checked out
    #[arg(long, value_name = "FILE")]
    tarball: Option<PathBuf>,
}

/// The SHA-256 of the files of a package, by name.
type Files = BTreeMap<String, String>;

/// The file that names the commit, which a copy of the tree does not know.
const BUILD: &str = "dist/build.json";

/// Builds the package from copies of the tree in a temporary folder, prints the SHA-256 of each file, and fails if files differ.
pub fn run(options: &Options) -> Result<()> {
    system::npm_packages()?;
    let folder = env::temp_dir().join(format!("qwen-vl-web-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let built = builds(&folder, options);
    fs::remove_dir_all(&folder).with_context(|| format!("could not remove {}", folder.display()))?;
    let (first, second) = built?;
    for (name, hash) in first.iter().filter(|(name, _)| name.as_str() != BUILD) {
        println!("{hash}  {name}");
    }
    let differing = differing(&first, &second);
    ensure!(differing.is_empty(), "the builds differ in {} of {} files: {}", differing.len(), first.len(), differing.join(", "));
    println!("{} files are the same", first.len());
    Ok(())
}

/// Returns the files of both packages.
fn builds(folder: &Path, options: &Options) -> Result<(Files, Files)> {
    let (first, second) = (folder.join("tree"), folder.join("second/copy of the tree"));
    // Both before the first build, because someone may change the tree meanwhile.
    copy_tree(&first)?;
    if let Some(tarball) = &options.tarball {
        let given = unpack(&env::current_dir()?.join(tarball), &folder.join("given"))?;
        same_compiler(&folder.join("given/package").join(BUILD))?;
        return Ok((build(&first, None)?, given));
    }
    copy_tree(&second)?;
    // Another path, of another length, and another path of cargo's registry.
    Ok((build(&first, None)?, build(&second, Some(&folder.join("second/cargo")))?))
}

/// Returns an error if a package was built with another compiler than the installed one.
fn same_compiler(record: &Path) -> Result<()> {
    let text = fs::read_to_string(record).with_context(|| format!("the tarball has no {BUILD}"))?;
    let record: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("could not parse {BUILD}"))?;
    let (expected, installed) = (record["rustc"].as_str().unwrap_or_default(), output(&mut command("rustc --version"))?);
    ensure!(expected == installed.trim(), "{BUILD}: the compiler was `{expected}`, installed is `{}`: install that one", installed.trim());
    Ok(())
}

/// Packs the package of a copy of the tree and returns its files. `cargo_home`: a folder that stands for cargo's own.
fn build(tree: &Path, cargo_home: Option<&Path>) -> Result<Files> {
    link(&root().join("node_modules"), &tree.join("node_modules"))?;
    let mut cargo = command("cargo xtask package");
    cargo.current_dir(tree).env_remove("CARGO_TARGET_DIR");
    if let Some(folder) = cargo_home {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
        let home = home.context("cargo's folder is not known: set CARGO_HOME")?;
        fs::create_dir_all(folder)?;
        for name in ["registry", "config.toml"].iter().filter(|name| home.join(name).exists()) {
            link(&home.join(name), &folder.join(name))?;
        }
        cargo.env("CARGO_HOME", folder);
    }
    run_command(&mut cargo)?;
    let files = unpack(&packages::tarball_in(&tree.join("target/package"))?, &tree.with_extension("unpacked"))?;
    // Gigabytes.
    fs::remove_dir_all(tree.join("target"))?;
    Ok(files)
}

/// Copies the files that git knows, as they are now, and those that it does not ignore.
fn copy_tree(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let listed =
        output(&mut command("git ls-files -z --cached --others --exclude-standard")).context("the list of files comes from git")?;
    let existing: Vec<&str> = listed.split_terminator('\0').filter(|name| root().join(name).is_file()).collect();
    let (list, archive) = (to.with_extension("list"), to.with_extension("tar"));
    fs::write(&list, existing.join("\0"))?;
    // It keeps the times, from which `cargo xtask` sees that the npm packages are installed.
    run_command(command("tar -c --null -f").arg(&archive).arg("-T").arg(&list))?;
    run_command(command("tar -x -f").arg(&archive).arg("-C").arg(to))
}

/// Makes a symbolic link, or on Windows a junction.
fn link(target: &Path, link: &Path) -> Result<()> {
    run_command(command("node --eval").arg("require('fs').symlinkSync(process.argv[1], process.argv[2], 'junction')").arg(target).arg(link))
}

/// Unpacks a tarball of npm and returns its files.
fn unpack(tarball: &Path, folder: &Path) -> Result<Files> {
    fs::create_dir_all(folder)?;
    run_command(command("tar -x -z -f").arg(tarball).arg("-C").arg(folder))?;
    let package = folder.join("package");
    let mut paths = Vec::new();
    list(&package, &mut paths)?;
    let hashes = packages::sha256(&paths)?;
    let mut files = Files::new();
    for (path, hash) in paths.iter().zip(hashes) {
        files.insert(path.strip_prefix(&package)?.to_string_lossy().replace('\\', "/"), hash);
    }
    Ok(files)
}

/// Adds the files of a folder and of its subfolders.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// Returns the names of the files that only one package has or whose bytes differ.
fn differing(first: &Files, second: &Files) -> Vec<String> {
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    names.into_iter().filter(|name| name.as_str() != BUILD && first.get(*name) != second.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_or_are_missing_are_named_and_the_commit_is_not_compared() {
        let files = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect::<Files>();
        let first = files(&[("a.wasm", "1"), ("b.js", "2"), ("only-first", "3"), (BUILD, "4")]);
        let second = files(&[("a.wasm", "1"), ("b.js", "0"), ("only-second", "3"), (BUILD, "5")]);
        assert_eq!(differing(&first, &second), ["b.js", "only-first", "only-second"]);
        assert!(differing(&first, &first).is_empty());
    }
}
