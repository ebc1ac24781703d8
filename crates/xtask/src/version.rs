//! The version of the sources that figures are of.

use crate::process::command;

/// The version of the sources of a figure.
#[derive(Default)]
pub struct Version {
    /// Short hash of the commit, with `+` if files differed from it; `None` without Git.
    pub commit: Option<String>,
    pub date: Option<String>,
}

impl Version {
    /// The version of the working tree.
    pub fn now() -> Self {
        let printed = |line: &str| {
            let output = command(line).output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let changes = printed("git status --porcelain");
        let mark = if changes.is_some_and(|changes| changes.is_empty()) { "" } else { "+" };
        Self { commit: printed("git rev-parse --short HEAD").map(|hash| hash + mark), date: printed("date -u +%F") }
    }
}
