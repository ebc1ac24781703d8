//! The model card of a web checkpoint.

use crate::support::{assert_names, checkpoint, convert, copy, open};
use quantize::{SchemeName, WriteOptions};
use std::fs;
use std::path::Path;

/// The card of a conversion of a folder.
fn card(source: &Path) -> String {
    let (out, _) = convert(source, SchemeName::Q4).unwrap();
    assert!(open(&out).manifest().files.iter().any(|file| file.file == "README.md"));
    fs::read_to_string(out.path().join("web/README.md")).unwrap()
}

/// The lines between the two `---`.
fn front(card: &str) -> Vec<&str> {
    let (front, _) = card.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    front.lines().collect()
}

const ALWAYS: [&str; 5] = ["library_name: qwen-vl-web", "pipeline_tag: image-text-to-text", "tags:", "- qwen-vl-web", "- webgpu"];

#[test]
fn the_front_matter_of_the_source_is_kept() {
    let source = copy("q3-a");
    let published = [
        "---\nlanguage:\n- en\nlicense: other\nlicense_name: >-\n  house-rules\nlicense_link: LICENSE\n",
        "base_model:\n  - \"Qwen/Qwen3-VL-2B\"\ntags: [x]\nlibrary_name: transformers\n---\n# A fine-tune\n---\nlicense: mit\n",
    ]
    .concat();
    fs::write(source.path().join("README.md"), published).unwrap();
    // The front matter counts, and not the file.
    fs::write(source.path().join("LICENSE"), "Apache License, Version 2.0").unwrap();
    let own = ["license: other", "license_name: >-", "  house-rules", "license_link: LICENSE"];
    let base = ["base_model: Qwen/Qwen3-VL-2B", "base_model_relation: quantized"];
    let card = card(source.path());
    assert_eq!(front(&card), [&own[..], &base, &ALWAYS, &["- qwen3_vl"]].concat());
    assert!(!card.contains("A fine-tune"));
}

#[test]
fn the_licence_file_names_the_licence() {
    for (model, family, licence, lines) in [
        ("q3-a", "- qwen3_vl", Some("Apache License\nVersion 2.0, January 2004"), &["license: apache-2.0"][..]),
        (
            "mini-a",
            "- qwen_vl",
            Some("Tongyi Qianwen LICENSE AGREEMENT"),
            &["license: other", "license_name: tongyi-qianwen", "license_link: LICENSE"],
        ),
        ("q2-a", "- qwen2_vl", Some("All rights are mine."), &[]),
        ("q2-a", "- qwen2_vl", None, &[]),
    ] {
        let source = copy(model);
        if let Some(text) = licence {
            fs::write(source.path().join("LICENSE"), text).unwrap();
        }
        // A card without a front matter has no entries.
        fs::write(source.path().join("README.md"), "# Mine\n\nlicense: mit\n").unwrap();
        assert_eq!(front(&card(source.path())), [lines, &ALWAYS, &[family]].concat(), "{model}, {licence:?}");
    }
}

/// A folder in the Hub's cache has the name of its repository, which is the base even if it names another.
#[test]
fn a_repository_is_the_base() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--owner--tuned/snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(checkpoint("mini-a")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(snapshot.join("README.md"), "---\nbase_model: Qwen/Qwen-VL-Chat\n---\n").unwrap();
    let card = card(&snapshot);
    assert_eq!(front(&card)[..2], ["base_model: owner/tuned", "base_model_relation: quantized"]);
    assert_names(&card, &["# `owner/tuned` for the browser", "QwenVL.load(\"hf:OWNER/NAME\")"]);
}

#[test]
fn the_card_lists_the_schemes() {
    let (out, summary) = convert(&checkpoint("q2-a"), SchemeName::Q4).unwrap();
    let card = fs::read_to_string(out.path().join("web/README.md")).unwrap();
    assert!(summary.schemes.len() > 2);
    for total in &summary.schemes {
        let bits = total.bytes as f64 * 8.0 / total.weights as f64;
        let row = format!("| {} | {} | {} | {} | {bits:.2} |", total.scheme, total.tensors, total.weights, total.bytes);
        assert_names(&card, &[&row]);
    }
    assert_names(
        &card,
        &[&format!("| all | {} | {} |", summary.tensors, summary.weights), &open(&out).manifest().provenance.modifications],
    );
}

/// The card and the statement of changes describe the weights that are stored next to them.
#[test]
fn a_decoded_checkpoint_has_its_own_card() {
    let source = copy("q3-a");
    fs::write(source.path().join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    let (out, _) = convert(source.path(), SchemeName::Q4).unwrap();
    let decoded = tempfile::tempdir().unwrap();
    quantize::dequantized(&out.path().join("web"), &decoded.path().join("web"), &WriteOptions::default()).unwrap();
    let read = |out: &tempfile::TempDir, name: &str| fs::read_to_string(out.path().join("web").join(name)).unwrap();
    let (before, after) = (read(&out, "README.md"), read(&decoded, "README.md"));
    assert_eq!(front(&before), front(&after));
    assert!(before.contains("| q4 in groups of 32 |") && !before.contains("| f32 | 1"));
    assert!(after.contains("| f32 |") && !after.contains("| q4 in groups of 32 |") && !after.contains("| q8 in groups of 32 |"), "{after}");
    let modifications = open(&decoded).manifest().provenance.modifications.clone();
    assert_names(&after, &[&modifications, "Decoded to f32 afterwards."]);
    assert_eq!(read(&decoded, "MODIFICATIONS"), format!("{modifications}\n"));
    assert_eq!(quantize::verify(&decoded.path().join("web"), &mut |_| ()).unwrap(), []);
}
