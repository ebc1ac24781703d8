//! Whole conversions of the fixtures.

use crate::support::{checkpoint, convert, copy, open, run, single};
use quantize::{Options, Rule, SchemeName, WebCheckpoint, WriteOptions};
use qwen_vl_format::block::{EncodedRows, decode_rows, encode_rows};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{Manifest, Scheme, ShardHash, TensorKind, padded};
use std::collections::BTreeMap;

const MODELS: [&str; 4] = ["mini-a", "mini-b", "q2-a", "q3-a"];
const SCHEMES: [SchemeName; 4] = [SchemeName::Q4, SchemeName::Q8, SchemeName::F16, SchemeName::F32];

/// `tests/independent/expected.json` comes from an independent reader in Python.
#[test]
fn f32_holds_the_source_exactly() {
    let expected: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(include_str!("../independent/expected.json")).unwrap();
    for model in MODELS {
        let (out, _) = convert(&checkpoint(model), SchemeName::F32).unwrap();
        let web = open(&out);
        let mut compared = 0;
        for tensor in &web.manifest().tensors {
            let Some(want) = expected[model].get(&tensor.name) else {
                // Computed from the source, not moved: tested by `computed_tensors_follow_their_definitions`.
                assert!(
                    model.starts_with("mini")
                        && ["vision.position_embedding", "resampler.query", "resampler.key_position"].contains(&tensor.name.as_str()),
                    "{model}: nothing is known about {}",
                    tensor.name
                );
                continue;
            };
            let bytes: Vec<u8> = web.tensor(&tensor.name).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(ShardHash::of(&bytes), *want, "{model}: {}", tensor.name);
            compared += 1;
        }
        assert_eq!(compared, expected[model].len(), "{model}");
    }
}

#[test]
fn computed_tensors_follow_their_definitions() {
    let source = std::fs::read(checkpoint("mini-b").join("model-00003-of-00003.safetensors")).unwrap();
    let source = safetensors::SafeTensors::deserialize(&source).unwrap();
    let tables = std::fs::read(checkpoint("mini-b").join("model-00002-of-00003.safetensors")).unwrap();
    let tables = safetensors::SafeTensors::deserialize(&tables).unwrap();
    let floats = |file: &safetensors::SafeTensors<'_>, name: &str| -> Vec<f32> {
        let tensor = file.tensor(&format!("transformer.visual.{name}")).unwrap();
        tensor.data().as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()
    };
    let (query, weight, bias) =
        (floats(&source, "attn_pool.query"), floats(&source, "attn_pool.ln_q.weight"), floats(&source, "attn_pool.ln_q.bias"));
    let positions = floats(&tables, "attn_pool.pos_embed");
    let (out, _) = convert(&checkpoint("mini-b"), SchemeName::F32).unwrap();
    let web = open(&out);

    let hidden = web.manifest().config.decoder.width;
    for (row, got) in web.tensor("resampler.query").unwrap().chunks(hidden).enumerate() {
        let query = &query[row * hidden..][..hidden];
        let mean = query.iter().sum::<f32>() / hidden as f32;
        let variance = query.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / hidden as f32;
        for col in 0..hidden {
            let want = (query[col] - mean) / (variance + 1e-6).sqrt() * weight[col] + bias[col] + positions[row * hidden + col];
            assert!((got[col] - want).abs() < 1e-5, "row {row}, column {col}: {} for {want}", got[col]);
        }
    }

    // 16×16 to 32×32: output (1, 1) lies at 0.25, between source rows and columns 0 and 1; the taps at -1 are clamped to 0.
    let weights = cubic(0.25);
    for (name, source) in [("vision.position_embedding", floats(&tables, "positional_embedding")), ("resampler.key_position", positions)] {
        let width = source.len() / 256;
        let got = web.tensor(name).unwrap();
        for channel in 0..width {
            let at = |y: usize, x: usize| f64::from(source[(y * 16 + x) * width + channel]);
            let row = |y: usize| (weights[0] + weights[1]) * at(y, 0) + weights[2] * at(y, 1) + weights[3] * at(y, 2);
            let want = (weights[0] + weights[1]) * row(0) + weights[2] * row(1) + weights[3] * row(2);
            let got = f64::from(got[(32 + 1) * width + channel]);
            assert!((got - want).abs() < 1e-6, "{name}, channel {channel}: {got} for {want}");
        }
    }
}

