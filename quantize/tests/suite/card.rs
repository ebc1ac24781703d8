//! The model card of a web checkpoint.

use crate::ranges::{Listed, Remote};
use crate::support::{assert_names, checkpoint, convert, copy, edit_safetensors, open, run};
use quantize::{ConversionRequest, FinishedShard, Options, SchemeName, WebCheckpoint, WriteOptions};
use qwen_vl_format::Scheme;
use std::collections::BTreeMap;
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
        let error = total.error_text().unwrap();
        let row = format!("| {} | {} | {} | {} | {bits:.2} | {error:>9} |", total.scheme, total.tensors, total.weights, total.bytes);
        assert_names(&card, &[&row, "The relative error was measured"]);
    }
    assert_names(
        &card,
        &[&format!("| all | {} | {} |", summary.tensors, summary.weights), &open(&out).manifest().provenance.modifications],
    );
}

/// The texts of the errors in a card, by scheme.
fn shown_errors(card: &str) -> BTreeMap<String, String> {
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows = card.lines().skip_while(|line| !line.starts_with("| scheme")).take_while(|line| line.starts_with('|')).map(cells);
    assert_eq!(rows.next().unwrap()[6], "relative error");
    let mut errors: BTreeMap<_, _> = rows.skip(1).map(|cells| (cells[1].clone(), cells[6].clone())).collect();
    assert_eq!(errors.remove("all").unwrap(), "");
    errors
}

/// The relative error of each scheme, computed from all weights of a web checkpoint and those of its source.
fn computed_errors(web: &WebCheckpoint, source: &WebCheckpoint) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for tensor in &web.manifest().tensors {
        let scheme = match tensor.scheme {
            Scheme::F32 => "f32".to_owned(),
            Scheme::F16 => "f16".to_owned(),
            Scheme::Q8 { group_size } => format!("q8 in groups of {group_size}"),
            Scheme::Q4 { group_size } => format!("q4 in groups of {group_size}"),
            Scheme::Q4Z { group_size } => format!("q4z in groups of {group_size}"),
            Scheme::Int4 { group_size } => format!("int4 in groups of {group_size}"),
        };
        let (error, weight) = sums.entry(scheme).or_default();
        for (stored, original) in web.tensor(&tensor.name).unwrap().iter().zip(source.tensor(&tensor.name).unwrap()) {
            *error += (f64::from(*stored) - f64::from(original)).powi(2);
            *weight += f64::from(original).powi(2);
        }
    }
    sums.into_iter().map(|(scheme, (error, weight))| (scheme, (error / weight).sqrt())).collect()
}

/// The errors in the card are those of the stored weights. A conversion to f32 has the weights of the source.
#[test]
fn the_card_shows_the_measured_errors() {
    for name in ["mini-a", "mini-b", "q2-a", "q3-a"] {
        let (exact, exact_summary) = convert(&checkpoint(name), SchemeName::F32).unwrap();
        assert_eq!(exact_summary.schemes[0].relative_error, Some(0.0));
        let exact = open(&exact);
        for (scheme, range) in [(SchemeName::Q4, 0.05..0.09), (SchemeName::Q8, 0.003..0.008), (SchemeName::F16, 0.0..0.001)] {
            let (out, summary) = convert(&checkpoint(name), scheme).unwrap();
            let shown = shown_errors(&fs::read_to_string(out.path().join("web/README.md")).unwrap());
            let computed = computed_errors(&open(&out), &exact);
            assert!(shown.keys().eq(computed.keys()), "{shown:?}, {computed:?}");
            for total in &summary.schemes {
                let (text, computed) = (&shown[&total.scheme], computed[&total.scheme]);
                let (error, digits) = (total.relative_error.unwrap(), |error: f64| format!("{error:.2e}"));
                assert!((error - computed).abs() <= 1e-9 * computed, "{name}, {}: {error}, computed {computed}", total.scheme);
                assert_eq!(digits(text.parse().unwrap()), digits(computed), "{name}, {}", total.scheme);
            }
            let chosen = format!("{scheme:?}").to_lowercase();
            let error = summary.schemes.iter().find(|total| total.scheme.starts_with(&chosen)).unwrap().relative_error.unwrap();
            assert!(range.contains(&error), "{name}, {chosen}: {error}");
        }
    }
}

/// Weights that are stored as zero count as zero in the source.
#[test]
fn weights_that_are_not_finite_have_no_error() {
    let source = copy("q3-a");
    let path = source.path().join("model.safetensors");
    let convert = |edit: &dyn Fn(usize) -> [u8; 2]| {
        edit_safetensors(&path, |header, data| {
            let begin = header["model.language_model.layers.0.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
            for index in 0..3 {
                data[begin + 2 * index..][..2].copy_from_slice(&edit(index));
            }
        });
        let out = tempfile::tempdir().unwrap();
        let mut options = Options::new(source.path(), out.path().join("web"));
        options.write.allow_nonfinite = true;
        (run(&options).unwrap(), fs::read_to_string(out.path().join("web/README.md")).unwrap())
    };
    let bf16 = |number: f32| half::bf16::from_f32(number).to_le_bytes();
    let (broken, card) = convert(&|index| bf16([f32::NAN, f32::INFINITY, f32::NEG_INFINITY][index]));
    assert_eq!((broken, card), convert(&|_| bf16(0.0)));
}

/// The number of threads, and other shards, change the order in which sums are made, and not the card.
#[test]
fn threads_do_not_change_the_card() {
    let with = |threads: usize| {
        let out = tempfile::tempdir().unwrap();
        let mut options = Options::new(checkpoint("mini-b"), out.path().join("web"));
        options.write.shard_bytes = Some(100_000);
        options.write.threads = Some(threads);
        let summary = run(&options).unwrap();
        (summary, fs::read_to_string(out.path().join("web/README.md")).unwrap())
    };
    let one = with(1);
    assert!(one.0.shards > 10, "{} shards", one.0.shards);
    assert_eq!(with(4), one);
}

/// Sizes are known before the errors are.
#[test]
fn a_card_without_errors_has_its_size() {
    let listed = Listed::read(&checkpoint("q3-a"));
    let mut remote = Remote::open(&listed, &ConversionRequest::default()).unwrap();
    let count = remote.conversion.plan().unwrap().shards.len();
    let shards: Vec<_> = (0..count).map(|index| remote.shard(index, &[], None).unwrap().2).collect();
    let card = |shards: &[FinishedShard]| {
        let files = remote.conversion.small_files(shards).unwrap();
        String::from_utf8(files.into_iter().find(|(name, _)| *name == "README.md").unwrap().1.into_owned()).unwrap()
    };
    let (before, after) = (card(&[]), card(&shards));
    assert!(shown_errors(&before).values().all(String::is_empty) && shown_errors(&after).values().all(|text| !text.is_empty()));
    assert_eq!(before.len(), after.len());
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
    assert!(before.contains("| q4z in groups of 32 |") && !before.contains("| f32 | 1"));
    assert!(before.contains("relative error") && !after.contains("relative error"), "{after}");
    assert!(
        after.contains("| f32 |") && !after.contains("| q4z in groups of 32 |") && !after.contains("| q8 in groups of 32 |"),
        "{after}"
    );
    let modifications = open(&decoded).manifest().provenance.modifications.clone();
    assert_names(&after, &[&modifications, "Decoded to f32 afterwards."]);
    assert_eq!(read(&decoded, "MODIFICATIONS"), format!("{modifications}\n"));
    assert_eq!(quantize::verify(&decoded.path().join("web"), &mut |_| ()).unwrap(), []);
}
