//! Every way in which a folder can be wrong gives an error that names what and where, and no output.

use crate::support::{convert, copy, edit_json, edit_safetensors, open, refusal, replace_bytes};
use quantize::{Options, SchemeName};
use std::fs;
use std::path::Path;

const SHARD: &str = "model-00002-of-00003.safetensors";

fn assert_names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn truncate(path: &Path, drop: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - drop).unwrap();
}

#[test]
fn truncated_shards() {
    let source = copy("mini-b");
    truncate(&source.path().join(SHARD), 100);
    assert_names(&refusal(source.path()), &[SHARD, "truncated", "transformer."]);

    let source = copy("mini-a");
    truncate(&source.path().join("pytorch_model-00002-of-00003.bin"), 100);
    assert_names(&refusal(source.path()), &["pytorch_model-00002-of-00003.bin", "directory"]);
    // An empty file and one that is only a header.
    for len in [0, 8, 100] {
        let source = copy("mini-b");
        fs::OpenOptions::new().write(true).open(source.path().join(SHARD)).unwrap().set_len(len).unwrap();
        assert_names(&refusal(source.path()), &[SHARD, "truncated"]);
    }
}

#[test]
fn missing_shard() {
    for (model, shard) in [("mini-b", SHARD), ("mini-a", "pytorch_model-00001-of-00003.bin")] {
        let source = copy(model);
        fs::remove_file(source.path().join(shard)).unwrap();
        assert_names(&refusal(source.path()), &["can not open", shard]);
    }
}

#[test]
fn missing_tensor() {
    let source = copy("mini-b");
    let name = "transformer.visual.conv1.weight";
    edit_safetensors(&source.path().join(SHARD), |header, _| {
        header.as_object_mut().unwrap().remove(name).unwrap();
    });
    edit_json(&source.path().join("model.safetensors.index.json"), |index| {
        index["weight_map"].as_object_mut().unwrap().remove(name).unwrap();
    });
    assert_names(&refusal(source.path()), &[name, "missing"]);
}

#[test]
fn wrong_shape() {
    let source = copy("mini-b");
    edit_safetensors(&source.path().join(SHARD), |header, _| {
        header["transformer.visual.proj"]["shape"] = serde_json::json!([128, 512]);
    });
    assert_names(&refusal(source.path()), &["transformer.visual.proj", SHARD, "[128, 512]", "[256, 256]"]);
    // A shape that disagrees with its bytes, and one whose product overflows.
    for shape in [serde_json::json!([256, 255]), serde_json::json!([u64::MAX, u64::MAX])] {
        let source = copy("mini-b");
        edit_safetensors(&source.path().join(SHARD), |header, _| header["transformer.visual.proj"]["shape"] = shape);
        assert_names(&refusal(source.path()), &["transformer.visual.proj", SHARD]);
    }
}

#[test]
fn integers_where_weights_belong() {
    let source = copy("mini-b");
    edit_safetensors(&source.path().join(SHARD), |header, _| header["transformer.visual.proj"]["dtype"] = "I16".into());
    assert_names(&refusal(source.path()), &["transformer.visual.proj", "I16", "F32, F16 or BF16"]);
}

#[test]
fn another_model() {
    let source = copy("mini-b");
    edit_json(&source.path().join("config.json"), |config| {
        config["architectures"] = serde_json::json!(["Qwen2VLForConditionalGeneration"]);
        config["model_type"] = "qwen2_vl".into();
    });
    assert_names(&refusal(source.path()), &["Qwen2VLForConditionalGeneration", "QWenLMHeadModel"]);

    let source = copy("mini-b");
    edit_json(&source.path().join("config.json"), |config| {
        config.as_object_mut().unwrap().remove("visual");
    });
    assert_names(&refusal(source.path()), &["without `visual`"]);

    let source = copy("mini-b");
    edit_json(&source.path().join("config.json"), |config| config["kv_channels"] = 64.into());
    assert_names(&refusal(source.path()), &["kv_channels", "64"]);

    let source = copy("mini-b");
    fs::write(source.path().join("config.json"), "{").unwrap();
    assert_names(&refusal(source.path()), &["config.json"]);
}

