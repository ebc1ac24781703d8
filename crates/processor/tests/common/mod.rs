//! Folders with the numerical data of the original.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the fixtures of this repository, and the larger reference data if it is available.
pub fn data_folders() -> Vec<PathBuf> {
    let reference = std::env::var_os("QWEN_VL_REFERENCE").map_or_else(|| root().join("../shared/reference"), PathBuf::from);
    let mut folders = vec![root().join("tests/fixtures")];
    folders.extend(reference.is_dir().then_some(reference));
    folders
}

/// Bytes of a file.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
