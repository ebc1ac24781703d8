//! Manifests that must be read and manifests that must not.

use qwen_vl_format::config::{Activation, MergerConfig, WindowConfig};
use qwen_vl_format::manifest::{
    FORMAT_NAME, FORMAT_VERSION, FileEntry, GenerationConfig, Manifest, ManifestError, ProcessorConfig, Provenance, TensorEntry, TensorPart,
};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{AddedToken, Family, ModelConfig, QwenVlConfig, Scheme, TensorKind};
use serde_json::{Value, json};

/// A configuration with the keys of version 1.
fn published() -> Value {
    json!({
        "vocab_size": 320, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "kv_channels": 32,
        "intermediate_size": 128, "layer_norm_epsilon": 1e-6, "seq_length": 256, "rotary_emb_base": 10000.0,
        "use_dynamic_ntk": true, "use_logn_attn": true,
        "visual": {"image_size": 56, "patch_size": 14, "width": 32, "layers": 1, "heads": 2, "mlp_ratio": 2.4231,
                   "output_dim": 128, "image_start_id": 300, "n_queries": 16}
    })
}

fn config() -> ModelConfig {
    serde_json::from_value::<QwenVlConfig>(published()).unwrap().model()
}

/// The sizes of a Qwen3-VL.
fn merging() -> ModelConfig {
    serde_json::from_value(json!({
        "family": "qwen3_vl", "image_token": 300,
        "vision": {"patch_size": 16, "width": 64, "layers": 3, "heads": 4, "mlp_width": 168, "activation": "gelu_tanh", "norm_epsilon": 1e-6,
                   "patch_bias": true, "pre_norm": false, "position_side": 12, "rotary_base": 10000.0,
                   "merger": {"size": 2, "deepstack": [0, 2]}},
        "decoder": {"vocab_size": 320, "width": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 128, "mlp_width": 224,
                    "norm_epsilon": 1e-6, "qkv_bias": false, "qk_norm": true, "tied_head": true, "trained_context": 262144,
                    "rotary": {"base": 5e6, "sections": [24, 20, 20], "interleaved": true}}
    }))
    .unwrap()
}

/// The sizes of a Qwen2.5-VL.
fn windowed() -> ModelConfig {
    let mut config = merging();
    config.family = Family::Qwen25Vl;
    let vision = &mut config.vision;
    (vision.position_side, vision.activation, vision.rms_norms) = (None, Activation::GatedSilu, true);
    vision.merger = Some(MergerConfig { size: 2, deepstack: Vec::new() });
    vision.windows = Some(WindowConfig { size: 4, full_blocks: vec![0, 2] });
    config
}

fn entry(file: &str, bytes: u64) -> FileEntry {
    FileEntry { file: file.to_owned(), bytes, sha256: "0123456789abcdef".repeat(4), pieces: None }
}

/// A manifest of two shards, q4 where possible; the embedding has two parts, the second in the second shard.
fn valid() -> Manifest {
    of(config())
}

fn of(config: ModelConfig) -> Manifest {
    let mut shards = vec![entry("shard-00000.safetensors", 0), entry("shard-00001.safetensors", 0)];
    let mut ends = [96u64, 104];
    let mut shard = 0;
    let tensors = tensor_table(&config)
        .into_iter()
        .map(|spec| {
            let scheme = if spec.kind == TensorKind::Matrix { Scheme::Q4Z { group_size: 32 } } else { Scheme::F32 };
            let [rows, cols] = spec.shape;
            let rows_of_parts = if spec.name == "decoder.embedding.weight" { vec![64, rows - 64] } else { vec![rows] };
            let parts = rows_of_parts.into_iter().enumerate().map(|(index, rows)| {
                shard = shard.max(index);
                let mut range = |bytes: usize| {
                    let begin = ends[shard];
                    ends[shard] += (rows * bytes) as u64;
                    [begin, ends[shard]]
                };
                let data = range(scheme.row_data_bytes(cols));
                let scales = scheme.group_size().map(|_| range(scheme.row_scale_bytes(cols)));
                TensorPart { rows, shard, data, scales }
            });
            TensorEntry { name: spec.name, shape: spec.shape, scheme, parts: parts.collect() }
        })
        .collect();
    for (shard, end) in shards.iter_mut().zip(ends) {
        shard.bytes = end;
    }
    Manifest {
        format: FORMAT_NAME.to_owned(),
        version: FORMAT_VERSION,
        config,
        processor: ProcessorConfig {
            tokenizer_file: "qwen.tiktoken".into(),
            added_tokens: Vec::new(),
            image_mean: [0.5; 3],
            image_std: [0.25; 3],
            min_pixels: None,
            max_pixels: None,
        },
        generation: GenerationConfig {
            chat_format: "chatml".into(),
            eos_token_id: 86,
            extra_eos_token_ids: Vec::new(),
            max_new_tokens: 512,
            max_length: None,
            max_window_size: 6144,
            do_sample: true,
            temperature: None,
            top_k: 0,
            top_p: 0.3,
            repetition_penalty: None,
            presence_penalty: None,
            min_new_tokens: None,
            stop_strings: Vec::new(),
        },
        provenance: Provenance { converter: "test".into(), source: "test".into(), source_files: Vec::new(), modifications: "none".into() },
        files: vec![entry("qwen.tiktoken", 10)],
        shards,
        tensors,
    }
}

