//! The published Int4 format: 4-bit integers of GPTQ, repacked without loss.

use crate::support::{convert, copy, edit_json, edit_safetensors, open, refusal, replace_bytes};
use quantize::{Options, Rule, SchemeName};
use qwen_vl_format::{Scheme, ShardHash};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "gptq.safetensors";
const MODULES: [&str; 5] = ["attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj"];

/// mini-a with the matrices of its decoder layer replaced by those that `tests/independent/gptq.py` wrote.
fn checkpoint(group_size: u32) -> tempfile::TempDir {
    let folder = copy("mini-a");
    let gptq: &[u8] = match group_size {
        128 => include_bytes!("../independent/mini_a_gptq_128.safetensors"),
        _ => include_bytes!("../independent/mini_a_gptq_32.safetensors"),
    };
    std::fs::write(folder.path().join(FILE), gptq).unwrap();
    let names = safetensors::SafeTensors::deserialize(gptq).unwrap();
    edit_json(&folder.path().join("pytorch_model.bin.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        for module in MODULES {
            // The float matrix gets an unused name in the index and in the pickle.
            let name = format!("transformer.h.0.{module}.weight");
            let file = map.remove(&name).unwrap();
            let path = folder.path().join(file.as_str().unwrap());
            let unused = name.replace(".weight", ".former");
            replace_bytes(&path, name.as_bytes(), unused.as_bytes());
            map.insert(unused, file);
        }
        map.extend(names.names().into_iter().map(|name| (name.to_owned(), FILE.into())));
    });
    let config = serde_json::json!({ "bits": 4, "group_size": group_size, "desc_act": false, "sym": true });
    std::fs::write(folder.path().join("quantize_config.json"), config.to_string()).unwrap();
    folder
}

/// Hashes by tensor, for a group size and an order of the groups.
fn expected(group_size: u32, order: &str) -> BTreeMap<String, String> {
    let all: serde_json::Value = serde_json::from_str(include_str!("../independent/mini_a_gptq.json")).unwrap();
    serde_json::from_value(all[group_size.to_string()][order].clone()).unwrap()
}

fn assert_hashes(web: &quantize::WebCheckpoint, expected: BTreeMap<String, String>) {
    assert_eq!(expected.len(), 4);
    for (name, hash) in expected {
        let bytes: Vec<u8> = web.tensor(&name).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(ShardHash::of(&bytes), hash, "{name}");
    }
}

fn edit(folder: &tempfile::TempDir, change: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
    edit_safetensors(&folder.path().join(FILE), change);
}

/// Sets all words of an I32 tensor.
fn fill(header: &serde_json::Value, data: &mut [u8], name: &str, word: impl Fn(usize) -> u32) {
    let [begin, end] = [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
    for (at, bytes) in data[begin..end].chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&word(at).to_le_bytes());
    }
}

#[test]
fn the_repack_is_exact() {
    for group_size in [128, 32] {
        let source = checkpoint(group_size);
        for scheme in [SchemeName::Q4, SchemeName::F32] {
            let (out, summary) = convert(source.path(), scheme).unwrap();
            let web = open(&out);
            assert_eq!(summary.unused_tensors.len(), 5, "{:?}", summary.unused_tensors);
            let want = if scheme == SchemeName::Q4 { Scheme::Int4 { group_size } } else { Scheme::F32 };
            for name in expected(group_size, "in_order").keys() {
                assert_eq!(web.manifest().tensor(name).unwrap().scheme, want, "{name}");
            }
            assert_hashes(&web, expected(group_size, "in_order"));
            // Other tensors are stored as without GPTQ.
            assert_eq!(web.manifest().tensor("head.weight").unwrap().scheme, scheme.with_group_size(32));
            assert_eq!(web.manifest().provenance.modifications.contains("as int4"), scheme == SchemeName::Q4);
        }
    }
}

