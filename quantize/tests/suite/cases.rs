//! The conversions of these tests as files, so that the converter of the npm package can repeat them.
//!
//! With `QWEN_VL_CASES=DIR` every conversion is written to `DIR/TEST-NUMBER/`: the source's folder and `case.json`, which has the settings
//! and the outcome. Files of the same contents are links to one file in `DIR/contents`.

use crate::ranges::Listed;
use quantize::ConversionRequest;
use qwen_vl_format::ShardHash;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The outcome of a conversion by the command: files and notes, or the text of the error.
pub type Outcome = Result<(BTreeMap<String, Vec<u8>>, Vec<String>), String>;

/// Files, and tests, whose conversions are not repeated, and the reasons. `every_conversion_is_a_case` keeps the list complete.
pub const NOT_REPEATED: [(&str, &str); 4] = [
    ("command.rs", "It tests the program: its arguments, exit codes, signals and `--resume`. The package has another program."),
    ("hub.rs", "Its source is the stand-in of the Hub. `web/test/convert.test.mjs` has the same tests with a stand-in for browsers."),
    ("output.rs", "It tests which folders may be written and replaced, and links. Hosts of the package decide about that themselves."),
    (
        "bad_input.rs: no_folder_and_no_weights",
        "One source is a path that does not exist. Hosts of the package report that before there is a list of files.",
    ),
];

/// Writes a conversion if `QWEN_VL_CASES` names a folder.
pub fn write(listed: &Listed, settings: &ConversionRequest, outcome: &Outcome) {
    let Some(root) = std::env::var_os("QWEN_VL_CASES").map(PathBuf::from) else { return };
    // Tests run in the package's folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(root);
    let thread = std::thread::current();
    let test = thread.name().filter(|name| name.contains("::")).expect("the thread has the name of its test");
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(0) });
    let number = NUMBER.replace(NUMBER.get() + 1);
    let case = root.join(format!("{}-{number:02}", test.replace("::", ".")));

    // The converter takes the name of a checkpoint from its path. In a Hugging Face cache that has three parts.
    let parts = if listed.place.parent().is_some_and(|parent| parent.ends_with("snapshots")) { 3 } else { 1 };
    let path: Vec<_> = listed.place.iter().rev().take(parts).collect();
    let folder: PathBuf = path.into_iter().rev().collect();
    for (path, bytes) in &listed.files {
        let link = case.join(&folder).join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::hard_link(contents(&root, bytes), link).unwrap();
    }
    fs::create_dir_all(case.join(&folder)).unwrap();
    let mut text = json!({ "test": test, "folder": folder, "settings": described(settings) });
    match outcome {
        Ok((files, notes)) => {
            let hashes: BTreeMap<_, _> = files.iter().map(|(name, bytes)| (name, ShardHash::of(bytes))).collect();
            (text["files"], text["notes"]) = (json!(hashes), json!(notes));
        }
        // The folder of the case is elsewhere.
        Err(error) => text["error"] = error.replace(&listed.place.display().to_string(), "{folder}").into(),
    }
    fs::write(case.join("case.json"), serde_json::to_string_pretty(&text).unwrap()).unwrap();
}

/// The file with these contents, which is made if it does not exist. Other processes do the same at the same time.
fn contents(root: &Path, bytes: &[u8]) -> PathBuf {
    let (folder, hash) = (root.join("contents"), ShardHash::of(bytes));
    let path = folder.join(&hash);
    if !path.exists() {
        fs::create_dir_all(&folder).unwrap();
        let unfinished = tempfile::NamedTempFile::new_in(&folder).unwrap();
        fs::write(&unfinished, bytes).unwrap();
        // A file that is replaced while it is linked does not exist for a moment.
        if let Err(error) = unfinished.persist_noclobber(&path) {
            assert_eq!(error.error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
        }
    }
    path
}

/// The settings that differ from the default, as the package takes them.
fn described(settings: &ConversionRequest) -> Value {
    let ConversionRequest { scheme, group_size, keep, allow_nonfinite, shard_bytes, .. } = settings;
    let all = json!({
        "scheme": scheme, "groupSize": group_size, "keep": keep, "allowNonfinite": allow_nonfinite, "shardBytes": shard_bytes,
    });
    let Value::Object(mut all) = all else { unreachable!("it is an object") };
    all.retain(|_, value| ![Value::Null, json!([]), json!(false)].contains(value));
    all.into()
}

/// A conversion that does not pass through [`crate::support::run`] would not be compared, and would not be a case.
#[test]
fn every_conversion_is_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        // In two pieces, so that this line does not count.
        let calls = fs::read_to_string(entry.unwrap().path()).unwrap().matches(&["quantize::", "convert("].concat()).count();
        let allowed = match name.as_str() {
            // `run`, its second run after a dry one, and `run_alone`.
            "support.rs" => 3,
            name if NOT_REPEATED.iter().any(|(file, _)| *file == name) => usize::MAX,
            _ => 0,
        };
        if calls > allowed {
            others.push(name);
        }
    }
    assert_eq!(others, [""; 0], "convert with `support::run`, or add the file to NOT_REPEATED with the reason");
}
