//! Every wrong folder gives an error that names the problem and its place, and no output.

use crate::support::{
    assert_names, convert, copy, edit_json, edit_safetensors, open, refusal, refusal_of, replace_bytes, run, run_alone, zip,
};
use quantize::{Options, SchemeName};
use std::fs;
use std::path::Path;

const SHARD: &str = "model-00002-of-00003.safetensors";

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
    // An empty file, and files that end inside the header.
    for (len, problem) in [(0, "is empty"), (8, "truncated"), (100, "truncated")] {
        let source = copy("mini-b");
        fs::OpenOptions::new().write(true).open(source.path().join(SHARD)).unwrap().set_len(len).unwrap();
        assert_names(&refusal(source.path()), &[SHARD, problem]);
    }
}

#[test]
fn missing_shard() {
    for (model, index, shard) in
        [("mini-b", "model.safetensors.index.json", SHARD), ("mini-a", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00003.bin")]
    {
        let source = copy(model);
        fs::remove_file(source.path().join(shard)).unwrap();
        assert_names(&refusal(source.path()), &[index, "lists 3 files", shard]);
        fs::remove_file(source.path().join(index)).unwrap();
        assert_names(&refusal(source.path()), &["2 of the 3 weight files", "missing is number"]);
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
        config["architectures"] = serde_json::json!(["LlavaForConditionalGeneration"]);
        config["model_type"] = "llava".into();
    });
    assert_names(&refusal(source.path()), &["LlavaForConditionalGeneration", "QWenLMHeadModel", "Qwen2VLForConditionalGeneration"]);

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
    assert_names(&refusal(source.path()), &["qwen.tiktoken", "2 tokens"]);

    // One token less than the configuration says.
    let source = copy("mini-b");
    let path = source.path().join("qwen.tiktoken");
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&path, lines[..lines.len() - 1].join("\n")).unwrap();
    assert_names(&refusal(source.path()), &["qwen.tiktoken", "767 tokens", "981", "image_start_id", "982"]);
}

#[test]
fn an_index_cannot_lead_out_of_the_folder() {
    let index = "model.safetensors.index.json";
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
    // No fixture has the entry `byteorder`, so the archive is written here.
    let source = copy("mini-a");
    let shard = source.path().join("pytorch_model-00003-of-00003.bin");
    let bytes = fs::read(&shard).unwrap();
    assert!(!bytes.windows(9).any(|window| window == b"byteorder"), "the fixture has no byteorder entry: write one");
    fs::write(&shard, zip(&[("m/data.pkl", b"\x80\x02}."), ("m/byteorder", b"big")])).unwrap();
    assert_names(&refusal(source.path()), &["byte order", "big"]);
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
    assert_names(&refusal(source.path()), &[name, "2 NaN", "1 infinite", "row 0", "vision.blocks.1.mlp.fc1.weight", "--allow-nonfinite"]);

    let out = tempfile::tempdir().unwrap();
    let mut options = Options::new(source.path(), out.path().join("web")).scheme(SchemeName::F32);
    options.write.allow_nonfinite = true;
    run(&options).unwrap();
    let weights = open(&out).tensor("vision.blocks.1.mlp.fc1.weight").unwrap();
    assert_eq!([weights[0], weights[5], weights[61_000]], [0.0; 3]);
    assert!(weights.iter().all(|weight| weight.is_finite()));
}

#[test]
fn values_beyond_f16() {
    let source = copy("mini-a");
    // A huge value among the first weights of the file.
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
    assert_names(
        &format!("{error:#}"),
        &["beyond f16", "`transformer.visual.attn_pool.attn.out_proj.weight`", "row 0", "store `resampler.attn.out.weight` as f32"],
    );
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
    use serde_json::json;
    for (key, value, expected) in [
        ("chat_format", json!("llama"), "`chatml` or `raw`"),
        ("top_p", json!(1.5), "a number above 0, at most 1"),
        ("top_p", json!("0.8"), "a number above 0, at most 1"),
        ("do_sample", json!("true"), "true or false"),
        ("eos_token_id", json!(5000), "a token below 1024"),
        ("eos_token_id", json!([768, "x"]), "a list of such tokens"),
        ("eos_token_id", json!([]), "a list of such tokens"),
        ("top_k", json!(1.5), "an integer from 0 on"),
        ("max_new_tokens", json!(0), "a positive integer"),
        ("max_length", json!(-1), "a positive integer"),
        ("temperature", json!(0), "a number above 0"),
        ("repetition_penalty", json!([1]), "a number above 0"),
    ] {
        let source = copy("mini-b");
        edit_json(&source.path().join("generation_config.json"), |config| config[key] = value.clone());
        assert_names(&refusal(source.path()), &["generation_config.json", &format!("`{key}` is {value}, expected"), expected]);
    }
}

#[test]
fn no_folder_and_no_weights() {
    assert_names(&refusal_of(Path::new("nowhere/at/all"), run_alone), &["nowhere/at/all", "not a folder"]);
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