/// The error for a manifest that was changed as JSON.
fn refused(edit: impl FnOnce(&mut Value)) -> ManifestError {
    let mut value = serde_json::to_value(valid()).unwrap();
    edit(&mut value);
    Manifest::from_json(&value.to_string()).expect_err("this manifest must be refused")
}

#[track_caller]
fn assert_refused(edit: impl FnOnce(&mut Value), parts: &[&str]) {
    let error = refused(edit).to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn tensor<'a>(manifest: &'a mut Value, name: &str) -> &'a mut Value {
    manifest["tensors"].as_array_mut().unwrap().iter_mut().find(|tensor| tensor["name"] == name).unwrap()
}

const FIRST: &str = "vision.patch_embedding.weight";
const EMBEDDING: &str = "decoder.embedding.weight";

#[test]
fn a_valid_manifest_survives_the_round_trip() {
    let manifest = valid();
    assert_eq!(Manifest::from_json(&serde_json::to_string(&manifest).unwrap()).unwrap(), manifest);
    assert_eq!(manifest.shard_bytes(), manifest.shards[0].bytes + manifest.shards[1].bytes);
    assert_eq!(manifest.tensor(EMBEDDING).unwrap().parts.len(), 2);
    assert!(manifest.tensor("lm_head.weight").is_none());
}

#[test]
fn every_truncation_is_an_error() {
    let json = serde_json::to_string(&valid()).unwrap();
    for len in (0..json.len()).step_by(7) {
        assert!(matches!(Manifest::from_json(&json[..len]), Err(ManifestError::Parse(_))), "{len} of {} bytes", json.len());
    }
}

