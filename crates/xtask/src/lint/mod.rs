//! `cargo xtask test --only lint`.

mod circles;

use crate::process::{command, run as run_command};
use anyhow::Result;

/// Packages that run in a tab.
const IN_BROWSER: [&str; 7] = ["format", "processor", "kernels", "runtime", "cpu", "web", "web-cpu"];

/// Runs every check. Returns all results, so that one failure does not hide another.
pub fn run() -> Vec<(&'static str, Result<()>)> {
    vec![
        ("clippy", run_command(&mut command("cargo clippy --quiet --all-targets -- --deny warnings"))),
        ("clippy for wasm32", clippy_in_browser()),
        ("links in the docs", docs()),
        ("linter of TypeScript", run_command(&mut command("npm run --silent lint"))),
        ("writing rules", run_command(&mut command("node tools/lint/writing.mjs --warn"))),
        ("circles", circles::check()),
    ]
}

/// Clippy for the wasm target. `web/clippy.toml` forbids calls that block or do not exist in a browser.
fn clippy_in_browser() -> Result<()> {
    let packages = IN_BROWSER.map(|name| format!("--package qwen-vl-{name}")).join(" ");
    let line = format!("cargo clippy --quiet --target wasm32-unknown-unknown {packages} -- --deny warnings");
    run_command(command(&line).env("CLIPPY_CONF_DIR", "web"))
}

fn docs() -> Result<()> {
    run_command(command("cargo doc --quiet --no-deps").env("RUSTDOCFLAGS", "--deny rustdoc::broken_intra_doc_links"))
}