/// Weights of the four taps around a position `t` past the second, a = -0.75, in the textbook's piecewise form.
fn cubic(t: f64) -> [f64; 4] {
    let a = -0.75;
    [1.0 + t, t, 1.0 - t, 2.0 - t].map(|x: f64| {
        if x <= 1.0 {
            (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
        } else {
            a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
        }
    })
}

/// Every scheme decodes to the result of `block` for the f32 values, through shards, parts and padding.
#[test]
fn every_scheme_holds_what_its_code_allows() {
    for model in MODELS {
        let (exact, _) = convert(&checkpoint(model), SchemeName::F32).unwrap();
        let exact = open(&exact);
        for scheme in SCHEMES {
            let (out, summary) = convert(&checkpoint(model), scheme).unwrap();
            let web = open(&out);
            assert_eq!(summary.tensors, web.manifest().tensors.len());
            assert_eq!(summary.unused_tensors, [""; 0]);
            for (tensor, spec) in web.manifest().tensors.iter().zip(tensor_table(&web.manifest().config)) {
                let want = match (spec.kind, tensor.name.as_str()) {
                    (TensorKind::Table, _) => Scheme::F32,
                    (_, "vision.patch_embedding.weight" | "vision.frame_change.weight")
                        if matches!(scheme, SchemeName::Q4 | SchemeName::Q8) =>
                    {
                        Scheme::F16
                    }
                    // The later generations keep more bits where they cost little.
                    (_, name) if scheme == SchemeName::Q4 && model.starts_with('q') && !name.starts_with("decoder.layers.") => {
                        Scheme::Q8 { group_size: 32 }
                    }
                    _ => scheme.with_group_size(32),
                };
                assert_eq!(tensor.scheme, want, "{model}: {}", tensor.name);
                let values = exact.tensor(&tensor.name).unwrap();
                let coded = decode_rows(want, &encode_rows(want, &values, tensor.shape[1]), tensor.shape[1]);
                assert_eq!(web.tensor(&tensor.name).unwrap(), coded, "{model} in {scheme:?}: {}", tensor.name);
            }
        }
    }
}

#[test]
fn shards_open_with_the_public_library() {
    for scheme in SCHEMES {
        let (out, _) = convert(&checkpoint("mini-b"), scheme).unwrap();
        let manifest = open(&out).manifest().clone();
        let shards: Vec<_> = manifest.shards.iter().map(|shard| std::fs::read(out.path().join("web").join(&shard.file)).unwrap()).collect();
        let opened: Vec<_> = shards.iter().map(|shard| safetensors::SafeTensors::deserialize(shard).unwrap()).collect();
        assert_eq!(
            opened.iter().map(|shard| shard.len()).sum::<usize>(),
            manifest.tensors.iter().flat_map(|tensor| &tensor.parts).map(|part| 1 + usize::from(part.scales.is_some())).sum::<usize>()
        );
        for tensor in &manifest.tensors {
            for (index, part) in tensor.parts.iter().enumerate() {
                let shard = &opened[part.shard];
                let data = shard.tensor(&format!("{}.data.{index}", tensor.name)).unwrap();
                let cols = padded(tensor.shape[1]);
                let (dtype, width) = match tensor.scheme {
                    Scheme::F32 => (safetensors::Dtype::F32, cols),
                    Scheme::F16 => (safetensors::Dtype::F16, cols),
                    Scheme::Q8 { .. } => (safetensors::Dtype::I8, cols),
                    Scheme::Q4 { .. } | Scheme::Int4 { .. } | Scheme::Q4Z { .. } => (safetensors::Dtype::U32, cols / 8),
                };
                assert_eq!((data.dtype(), data.shape()), (dtype, [part.rows, width].as_slice()), "{}", tensor.name);
                // The ranges of manifest and header are equal.
                assert_eq!(data.data(), &shards[part.shard][part.data[0] as usize..part.data[1] as usize], "{}", tensor.name);
                let mut scales = Vec::new();
                if let Some([begin, end]) = part.scales {
                    let view = shard.tensor(&format!("{}.scales.{index}", tensor.name)).unwrap();
                    assert_eq!(
                        (view.dtype(), view.shape()),
                        (safetensors::Dtype::F16, [part.rows, tensor.scheme.row_scales(tensor.shape[1])].as_slice())
                    );
                    assert_eq!(view.data(), &shards[part.shard][begin as usize..end as usize], "{}", tensor.name);
                    scales = view.data().to_vec();
                }
                let decoded = decode_rows(tensor.scheme, &EncodedRows { data: data.data().to_vec(), scales }, tensor.shape[1]);
                assert_eq!(decoded.len(), part.rows * tensor.shape[1]);
            }
        }
    }
}

#[test]
fn every_file_has_its_hash() {
    let (out, _) = convert(&checkpoint("mini-a"), SchemeName::Q4).unwrap();
    let folder = out.path().join("web");
    let manifest = Manifest::from_json(&std::fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let mut listed: Vec<String> = manifest.files.iter().chain(&manifest.shards).map(|entry| entry.file.clone()).collect();
    for entry in manifest.files.iter().chain(&manifest.shards) {
        let bytes = std::fs::read(folder.join(&entry.file)).unwrap();
        assert_eq!((bytes.len() as u64, ShardHash::of(&bytes)), (entry.bytes, entry.sha256.clone()), "{}", entry.file);
    }
    let mut found: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    listed.push("manifest.json".to_owned());
    listed.sort();
    found.sort();
    assert_eq!(found, listed);
    assert_eq!(std::fs::read(folder.join("qwen.tiktoken")).unwrap(), std::fs::read(checkpoint("mini-a").join("qwen.tiktoken")).unwrap());
}

#[test]
fn licence_files_are_passed_on() {
    let source = copy("mini-a");
    let agreement = "Tongyi Qianwen LICENSE AGREEMENT\nTongyi Qianwen Release Date: ...\n";
    std::fs::write(source.path().join("LICENSE"), agreement).unwrap();
    let (out, _) = convert(source.path(), SchemeName::Q4).unwrap();
    let read = |name: &str| std::fs::read_to_string(out.path().join("web").join(name)).unwrap();
    assert_eq!(read("LICENSE"), agreement);
    assert!(read("NOTICE").contains(
        "Tongyi Qianwen is licensed under the Tongyi Qianwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved."
    ));
    assert_eq!(read("MODIFICATIONS").trim_end(), open(&out).manifest().provenance.modifications);

    let (out, _) = convert(&checkpoint("mini-a"), SchemeName::Q4).unwrap();
    assert!(!out.path().join("web/LICENSE").exists());
    assert!(std::fs::read_to_string(out.path().join("web/NOTICE")).unwrap().contains("No licence file came with"));
}

#[test]
fn the_same_bytes_every_time() {
    let (once, _) = convert(&checkpoint("mini-b"), SchemeName::Q4).unwrap();
    let (again, _) = convert(&checkpoint("mini-b"), SchemeName::Q4).unwrap();
    for entry in std::fs::read_dir(once.path().join("web")).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |out: &tempfile::TempDir| std::fs::read(out.path().join("web").join(&name)).unwrap();
        assert_eq!(read(&once), read(&again), "{name:?}");
    }
}

#[test]
fn dequantized_holds_the_decoded_values() {
    for scheme in [SchemeName::Q4, SchemeName::F16] {
        let (out, _) = convert(&checkpoint("mini-b"), scheme).unwrap();
        let coded = open(&out);
        let decoded = out.path().join("decoded");
        quantize::dequantized(&out.path().join("web"), &decoded, &WriteOptions::default()).unwrap();
        let decoded = WebCheckpoint::open(&decoded).unwrap();
        for tensor in &decoded.manifest().tensors {
            assert_eq!(tensor.scheme, Scheme::F32);
            assert_eq!(decoded.tensor(&tensor.name).unwrap(), coded.tensor(&tensor.name).unwrap(), "{}", tensor.name);
        }
    }
}

#[test]
fn rules_name_modules() {
    let out = tempfile::tempdir().unwrap();
    let mut options = Options::new(checkpoint("mini-b"), out.path().join("web")).group_size(64).unwrap();
    options.rules = ["vision=q8", "lm_head=f16", "vision.blocks.1.mlp=f32"].map(|rule| Rule::parse(rule).unwrap()).to_vec();
    run(&options).unwrap();
    let web = open(&out);
    let scheme = |name: &str| web.manifest().tensor(name).unwrap().scheme;
    assert_eq!(scheme("vision.blocks.0.attn.qkv.weight"), Scheme::Q8 { group_size: 64 });
    assert_eq!(scheme("vision.blocks.1.mlp.fc1.weight"), Scheme::F32);
    assert_eq!(scheme("head.weight"), Scheme::F16);
    assert_eq!(scheme("decoder.embedding.weight"), Scheme::Q4 { group_size: 64 });
    assert_eq!(scheme("vision.blocks.0.attn.qkv.bias"), Scheme::F32);
    for wrong in ["vision", "vision=q5", "=q4"] {
        assert!(Rule::parse(wrong).is_err(), "{wrong}");
    }
    assert!(Options::new("a", "b").group_size(48).is_err());
    options.write.force = true;
    for missing in ["visoin=q8", "decoder.layers.99=q8", "vision.blocks.0.attn.qkv.bias=q8"] {
        options.rules = vec![Rule::parse(missing).unwrap()];
        let error = run(&options).unwrap_err().to_string();
        let module = missing.split('=').next().unwrap();
        assert!(error.contains(&format!("`{module}`")) && error.contains("vision, resampler, decoder, head"), "{error}");
    }
}

/// The same tensors in shards of any size.
#[test]
fn small_shards() {
    for model in MODELS {
        let (whole, _) = convert(&checkpoint(model), SchemeName::Q8).unwrap();
        let whole = open(&whole);
        let out = tempfile::tempdir().unwrap();
        let mut options = Options::new(checkpoint(model), out.path().join("web")).scheme(SchemeName::Q8);
        options.write.shard_bytes = Some(100_000);
        let summary = run(&options).unwrap();
        assert!(summary.shards >= 4, "{model}: {} shards", summary.shards);
        let web = open(&out);
        for tensor in &web.manifest().tensors {
            assert!(web.tensor(&tensor.name).unwrap() == whole.tensor(&tensor.name).unwrap(), "{model}: {}", tensor.name);
        }
    }
}

#[test]
fn generation_defaults_fill_what_is_missing() {
    let source = copy("mini-a");
    std::fs::remove_file(source.path().join("generation_config.json")).unwrap();
    let (out, _) = convert(source.path(), SchemeName::F16).unwrap();
    let found = open(&out).manifest().generation.clone();
    let (out, _) = convert(&checkpoint("mini-a"), SchemeName::F16).unwrap();
    assert_eq!(found, open(&out).manifest().generation);
}

/// A single file without an index, as small fine-tunes are saved.
#[test]
fn a_single_file_is_enough() {
    let (single, _) = convert(single().path(), SchemeName::Q4).unwrap();
    let (sharded, _) = convert(&checkpoint("mini-b"), SchemeName::Q4).unwrap();
    let shard = |out: &tempfile::TempDir| std::fs::read(out.path().join("web/shard-00000.safetensors")).unwrap();
    assert_eq!(shard(&single), shard(&sharded));
}

/// A random table resized by PyTorch's own `interpolate`.
#[test]
fn resized_tables_equal_pytorch() {
    let tables = safetensors::SafeTensors::deserialize(include_bytes!("../independent/resized_by_pytorch.safetensors")).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        tables.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let source = floats("interp_source_256x8");
    for side in [8, 24, 32] {
        let want = floats(&format!("interp_to_{}x8", side * side));
        let got = qwen_vl_format::resize_table(&source, 16, side, 8);
        let worst = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6, "16 to {side}: off by {worst:e}");
    }
}

/// Names and shapes of the published checkpoint, all 853, as lines `NAME [SHAPE]` in order.
#[test]
fn the_original_has_these_tensors() {
    let config = serde_json::json!({
        "architectures": ["QWenLMHeadModel"], "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128,
        "layer_norm_epsilon": 1e-6, "num_attention_heads": 32, "num_hidden_layers": 32, "rotary_emb_base": 10000,
        "seq_length": 2048, "use_dynamic_ntk": true, "use_logn_attn": true, "vocab_size": 151936,
        "visual": {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231,
                   "output_dim": 4096, "patch_size": 14, "width": 1664}
    });
    let config = qwen_vl_format::QwenVlConfig::from_hf_json(&config.to_string()).unwrap();
    let mut lines: Vec<String> =
        quantize::original_tensors(&config.model()).iter().map(|(name, shape)| format!("{name} {shape:?}\n").replace(", ", ",")).collect();
    lines.sort();
    assert_eq!(lines.len(), 853);
    assert_eq!(ShardHash::of(lines.concat().as_bytes()), "dc752665161b5fb5bc415d533ab228773d52a0defbe1417bb7b4cf7e189d2d70");
}