#[test]
fn other_formats_and_versions() {
    assert_refused(|manifest| manifest["format"] = "gguf".into(), &["`gguf`", "`qwen-vl-web`"]);
    // A later version need not have our keys.
    let error = Manifest::from_json(r#"{"format": "qwen-vl-web", "version": 4, "something": "new"}"#).unwrap_err();
    assert!(matches!(error, ManifestError::Version { found: 4 }), "{error}");
    assert_refused(|manifest| manifest["version"] = 0.into(), &["version 0", "versions 1 to 3"]);
    assert!(matches!(Manifest::from_json("{}"), Err(ManifestError::Format { .. })));
    for json in ["", "null", "3", "{\"format\": 3}"] {
        assert!(matches!(Manifest::from_json(json), Err(ManifestError::Parse(_))), "{json}");
    }
}

/// A manifest of version 1 as it was written.
fn version_1(edit: impl FnOnce(&mut Value)) -> Result<Manifest, ManifestError> {
    let mut value = serde_json::to_value(valid()).unwrap();
    (value["version"], value["config"]) = (1.into(), published());
    edit(&mut value["config"]);
    Manifest::from_json(&value.to_string())
}

#[test]
fn version_1_has_the_keys_of_the_2023_model() {
    assert_eq!(version_1(|_| ()).unwrap(), valid());
    for (key, value) in [
        ("vocab_size", json!(0)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(1_000_000)),
        ("intermediate_size", json!(129)),
        ("rotary_emb_base", json!(-1.0)),
    ] {
        let error = version_1(|config| config[key] = value.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
    for (key, value) in [
        ("image_size", json!(1u64 << 32)),
        ("patch_size", json!(0)),
        ("layers", json!(1_000_000)),
        ("n_queries", json!(15)),
        ("mlp_ratio", json!(1e300)),
        ("mlp_ratio", json!(1e-9)),
    ] {
        let error = version_1(|config| config["visual"][key] = value.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
    assert!(matches!(version_1(|config| config["hidden_size"] = json!(-128)), Err(ManifestError::Parse(_))));
    // No room for the picture tags at all.
    assert!(version_1(|config| config["vocab_size"] = 1.into()).unwrap_err().to_string().contains("visual.image_start_id"));
    // The keys of one version are not those of the other.
    assert!(matches!(version_1(|config| *config = serde_json::to_value(valid().config).unwrap()), Err(ManifestError::Parse(_))));
    assert!(matches!(refused(|manifest| manifest["config"] = published()), ManifestError::Parse(_)));
}

/// Version 2 differs in its number, and wrote the scheme `q4`.
#[test]
fn version_2_is_read() {
    let mut value = serde_json::to_value(valid()).unwrap();
    value["version"] = 2.into();
    assert_eq!(Manifest::from_json(&value.to_string()).unwrap(), valid());
    for tensor in value["tensors"].as_array_mut().unwrap() {
        if tensor["scheme"]["type"] == "q4z" {
            tensor["scheme"]["type"] = "q4".into();
        }
    }
    let read = Manifest::from_json(&value.to_string()).unwrap();
    assert!(read.tensors.iter().any(|tensor| tensor.scheme == Scheme::Q4 { group_size: 32 }));
}

#[test]
fn impossible_sizes() {
    for (pointer, value) in [
        ("decoder/vocab_size", json!(0)),
        ("decoder/width", json!(1u64 << 40)),
        ("decoder/layers", json!(1_000_000)),
        ("decoder/kv_heads", json!(3)),
        ("decoder/head_dim", json!(12)),
        ("decoder/head_dim", json!(264)),
        ("decoder/mlp_width", json!(0)),
        ("decoder/norm_epsilon", json!(0.0)),
        ("decoder/rotary/base", json!(-1.0)),
        ("decoder/rotary/sections", json!([24, 20, 21])),
        ("decoder/rotary/sections", json!([usize::MAX, usize::MAX, 20])),
        ("decoder/rotary/logn", json!(true)),
        ("vision/patch_size", json!(0)),
        ("vision/width", json!(80)),
        ("vision/layers", json!(1_000_000)),
        ("vision/heads", json!(3)),
        ("vision/mlp_width", json!(1u64 << 40)),
        ("vision/image_size", json!(448)),
        ("vision/position_side", json!(0)),
        ("vision/rotary_base", json!(1.0)),
        ("vision/merger/size", json!(0)),
        ("vision/merger/deepstack", json!([0, 3])),
        ("vision/merger/deepstack", json!([1, 1])),
        ("vision/merger/deepstack", json!([0, 1, 2])),
        ("vision/resampler", json!({"queries": 16, "heads": 1})),
        ("vision/windows", json!({"size": 4, "full_blocks": [0]})),
        ("image_token", json!(320)),
    ] {
        let mut config = serde_json::to_value(merging()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').map_or((String::new(), pointer), |(parent, key)| (format!("/{parent}"), key));
        config.pointer_mut(&parent).unwrap()[key] = value;
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let error = config.validate().expect_err(pointer).to_string();
        assert!(pointer.split('/').any(|part| error.contains(part)), "{pointer}: {error}");
    }
    merging().validate().unwrap();
    for (size, full_blocks) in [(0, vec![0]), (4, vec![3]), (4, vec![1, 0]), (4, vec![1, 1])] {
        let mut config = windowed();
        config.vision.windows = Some(WindowConfig { size, full_blocks });
        assert!(config.validate().unwrap_err().to_string().contains("vision.windows"), "{:?}", config.vision.windows);
    }
    windowed().validate().unwrap();
    let mut config = config();
    config.vision.position_side = None;
    assert!(config.validate().unwrap_err().to_string().contains("vision.position_side"));
    config.vision.resampler = None;
    assert!(config.validate().unwrap_err().to_string().contains("neither"));
}

/// A valid manifest of [`merging`].
fn valid_merging() -> Manifest {
    let mut manifest = of(merging());
    (manifest.processor.min_pixels, manifest.processor.max_pixels) = (Some(65_536), Some(1 << 24));
    let texts = "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> \
                 <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>";
    let tokens = (288..).zip(texts.split(' ')).map(|(id, text)| AddedToken { id, text: text.to_owned(), special: true });
    manifest.processor.added_tokens = tokens.collect();
    manifest
}

#[test]
fn added_tokens() {
    let refused = |edit: &dyn Fn(&mut Vec<AddedToken>), parts: &[&str]| {
        let mut manifest = valid_merging();
        edit(&mut manifest.processor.added_tokens);
        let error = manifest.validate().expect_err("a bad list").to_string();
        for part in parts.iter().chain(&["processor.added_tokens"]) {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    };
    refused(&|tokens| tokens.clear(), &["without `<|endoftext|>`"]);
    refused(&|tokens| _ = tokens.remove(12), &["without `<|image_pad|>`"]);
    refused(&|tokens| tokens[13].id = 320, &["`<|video_pad|>` with id 320", "below config.decoder.vocab_size = 320"]);
    refused(&|tokens| tokens[1].id = 288, &["`<|im_start|>` with id 288", "ascending"]);
    refused(&|tokens| tokens.swap(1, 2), &["`<|im_start|>` with id 289", "ascending"]);
    refused(&|tokens| tokens[13].text = "<|im_end|>".into(), &["`<|im_end|>` with id 301", "each once"]);
    refused(&|tokens| tokens[13].text = String::new(), &["`` with id 301", "not empty"]);
    refused(&|tokens| tokens[12].id = 301, &["ascending"]);
    refused(&|tokens| (tokens[12].id, tokens[13].id) = (301, 302), &["`<|image_pad|>` with id 301", "config.image_token = 300"]);
    // The 2023 model lists only tokens that come after its own.
    let mut manifest = valid();
    let first = manifest.config.image_token + 3;
    manifest.config.decoder.vocab_size = first as usize + 1;
    let token = |id| vec![AddedToken { id, text: "<loc_0>".to_owned(), special: false }];
    manifest.processor.added_tokens = token(first - 1);
    assert!(manifest.validate().unwrap_err().to_string().contains(&format!("ids from {first} on")));
    manifest.processor.added_tokens = token(first + 1);
    assert!(manifest.validate().unwrap_err().to_string().contains("below config.decoder.vocab_size"));
}

#[test]
fn a_model_that_merges_patches() {
    let mut manifest = valid_merging();
    assert_eq!(Manifest::from_json(&serde_json::to_string(&manifest).unwrap()).unwrap(), manifest);
    let shapes = [
        ("vision.patch_embedding.weight", [64, 768]),
        ("vision.patch_embedding.bias", [1, 64]),
        ("vision.position_embedding", [144, 64]),
        ("merger.norm.weight", [1, 64]),
        ("merger.fc1.weight", [256, 256]),
        ("deepstack.1.norm.bias", [1, 256]),
        ("deepstack.1.fc2.weight", [96, 256]),
        ("decoder.layers.0.attn.qkv.weight", [1024, 96]),
        ("decoder.layers.1.attn.k_norm.weight", [1, 128]),
        ("decoder.layers.1.attn.out.weight", [96, 512]),
    ];
    for (name, shape) in shapes {
        assert_eq!(manifest.tensor(name).unwrap().shape, shape, "{name}");
    }
    for name in ["head.weight", "decoder.layers.0.attn.qkv.bias", "vision.ln_pre.weight", "resampler.query", "deepstack.2.norm.bias"] {
        assert!(manifest.tensor(name).is_none(), "{name}");
    }
    for (min, max) in [(None, Some(1 << 24)), (Some(0), Some(1 << 24)), (Some(65_536), None), (Some(65_536), Some(65_535))] {
        (manifest.processor.min_pixels, manifest.processor.max_pixels) = (min, max);
        let error = manifest.validate().unwrap_err().to_string();
        assert!(error.contains("_pixels"), "{error}");
    }
}

#[test]
fn a_model_with_windows() {
    let config = windowed();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!((&json["family"], &json["vision"]["rms_norms"]), (&json!("qwen2_5_vl"), &json!(true)));
    assert_eq!(serde_json::from_value::<ModelConfig>(json).unwrap(), config);
    assert_eq!(serde_json::to_value(merging()).unwrap()["vision"].get("rms_norms"), None);
    let table = tensor_table(&config);
    let shape = |name: &str| table.iter().find(|spec| spec.name == name).map(|spec| spec.shape);
    for (name, expected) in [
        ("vision.blocks.0.ln_1.weight", Some([1, 64])),
        ("vision.blocks.0.ln_1.bias", None),
        ("vision.blocks.2.mlp.gate_up.weight", Some([336, 64])),
        ("vision.blocks.2.mlp.gate_up.bias", Some([1, 336])),
        ("vision.blocks.2.mlp.down.weight", Some([64, 168])),
        ("vision.blocks.2.mlp.fc1.weight", None),
        ("merger.norm.weight", Some([1, 64])),
        ("merger.norm.bias", None),
        ("merger.fc1.bias", Some([1, 256])),
    ] {
        assert_eq!(shape(name), expected, "{name}");
    }
}

#[test]
fn settings() {
    assert_refused(|manifest| manifest["processor"]["tokenizer_file"] = "other".into(), &["tokenizer_file", "`other`"]);
    assert_refused(|manifest| manifest["processor"]["image_std"][1] = 0.into(), &["image_std", "above 0"]);
    assert_refused(|manifest| manifest["generation"]["chat_format"] = "llama".into(), &["chat_format", "`llama`"]);
    assert_refused(|manifest| manifest["generation"]["eos_token_id"] = 320.into(), &["eos_token_id", "320"]);
    assert_refused(|manifest| manifest["generation"]["top_p"] = 0.into(), &["top_p"]);
    assert_refused(|manifest| manifest["generation"]["extra_eos_token_ids"] = json!([3, 320]), &["extra_eos_token_ids", "320"]);
    assert_refused(|manifest| manifest["generation"]["max_length"] = 0.into(), &["max_length", "above 0"]);
    for key in ["temperature", "repetition_penalty"] {
        for value in [0.0, -1.0, 1e39] {
            assert_refused(|manifest| manifest["generation"][key] = value.into(), &[key, "above 0"]);
        }
    }
}

/// Optional settings survive the round trip, and a manifest without them, as version 1 began, is written again without them.
#[test]
fn optional_settings_of_generation() {
    let optional = ["extra_eos_token_ids", "max_length", "temperature", "repetition_penalty"];
    let without = serde_json::to_value(valid()).unwrap();
    for key in optional {
        assert!(without["generation"].get(key).is_none(), "{key}");
    }
    let mut manifest = Manifest::from_json(&without.to_string()).unwrap();
    assert_eq!(manifest, valid());
    assert_eq!(manifest.generation.eos_token_ids().collect::<Vec<_>>(), [86]);

    manifest.generation.extra_eos_token_ids = vec![88, 5];
    manifest.generation.max_length = Some(2048);
    manifest.generation.temperature = Some(0.2);
    manifest.generation.repetition_penalty = Some(1.5);
    let json = serde_json::to_string(&manifest).unwrap();
    for key in optional {
        assert!(json.contains(key), "{key}");
    }
    assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
    assert_eq!(manifest.generation.eos_token_ids().collect::<Vec<_>>(), [86, 88, 5]);
}

#[test]
fn names_of_files() {
    for name in ["", "..", ".hidden", "../up", "a/b", "a\\b", "/etc/passwd", "C:x", "a b", "a%2fb", "é", "a\u{0}", &"x".repeat(256)] {
        assert_refused(|manifest| manifest["shards"][0]["file"] = name.into(), &["a name"]);
    }
    assert_refused(|manifest| manifest["shards"][1]["file"] = "qwen.tiktoken".into(), &["`qwen.tiktoken`", "twice"]);
    assert_refused(|manifest| manifest["shards"][1]["file"] = "manifest.json".into(), &["`manifest.json`", "twice"]);
}

#[test]
fn hashes_and_sizes_of_files() {
    for hash in ["", "0123", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
        assert_refused(|manifest| manifest["shards"][0]["sha256"] = (*hash).into(), &["shard-00000.safetensors", "64 lower-case"]);
        assert_refused(
            |manifest| manifest["shards"][0]["pieces"] = json!({ "bytes": 4 << 20, "sha256": [hash] }),
            &["shard-00000.safetensors", "64 lower-case"],
        );
    }
    let hash = "0".repeat(64);
    for (bytes, hashes, problem) in [
        (0, 1, "multiple of 4"),
        (6, 1, "multiple of 4"),
        (8 << 20, 1, "4 MiB"),
        (4 << 20, 0, "number of its pieces"),
        (4 << 20, 2, "number of its pieces"),
    ] {
        assert_refused(
            |manifest| manifest["shards"][0]["pieces"] = json!({ "bytes": bytes, "sha256": vec![&hash; hashes] }),
            &["shard-00000.safetensors", problem],
        );
    }
    assert_refused(|manifest| manifest["shards"][0]["bytes"] = u64::MAX.into(), &["shard-00000.safetensors", "2^53"]);
    // A loader holds the vocabulary and the notices whole.
    assert_refused(|manifest| manifest["files"][0]["bytes"] = ((64 << 20) + 1).into(), &["`qwen.tiktoken`", "64 MiB"]);
}

#[test]
fn the_list_of_tensors() {
    let tensors = |manifest: &mut Value| manifest["tensors"].as_array_mut().unwrap().len();
    assert_refused(
        |manifest| {
            let last = tensors(manifest) - 1;
            manifest["tensors"].as_array_mut().unwrap().remove(last);
        },
        &["the end of the list", "`head.weight`"],
    );
    assert_refused(|manifest| drop(manifest["tensors"].as_array_mut().unwrap().remove(1)), &["tensor 1", "`vision.position_embedding`"]);
    assert_refused(
        |manifest| {
            let extra = manifest["tensors"][0].clone();
            manifest["tensors"].as_array_mut().unwrap().push(extra);
        },
        &[FIRST, "the end of the list"],
    );
    assert_refused(|manifest| manifest["tensors"].as_array_mut().unwrap().swap(2, 3), &["tensor 2", "vision.ln_pre"]);
    assert_refused(|manifest| manifest["tensors"] = json!([]), &["tensor 0", "the end of the list", FIRST]);
    assert_refused(|manifest| tensor(manifest, EMBEDDING)["shape"] = json!([128, 320]), &[EMBEDDING, "[128, 320]", "[320, 128]"]);
}

#[test]
fn schemes() {
    for group_size in [0u32, 1, 16, 48, 256, u32::MAX] {
        for name in ["q4", "q8", "int4", "q4z"] {
            assert_refused(
                |manifest| tensor(manifest, FIRST)["scheme"] = json!({ "type": name, "group_size": group_size }),
                &[FIRST, "32, 64 or 128"],
            );
        }
    }
    assert_refused(|manifest| tensor(manifest, "vision.ln_pre.bias")["scheme"] = json!({ "type": "f16" }), &["vision.ln_pre.bias", "F32"]);
    assert!(matches!(refused(|manifest| tensor(manifest, FIRST)["scheme"] = json!({ "type": "q3" })), ManifestError::Parse(_)));
}

#[test]
fn rows_of_parts() {
    assert_refused(|manifest| tensor(manifest, EMBEDDING)["parts"] = json!([]), &[EMBEDDING, "0 rows", "320"]);
    assert_refused(|manifest| drop(tensor(manifest, EMBEDDING)["parts"].as_array_mut().unwrap().pop()), &[EMBEDDING, "64 rows", "320"]);
    assert_refused(
        |manifest| {
            tensor(manifest, EMBEDDING)["parts"][0]["rows"] = 65.into();
            tensor(manifest, EMBEDDING)["parts"][1]["rows"] = 255.into();
        },
        &[EMBEDDING, "part 0", "65", "a multiple of 32"],
    );
    // Sums that would wrap around to the right number.
    assert_refused(
        |manifest| {
            tensor(manifest, EMBEDDING)["parts"][0]["rows"] = (u64::MAX - 31).into();
            tensor(manifest, EMBEDDING)["parts"][1]["rows"] = 352.into();
        },
        &[EMBEDDING, "rows"],
    );
    assert_refused(
        |manifest| {
            let empty = json!({ "rows": 0, "shard": 0, "data": [0, 0], "scales": [0, 0] });
            tensor(manifest, EMBEDDING)["parts"].as_array_mut().unwrap().insert(0, empty);
        },
        &[EMBEDDING, "part 0", "number of rows"],
    );
}

#[test]
fn ranges() {
    let first = |manifest: &mut Value| tensor(manifest, FIRST)["parts"][0].take();
    let set = |part: Value| move |manifest: &mut Value| tensor(manifest, FIRST)["parts"][0] = part;
    let mut value = serde_json::to_value(valid()).unwrap();
    let part = first(&mut value);
    let [begin, end] = [&part["data"][0], &part["data"][1]].map(|at| at.as_u64().unwrap());
    let with = |key: &str, new: Value| {
        let mut part = part.clone();
        part[key] = new;
        part
    };
    assert_refused(set(with("data", json!([begin, end - 4]))), &[FIRST, "data", "bytes"]);
    assert_refused(set(with("data", json!([end, begin]))), &[FIRST, "data"]);
    assert_refused(set(with("data", json!([u64::MAX - (end - begin), u64::MAX]))), &[FIRST, "multiple of 4"]);
    assert_refused(set(with("data", json!([(1u64 << 63), (1u64 << 63) + end - begin]))), &[FIRST, "shard-00000.safetensors"]);
    assert_refused(set(with("data", json!([begin + 2, end + 2]))), &[FIRST, "multiple of 4"]);
    assert_refused(set(with("scales", part["data"].clone())), &[FIRST, "scales"]);
    assert_refused(set(with("scales", Value::Null)), &[FIRST, "`scales`", "absent"]);
    assert_refused(set(with("shard", 2.into())), &[FIRST, "shard", "below 2"]);
    assert_refused(set(with("shard", u64::MAX.into())), &[FIRST, "shard"]);
    // The scales over the data, and the next tensor over both.
    assert_refused(
        set(with("scales", json!([begin, begin + part["scales"][1].as_u64().unwrap() - part["scales"][0].as_u64().unwrap()]))),
        &[FIRST, "scales", "or later"],
    );
    let next = "vision.position_embedding";
    assert_refused(
        |manifest| {
            let range = tensor(manifest, next)["parts"][0]["data"].clone();
            let length = range[1].as_u64().unwrap() - range[0].as_u64().unwrap();
            tensor(manifest, next)["parts"][0]["data"] = json!([begin, begin + length]);
        },
        &[next, "or later"],
    );
    // Scales for a scheme without.
    assert_refused(|manifest| tensor(manifest, next)["parts"][0]["scales"] = json!([0, 0]), &[next, "`scales`", "present"]);
    // Back to an earlier shard.
    assert_refused(|manifest| tensor(manifest, "head.weight")["parts"][0]["shard"] = 0.into(), &["head.weight", "load order"]);
}

#[test]
fn a_part_too_large_for_a_binding() {
    // 262,144 rows of 512 bytes are 128 MiB.
    assert_refused(
        |manifest| {
            manifest["config"]["decoder"]["vocab_size"] = 262_144.into();
            let embedding = tensor(manifest, EMBEDDING);
            embedding["shape"] = json!([262_144, 128]);
            embedding["scheme"] = json!({ "type": "f32" });
            embedding["parts"] = json!([{ "rows": 262_144, "shard": 0, "data": [0, 1u64 << 27] }]);
            tensor(manifest, "head.weight")["shape"] = json!([262_144, 128]);
        },
        &[EMBEDDING, "134217728", "at most 67108864"],
    );
}

#[test]
fn a_shard_that_nothing_uses() {
    assert_refused(
        |manifest| manifest["shards"].as_array_mut().unwrap().push(serde_json::to_value(entry("shard-00002.safetensors", 100)).unwrap()),
        &["shard-00002.safetensors", "no tensor"],
    );
}

/// After random edits a manifest is refused or stays usable, and nothing panics.
#[test]
fn random_edits() {
    let mut random = fastrand::Rng::with_seed(1);
    let json = serde_json::to_string(&valid()).unwrap();
    let numbers = [
        "0",
        "1",
        "-1",
        "4",
        "31",
        "32",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "1e308",
        "null",
        "\"\"",
    ];
    let mut usable = 0;
    for _ in 0..3000 {
        let mut bytes = json.clone().into_bytes();
        for _ in 0..=random.usize(..2) {
            let digits: Vec<usize> =
                (1..bytes.len()).filter(|at| bytes[*at].is_ascii_digit() && !bytes[at - 1].is_ascii_alphanumeric()).collect();
            let begin = digits[random.usize(..digits.len())];
            let end = begin + bytes[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(begin..end, numbers[random.usize(..numbers.len())].bytes());
        }
        if let Ok(manifest) = Manifest::from_json(std::str::from_utf8(&bytes).unwrap()) {
            usable += 1;
            for part in manifest.tensors.iter().flat_map(|tensor| &tensor.parts) {
                assert!(part.data[1] <= manifest.shards[part.shard].bytes);
            }
        }
    }
    assert!(usable > 0 && usable < 3000, "{usable} of 3000 were usable");
}
