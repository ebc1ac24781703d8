//! `cargo xtask test --only lint`.

mod circles;

use crate::licences;
use crate::process::{command, output, run as run_command};
use crate::wasm;
use anyhow::{Context, Result, ensure};

/// Packages that run in a tab.
const IN_BROWSER: [&str; 9] = ["format", "processor", "kernels", "runtime", "cpu", "web", "web-constrain", "web-convert", "web-cpu"];

/// Runs every check. Returns all results, so that one failure does not hide another.
pub fn run() -> Vec<(&'static str, Result<()>)> {
    vec![
        ("clippy", run_command(&mut command("cargo clippy --quiet --all-targets -- --deny warnings"))),
        ("clippy for xtask", run_command(&mut command("cargo clippy --quiet --package xtask --all-targets -- --deny warnings"))),
        ("clippy for wasm32", clippy_in_browser()),
        ("links in the docs", docs()),
        ("linter of TypeScript", run_command(&mut command("npm run --silent lint"))),
        ("writing rules", run_command(&mut command("node tools/lint/writing.mjs"))),
        ("circles", circles::check()),
        ("members", members()),
        ("licences of the crates in the wasm", licences::check()),
        ("paths in the wasm", wasm::check_paths()),
    ]
}

/// Checks that `default-members` of Cargo.toml leaves out only the packages that are built and tested on their own.
fn members() -> Result<()> {
    let metadata = metadata()?;
    let names = |key: &str| -> Result<Vec<String>> {
        let ids = metadata[key].as_array().with_context(|| format!("cargo metadata: `{key}` is missing"))?;
        let packages = metadata["packages"].as_array().context("cargo metadata: `packages` is missing")?;
        let named = packages.iter().filter(|package| ids.contains(&package["id"])).filter_map(|package| package["name"].as_str());
        Ok(named.map(str::to_owned).collect())
    };
    let default = names("workspace_default_members")?;
    let left_out: Vec<String> = names("workspace_members")?
        .into_iter()
        .filter(|name| {
            !default.contains(name)
                && !["xtask", "qwen-vl-web-constrain", "qwen-vl-web-convert", "qwen-vl-web-cpu"].contains(&name.as_str())
        })
        .collect();
    ensure!(left_out.is_empty(), "Cargo.toml: `default-members` lacks {}, so no test builds it", left_out.join(", "));
    Ok(())
}

fn metadata() -> Result<serde_json::Value> {
    let metadata = output(&mut command("cargo metadata --format-version 1 --no-deps --offline"))?;
    serde_json::from_str(&metadata).context("could not parse the output of cargo metadata")
}

/// Clippy for the wasm target. `web/clippy.toml` forbids calls that block or do not exist in a browser.
fn clippy_in_browser() -> Result<()> {
    let packages = IN_BROWSER.map(|name| format!("--package qwen-vl-{name}")).join(" ");
    // `quantize` without the feature `files` is the converter's core.
    for packages in [packages.as_str(), "--package quantize --no-default-features"] {
        let line = format!("cargo clippy --quiet --target wasm32-unknown-unknown {packages} -- --deny warnings");
        run_command(command(&line).env("CLIPPY_CONF_DIR", "web"))?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    run_command(command("cargo doc --quiet --no-deps").env("RUSTDOCFLAGS", "--deny rustdoc::broken_intra_doc_links"))
}
