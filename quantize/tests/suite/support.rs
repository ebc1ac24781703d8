//! Folders to convert, and ways to break them.

use quantize::{Options, SchemeName, Summary, WebCheckpoint};
use std::path::{Path, PathBuf};

pub fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

/// A copy of a fixture that a test may change.
pub fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(checkpoint(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

pub fn convert(source: &Path, scheme: SchemeName) -> anyhow::Result<(tempfile::TempDir, Summary)> {
    let out = tempfile::tempdir().unwrap();
    let summary = quantize::convert(&Options::new(source, out.path().join("web")).scheme(scheme), &mut |_| ())?;
    Ok((out, summary))
}

pub fn open(out: &tempfile::TempDir) -> WebCheckpoint {
    WebCheckpoint::open(&out.path().join("web")).unwrap()
}

/// The whole chain of an error that a conversion must give. Nothing may be left under the output's name.
pub fn refusal(source: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("web");
    let error = quantize::convert(&Options::new(source, &target), &mut |_| ()).expect_err("the conversion must fail");
    assert!(!target.exists(), "a failed conversion left {}", target.display());
    format!("{error:#}")
}

/// Changes a JSON file of a folder.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Changes header and data of a safetensors file.
pub fn edit_safetensors(path: &Path, edit: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    edit(&mut header, &mut data);
    let header = header.to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// Replaces bytes of a file by others of the same length.
pub fn replace_bytes(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the bytes are there");
    bytes[at..at + to.len()].copy_from_slice(to);
    std::fs::write(path, bytes).unwrap();
}