#[test]
fn tokenizer() {
    let source = copy("mini-b");
    fs::remove_file(source.path().join("qwen.tiktoken")).unwrap();
    assert_names(&refusal(source.path()), &["qwen.tiktoken"]);

    let source = copy("mini-b");
    fs::write(source.path().join("qwen.tiktoken"), "IQ== 0\nIg== 1\n").unwrap();
    assert_names(&refusal(source.path()), &["qwen.tiktoken", "2 ranks", "982"]);

    let source = copy("mini-b");
    fs::write(source.path().join("qwen.tiktoken"), "IQ== 0\nIg== 2\n").unwrap();
    assert_names(&refusal(source.path()), &["line 2", "rank `2`", "expected 1"]);
}

#[test]
fn index_that_disagrees() {
    let index = "model.safetensors.index.json";
    // A tensor in another file than listed.
    let source = copy("mini-b");
    edit_json(&source.path().join(index), |index| index["weight_map"]["lm_head.weight"] = "model-00001-of-00003.safetensors".into());
    assert_names(&refusal(source.path()), &["lm_head.weight", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"]);
    // One that is listed but nowhere.
    let source = copy("mini-b");
    edit_json(&source.path().join(index), |index| index["weight_map"]["transformer.extra"] = SHARD.into());
    assert_names(&refusal(source.path()), &["transformer.extra", SHARD]);
    // One that is there but not listed.
    let source = copy("mini-b");
    edit_json(&source.path().join(index), |index| {
        index["weight_map"].as_object_mut().unwrap().remove("lm_head.weight").unwrap();
    });
    assert_names(&refusal(source.path()), &["lm_head.weight", "no file"]);
    // A name that leads out of the folder.
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "config.json"] {
        let source = copy("mini-b");
        edit_json(&source.path().join(index), |index| index["weight_map"]["lm_head.weight"] = name.into());
        assert_names(&refusal(source.path()), &["lm_head.weight", name, index]);
    }
}

#[test]
fn malicious_pickle() {
    let source = copy("mini-a");
    let shard = "pytorch_model-00003-of-00003.bin";
    // Python would import `posix.system________` and call it with the tensor's arguments.
    replace_bytes(&source.path().join(shard), b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem___________________\n");
    assert_names(&refusal(source.path()), &[shard, "posix.system", "refused"]);

    // A view beyond its storage: 128 columns become 255 (each tensor has its own entry in the archive).
    let source = copy("mini-a");
    replace_bytes(&source.path().join(shard), b"K\x00K\x80K\x80\x86", b"K\x00K\xffK\x80\x86");
    assert_names(&refusal(source.path()), &[shard, "does not fit its storage"]);
}

#[test]
fn big_endian_archives() {
    // A stored entry can be renamed in place; `version` and a made-up name of its length stand for `byteorder` here.
    let source = copy("mini-a");
    let shard = source.path().join("pytorch_model-00003-of-00003.bin");
    let bytes = fs::read(&shard).unwrap();
    assert!(!bytes.windows(9).any(|window| window == b"byteorder"), "the fixture has no byteorder entry: write one");
    fs::write(&shard, zip_with_byteorder(b"big")).unwrap();
    assert_names(&refusal(source.path()), &["byte order", "big"]);
}

/// An archive of one pickle (an empty dictionary) and a byte order.
fn zip_with_byteorder(order: &[u8]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    let entries: [(&str, &[u8]); 2] = [("m/data.pkl", b"\x80\x02}."), ("m/byteorder", order)];
    for (name, data) in entries {
        let at = archive.len() as u32;
        let sizes = [(data.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        archive.extend([b"PK\x03\x04".as_slice(), &[0; 14], &sizes, &name_len, &[0; 2], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02".as_slice(), &[0; 16], &sizes, &name_len, &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let (at, len) = ((archive.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    [archive, directory, [b"PK\x05\x06".as_slice(), &[0; 4], &[2, 0, 2, 0], &len, &at, &[0; 2]].concat()].concat()
}

#[test]
fn values_that_are_not_finite() {
    let source = copy("mini-b");
    let name = "transformer.visual.transformer.resblocks.1.mlp.c_fc.weight";
    edit_safetensors(&source.path().join(SHARD), |header, data| {
        let begin = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        for (element, value) in [(0, half::f16::NAN), (5, half::f16::NAN), (61_000, half::f16::NEG_INFINITY)] {
            data[begin + 2 * element..][..2].copy_from_slice(&value.to_le_bytes());
        }
    });
    assert_names(&refusal(source.path()), &["vision.blocks.1.mlp.fc1.weight", "2 NaN", "1 infinite", "--allow-nonfinite"]);

    let out = tempfile::tempdir().unwrap();
    let mut options = Options::new(source.path(), out.path().join("web")).scheme(SchemeName::F32);
    options.write.allow_nonfinite = true;
    quantize::convert(&options, &mut |_| ()).unwrap();
    let weights = open(&out).tensor("vision.blocks.1.mlp.fc1.weight").unwrap();
    assert_eq!([weights[0], weights[5], weights[61_000]], [0.0; 3]);
    assert!(weights.iter().all(|weight| weight.is_finite()));
}

#[test]
fn values_beyond_f16() {
    let source = copy("mini-a");
    // The largest bf16 of the first weights of the head.
    let path = source.path().join("pytorch_model-00003-of-00003.bin");
    let bytes = fs::read(&path).unwrap();
    let archive_name = b"data/0";
    let local = bytes.windows(archive_name.len()).position(|window| window == archive_name).unwrap();
    let data_at = local + 64; // inside the first storage, past its aligned beginning
    let data_at = data_at + data_at % 2;
    let mut changed = bytes;
    changed[data_at..data_at + 2].copy_from_slice(&half::bf16::from_f32(1e30).to_le_bytes());
    fs::write(&path, changed).unwrap();
    let Err(error) = convert(source.path(), SchemeName::F16) else { panic!("1e30 was stored as f16") };
    assert_names(&format!("{error:#}"), &["beyond f16", "store it as f32"]);
}

#[test]
fn adapters_that_are_not_merged() {
    let source = copy("mini-b");
    edit_safetensors(&source.path().join(SHARD), |header, _| {
        let entry = header.as_object_mut().unwrap().remove("transformer.visual.proj").unwrap();
        header["transformer.h.0.attn.c_attn.lora_A.weight"] = entry;
    });
    edit_json(&source.path().join("model.safetensors.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("transformer.visual.proj").unwrap();
        map.insert("transformer.h.0.attn.c_attn.lora_A.weight".into(), SHARD.into());
    });
    assert_names(&refusal(source.path()), &["lora_A", "not merged"]);
}

#[test]
fn generation_settings() {
    for (key, value) in
        [("chat_format", serde_json::json!("llama")), ("top_p", serde_json::json!(1.5)), ("eos_token_id", serde_json::json!(5000))]
    {
        let source = copy("mini-b");
        edit_json(&source.path().join("generation_config.json"), |config| config[key] = value);
        assert_names(&refusal(source.path()), &["generation_config.json", key]);
    }
}

#[test]
fn no_folder_and_no_weights() {
    assert_names(&refusal(Path::new("nowhere/at/all")), &["nowhere/at/all", "not a folder"]);
    let source = copy("mini-a");
    for name in [
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00003.bin",
        "pytorch_model-00002-of-00003.bin",
        "pytorch_model-00003-of-00003.bin",
    ] {
        fs::remove_file(source.path().join(name)).unwrap();
    }
    assert_names(&refusal(source.path()), &["no weights"]);
}