/// Groups out of order (activation order) have no exact scheme: such modules are decoded and encoded anew.
#[test]
fn groups_out_of_order_are_decoded() {
    let source = checkpoint(32);
    for (module, inputs) in MODULES.into_iter().zip([128, 128, 128, 128, 64]) {
        let name = format!("transformer.h.0.{module}.g_idx");
        edit(&source, |header, data| fill(header, data, &name, |input| (inputs / 32 - 1 - input / 32) as u32));
    }
    let (decoded, _) = convert(source.path(), SchemeName::F32).unwrap();
    assert_hashes(&open(&decoded), expected(32, "reversed"));
    assert_ne!(expected(32, "reversed"), expected(32, "in_order"));
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    for name in expected(32, "in_order").keys() {
        assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4 { group_size: 32 }, "{name}");
    }
}

#[test]
fn a_rule_encodes_anew() {
    let source = checkpoint(128);
    let out = tempfile::tempdir().unwrap();
    let mut options = Options::new(source.path(), out.path().join("web"));
    options.rules = vec![Rule::parse("decoder.layers.0.mlp=q8").unwrap()];
    quantize::convert(&options, &mut |_| ()).unwrap();
    let web = open(&out);
    let scheme = |name: &str| web.manifest().tensor(name).unwrap().scheme;
    assert_eq!(scheme("decoder.layers.0.mlp.down.weight"), Scheme::Q8 { group_size: 32 });
    assert_eq!(scheme("decoder.layers.0.attn.out.weight"), Scheme::Int4 { group_size: 128 });
}

/// Zero points other than 8 have no exact scheme either.
#[test]
fn other_zero_points_are_decoded() {
    let (plain, _) = convert(checkpoint(128).path(), SchemeName::F32).unwrap();
    let name = "decoder.layers.0.mlp.down.weight";
    let plain = open(&plain).tensor(name).unwrap();

    // All zero points 5 instead of 8: every weight grows by three scales.
    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.c_proj.qzeros", |_| 0x4444_4444));
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4 { group_size: 32 });
    let (decoded, _) = convert(source.path(), SchemeName::F32).unwrap();
    let decoded = open(&decoded).tensor(name).unwrap();
    let cols = 64;
    for (plain, decoded) in plain.chunks(cols).zip(decoded.chunks(cols)) {
        let shift = decoded[0] - plain[0];
        assert!(shift > 0.0 && plain.iter().zip(decoded).all(|(plain, decoded)| (decoded - plain - shift).abs() < 1e-6));
    }

    // `gptq_v2` stores zero points unchanged, so that the stored 7 means 7.
    let source = checkpoint(128);
    edit_json(&source.path().join("quantize_config.json"), |config| config["checkpoint_format"] = "gptq_v2".into());
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4 { group_size: 32 });
}

#[test]
fn bad_modules() {
    let assert_names = |source: &Path, parts: &[&str]| crate::support::assert_names(&refusal(source), parts);
    let source = checkpoint(128);
    std::fs::remove_file(source.path().join("quantize_config.json")).unwrap();
    assert_names(source.path(), &["transformer.h.0.attn.c_attn.qweight", "quantize_config.json"]);

    for (key, value) in [("bits", serde_json::json!(3)), ("group_size", serde_json::json!(-1)), ("quant_method", serde_json::json!("awq"))]
    {
        let source = checkpoint(128);
        edit_json(&source.path().join("quantize_config.json"), |config| config[key] = value.clone());
        assert_names(source.path(), &["quantize_config.json", key, &value.to_string()]);
    }

    let source = checkpoint(128);
    edit_json(&source.path().join("quantize_config.json"), |config| config["group_size"] = 32.into());
    assert_names(source.path(), &["transformer.h.0.attn.c_attn.qzeros", "[1, 48]", "[4, 48]"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.g_idx", |input| u32::from(input == 9)));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.g_idx", "group 1 for input 9"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.bias", |_| 0x3c00_0000));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.bias", "must be zero"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.scales", |_| 0x7c00_7c00));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.scales", "inf"]);
}
