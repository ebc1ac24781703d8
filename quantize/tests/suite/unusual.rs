//! Checkpoints as people have them: left-over metadata, other names, more files than the model's. They are converted if that is safe, with
//! a note; otherwise the refusal names the problem.

use crate::support::{
    Tensor, assert_names, checkpoint, convert, converted, copy, edit_json, open, pickled_dict, pickled_tensors, refusal, run, single,
    tensors, torch_archive, without_weights, write_tensors,
};
use quantize::{Input, Options, SchemeName};
use qwen_vl_format::AddedToken;
use serde_json::json;
use std::fs;
use std::path::Path;

fn expected() -> Vec<u8> {
    converted(&checkpoint("mini-b"), 0).1
}

fn edit_config(folder: &tempfile::TempDir, edit: impl FnOnce(&mut serde_json::Value)) {
    edit_json(&folder.path().join("config.json"), edit);
}

#[test]
fn settings_of_a_quantization_do_not_make_weights_quantized() {
    let bitsandbytes = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" });
    let fp8 = json!({ "quant_method": "fp8", "weight_block_size": [128, 128] });
    for (settings, method) in [(bitsandbytes.clone(), "bitsandbytes"), (fp8, "fp8")] {
        let source = copy("mini-b");
        edit_config(&source, |config| config["quantization_config"] = settings);
        let (notes, shard) = converted(source.path(), 1);
        assert_names(&notes[0], &[method, "config.json", "ignored", "not quantized"]);
        assert_eq!(shard, expected());
    }
    let source = copy("mini-b");
    fs::write(source.path().join("quantize_config.json"), r#"{"bits": 8, "group_size": 128}"#).unwrap();
    assert_names(&converted(source.path(), 1).0[0], &["quantize_config.json", "ignored"]);

    // Weights that are quantized, by a method that is not read.
    let (source, mut tensors) = without_weights();
    edit_config(&source, |config| config["quantization_config"] = bitsandbytes);
    let weight = tensors.iter_mut().find(|tensor| tensor.name == "transformer.h.0.mlp.w1.weight").unwrap();
    (weight.dtype, weight.data) = (safetensors::Dtype::I8, vec![1; weight.data.len() / 2]);
    write_tensors(&source.path().join("model.safetensors"), &tensors);
    assert_names(&refusal(source.path()), &["quantized by `bitsandbytes`", "dequantize", "transformer.h.0.mlp.w1.weight", "I8"]);
}

#[test]
fn a_lora_folder_is_recognised_in_every_form() {
    let config = |base: &str| format!(r#"{{"base_model_name_or_path": "{base}", "peft_type": "LORA"}}"#);
    for (names, keep_config) in [
        (&["adapter_config.json", "adapter_model.bin"][..], false),
        (&["adapter_config.json", "adapter_model.bin"], true),
        (&["adapter_config.json", "adapter_model.safetensors"], false),
        (&["adapter_model.safetensors"], true),
        (&["adapter_config.json", "adapter_model.bin", "training_args.bin", "optimizer.pt", "non_lora_trainables.bin"], false),
    ] {
        let (source, _) = without_weights();
        for name in names {
            fs::write(source.path().join(name), config("Qwen/Qwen-VL-Chat")).unwrap();
        }
        if !keep_config {
            fs::remove_file(source.path().join("config.json")).unwrap();
        }
        let error = refusal(source.path());
        assert_names(&error, &["a LoRA adapter", "merge"]);
        assert_eq!(error.contains("of `Qwen/Qwen-VL-Chat`"), names.contains(&"adapter_config.json"), "{error}");
    }
    // In a subfolder.
    let (source, _) = without_weights();
    let inner = source.path().join("checkpoint-100");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("adapter_config.json"), config("Qwen/Qwen-VL-Chat")).unwrap();
    assert_names(&refusal(source.path()), &["no weights", &inner.display().to_string(), "a LoRA adapter of `Qwen/Qwen-VL-Chat`"]);
    fs::rename(inner.join("adapter_config.json"), inner.join("model.safetensors")).unwrap();
    assert_names(&refusal(source.path()), &["no weights", &inner.display().to_string(), "convert that folder"]);
    // peft does not merge into quantized weights: the way there is another.
    let (source, _) = without_weights();
    fs::write(source.path().join("adapter_config.json"), config("Qwen/Qwen-VL-Chat-Int4")).unwrap();
    let error = refusal(source.path());
    assert_names(&error, &["of `Qwen/Qwen-VL-Chat-Int4`", "unquantized base"]);
    assert!(!error.contains("merge_and_unload"), "{error}");
}

#[test]
fn parts_of_an_adapter_among_the_weights_are_refused() {
    for (from, to) in [
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.base_layer.weight"),
        ("transformer.visual.proj", "transformer.visual.modules_to_save.default.proj"),
        ("transformer.visual.proj", "base_model.model.transformer.visual.proj.lora_A.weight"),
    ] {
        let (source, mut tensors) = without_weights();
        tensors.iter_mut().filter(|tensor| tensor.name == from).for_each(|tensor| tensor.name = to.to_owned());
        write_tensors(&source.path().join("model.safetensors"), &tensors);
        assert_names(&refusal(source.path()), &[to, "LoRA adapter that is not merged", "merge it"]);
    }
}

#[test]
fn an_adapter_next_to_a_whole_model_is_left_out() {
    for name in ["adapter_model.safetensors", "adapter_model.bin", "non_lora_state_dict.bin"] {
        let source = single();
        fs::write(source.path().join("adapter_config.json"), "{}").unwrap();
        fs::write(source.path().join(name), "weights").unwrap();
        let (notes, shard) = converted(source.path(), 1);
        assert_names(&notes[0], &["LoRA adapter", name, "not applied", "merge"]);
        assert_eq!(shard, expected());
    }
}

#[test]
fn files_that_are_something_else_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:9d3e\nsize 1964070447\n";
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let html = "<!DOCTYPE html>\n<html><body>Please log in</body></html>\n";
    for (name, bytes, parts) in [
        ("model.safetensors", pointer.as_bytes(), &["Git LFS pointer to a file of 1964070447 bytes", "git lfs pull"][..]),
        ("pytorch_model.bin", pointer.as_bytes(), &["Git LFS pointer", "git lfs pull"]),
        ("model.safetensors", html.as_bytes(), &["a web page", "download"]),
        ("pytorch_model.bin", html.as_bytes(), &["a web page"]),
        ("model.safetensors", b"", &["is empty"]),
        ("pytorch_model.bin", b"", &["is empty"]),
        ("pytorch_model.bin", legacy, &["torch before 1.6", "save it again"]),
    ] {
        let (source, _) = without_weights();
        fs::write(source.path().join(name), bytes).unwrap();
        let error = refusal(source.path());
        assert_names(&error, parts);
        assert_names(&error, &[name]);
    }
    for (name, bytes) in [("qwen.tiktoken", pointer), ("config.json", pointer), ("generation_config.json", html)] {
        let source = copy("mini-b");
        fs::write(source.path().join(name), bytes).unwrap();
        assert_names(&refusal(source.path()), &[name, if bytes == pointer { "Git LFS pointer" } else { "a web page" }]);
    }
}

#[test]
fn hidden_files_are_no_weights() {
    let source = single();
    let apple_double = [b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ".as_slice(), &[0; 4072]].concat();
    for name in ["._model.safetensors", "._config.json", ".model.safetensors.swp"] {
        fs::write(source.path().join(name), &apple_double).unwrap();
    }
    assert_eq!(converted(source.path(), 0).1, expected());
}

#[test]
fn an_index_does_not_count_more_than_the_files() {
    let name = "model.safetensors.index.json";
    // Of shards that are gone, next to one whole file.
    let source = single();
    fs::copy(checkpoint("mini-b").join(name), source.path().join(name)).unwrap();
    assert_eq!(converted(source.path(), 0).1, expected());
    // Of another number of shards.
    let source = copy("mini-b");
    edit_json(&source.path().join(name), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.values_mut().for_each(|file| *file = file.as_str().unwrap().replace("of-00003", "of-00004").into());
    });
    let (notes, shard) = converted(source.path(), 1);
    assert_names(&notes[0], &[name, "other files", "ignored"]);
    assert_eq!(shard, expected());
    // A shard is missing, too.
    fs::remove_file(source.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert_names(&refusal(source.path()), &[name, "lists 3 files", "model-00001-of-00004.safetensors"]);
    // Tensors in other files than listed, not listed, or listed and nowhere.
    let source = copy("mini-b");
    edit_json(&source.path().join(name), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.insert("lm_head.weight".into(), "model-00001-of-00003.safetensors".into());
        map.remove("transformer.visual.proj").unwrap();
        map.insert("transformer.rotary_emb.inv_freq".into(), "model-00001-of-00003.safetensors".into());
    });
    assert_eq!(converted(source.path(), 0).1, expected());
}

#[test]
fn several_sets_of_weights() {
    // A whole file and shards of it, without an index.
    let source = single();
    for number in 1..=3 {
        let name = format!("model-0000{number}-of-00003.safetensors");
        fs::copy(checkpoint("mini-b").join(&name), source.path().join(&name)).unwrap();
    }
    fs::write(source.path().join("model (1).safetensors"), "a copy").unwrap();
    let (notes, shard) = converted(source.path(), 1);
    assert_names(&notes[0], &["read from model.safetensors", "left aside: model (1).safetensors", "and 1 more"]);
    assert_eq!(shard, expected());
    // A small stray file before the whole one.
    let (source, tensors) = without_weights();
    let (stray, _): (Vec<Tensor>, Vec<Tensor>) = tensors.iter().cloned().partition(|tensor| tensor.name == "transformer.ln_f.weight");
    write_tensors(&source.path().join("model.safetensors"), &stray);
    fs::write(source.path().join("pytorch_model.bin"), torch_archive(&pickled_tensors(&tensors), &tensors)).unwrap();
    let error = refusal(source.path());
    assert_names(&error, &["is missing", "more", "read: model.safetensors", "left aside: pytorch_model.bin"]);
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    assert_eq!(converted(source.path(), 0).1, expected());
}

#[test]
fn json_of_python_and_windows() {
    let edit = |name: &str, change: &dyn Fn(String) -> Vec<u8>| {
        let source = copy("mini-b");
        let path = source.path().join(name);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
        source
    };
    let infinity = edit("config.json", &|text| text.replacen('{', r#"{"time_step_limit": [0.0, Infinity],"#, 1).into_bytes());
    let mark = edit("config.json", &|text| format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes());
    let index = edit("model.safetensors.index.json", &|text| format!("\u{feff}{text}").into_bytes());
    for source in [infinity, mark, index] {
        assert_eq!(converted(source.path(), 0).1, expected());
    }
    let not_a_number = edit("generation_config.json", &|text| text.replacen('{', r#"{"repetition_penalty": NaN,"#, 1).into_bytes());
    assert_names(&converted(not_a_number.path(), 1).0[0], &["generation_config.json", "`repetition_penalty` is NaN", "ignored"]);
    let utf16 = edit("config.json", &|text| format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect());
    assert_names(&refusal(utf16.path()), &["config.json", "UTF-16", "UTF-8"]);
    // A number that is needed.
    let needed = edit("config.json", &|text| text.replace("\"seq_length\": 256", "\"seq_length\": NaN").into_bytes());
    assert_names(&refusal(needed.path()), &["config.json", "`seq_length` is NaN"]);
    // Each cause once.
    let wrong = edit("config.json", &|text| text.replace("\"seq_length\": 256", "\"seq_length\": \"x\"").into_bytes());
    let error = refusal(wrong.path());
    assert_eq!(error.matches("invalid type").count(), 1, "{error}");
    let broken = edit("config.json", &|text| text.replace("\"seq_length\": 256", "\"seq_length\":").into_bytes());
    assert_eq!(refusal(broken.path()).matches("line").count(), 1, "{}", refusal(broken.path()));
    // `architectures` is null, and the model type says the same.
    let source = copy("mini-b");
    edit_config(&source, |config| config["architectures"] = serde_json::Value::Null);
    assert_eq!(converted(source.path(), 0).1, expected());
}

#[test]
fn partitioned_weights_are_named() {
    let (source, mut tensors) = without_weights();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name.starts_with("transformer.h.")) {
        (tensor.shape, tensor.data) = (vec![0], Vec::new());
    }
    write_tensors(&source.path().join("model.safetensors"), &tensors);
    assert_names(&refusal(source.path()), &["transformer.h.0.", "is empty", "DeepSpeed", "zero_to_fp32.py"]);
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    let states = source.path().join("global_step100");
    fs::create_dir(&states).unwrap();
    // Hosts of the package list files, and so no empty folders.
    fs::write(states.join("mp_rank_00_model_states.pt"), "a state").unwrap();
    assert_names(&refusal(source.path()), &["no weights", "DeepSpeed", "zero_to_fp32.py"]);
}

#[test]
fn prefixes_of_wrappers_are_taken_off() {
    for prefix in ["_orig_mod.", "module.", "model.", "base_model.model."] {
        let (source, mut tensors) = without_weights();
        tensors.iter_mut().for_each(|tensor| tensor.name = format!("{prefix}{}", tensor.name));
        write_tensors(&source.path().join("model.safetensors"), &tensors);
        let (notes, shard) = converted(source.path(), 1);
        assert_names(&notes[0], &[&format!("`{prefix}`")]);
        assert_eq!(shard, expected());
    }
    // Others are named.
    let (source, mut tensors) = without_weights();
    tensors.iter_mut().for_each(|tensor| tensor.name = format!("ema.{}", tensor.name));
    write_tensors(&source.path().join("model.safetensors"), &tensors);
    assert_names(&refusal(source.path()), &["is missing", "all names begin with `ema.`"]);
    let (source, mut tensors) = without_weights();
    tensors.iter_mut().filter(|tensor| tensor.name == "lm_head.weight").for_each(|tensor| tensor.name = "lm_haed.weight".into());
    write_tensors(&source.path().join("model.safetensors"), &tensors);
    assert_names(&refusal(source.path()), &["`lm_head.weight` is missing", "the nearest name is `lm_haed.weight`"]);
}

#[test]
fn state_dicts_inside_other_dictionaries() {
    let (source, tensors) = without_weights();
    let path = source.path().join("pytorch_model.bin");
    let weights = pickled_tensors(&tensors);
    let half = [b"G".as_slice(), &0.5f64.to_be_bytes()].concat();
    let list = [b"](", half.as_slice(), b"K\x02e"].concat();

    fs::write(&path, torch_archive(&pickled_dict(&[("state_dict", weights.clone())]), &tensors)).unwrap();
    let (notes, shard) = converted(source.path(), 1);
    assert_names(&notes[0], &["pytorch_model.bin", "`state_dict`"]);
    assert_eq!(shard, expected());

    let entries = [("epoch", b"K\x03".to_vec()), ("loss", half), ("module", weights), ("lr_scheduler", list), ("optimizer", b"N".to_vec())];
    fs::write(&path, torch_archive(&pickled_dict(&entries), &tensors)).unwrap();
    let (notes, shard) = converted(source.path(), 2);
    assert_names(&notes[0], &["`module`"]);
    assert_names(&notes[1], &["not tensors", "`epoch` (a number)", "`loss` (a number)", "`lr_scheduler` (a list)", "1 more"]);
    assert_eq!(shard, expected());
}

#[test]
fn element_types() {
    // Double precision holds the same values.
    let (source, tensors) = without_weights();
    let doubles: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| {
            let halves = tensor.data.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes));
            let data = halves.flat_map(|value| value.to_f64().to_le_bytes()).collect();
            Tensor { dtype: safetensors::Dtype::F64, data, ..tensor.clone() }
        })
        .collect();
    write_tensors(&source.path().join("model.safetensors"), &doubles);
    assert_eq!(converted(source.path(), 0).1, expected());
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    fs::write(source.path().join("pytorch_model.bin"), torch_archive(&pickled_tensors(&doubles), &doubles)).unwrap();
    assert_eq!(converted(source.path(), 0).1, expected());

    // Types that are not read are named as the file names them.
    for dtype in ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "X99"] {
        let source = single();
        crate::support::edit_safetensors(&source.path().join("model.safetensors"), |header, _| {
            header["transformer.h.0.mlp.w1.weight"]["dtype"] = dtype.into();
        });
        let error = refusal(source.path());
        assert_names(&error, &["transformer.h.0.mlp.w1.weight", &format!("of type {dtype}, expected F64, F32, F16 or BF16")]);
    }
}

/// A weight that is not finite is found by a dry run, too, and named as the source names it.
#[test]
fn places_of_values_that_are_not_finite() {
    let set = |name: &str, element: usize| {
        let (source, mut tensors) = without_weights();
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        tensor.data[2 * element..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
        write_tensors(&source.path().join("model.safetensors"), &tensors);
        source
    };
    let config =
        qwen_vl_format::QwenVlConfig::from_hf_json(&fs::read_to_string(checkpoint("mini-b").join("config.json")).unwrap()).unwrap();
    let (hidden, width, head_dim) = (config.hidden_size, config.visual.width, config.vision_head_dim());
    let block = "transformer.visual.transformer.resblocks.0";
    // A row of the second part (keys) of the second head.
    let row_of_keys = (3 + 1) * head_dim + 2;
    for (name, element, place) in [
        ("transformer.wte.weight", 701 * hidden + 5, "the first in row 701 (".to_owned()),
        (&format!("{block}.attn.in_proj.weight"), row_of_keys * width + 1, format!("the first in row {row_of_keys} (")),
        (&format!("{block}.attn.in_proj.bias"), row_of_keys, format!("the first in element {row_of_keys} (")),
        ("transformer.h.0.mlp.w2.weight", 3 * hidden, "the first in row 3 (".to_owned()),
        ("transformer.visual.attn_pool.attn.in_proj_weight", (hidden + 4) * hidden, format!("the first in row {} (", hidden + 4)),
        ("transformer.visual.proj", 2 * hidden + 9, "the first in column 9 (".to_owned()),
    ] {
        let source = set(name, element);
        assert_names(&refusal(source.path()), &[&format!("tensor `{name}` has 1 NaN"), &place]);
        let mut options = Options::new(source.path(), source.path().join("web"));
        options.dry_run = true;
        let error = format!("{:#}", run(&options).unwrap_err());
        assert_names(&error, &[&format!("tensor `{name}` has 1 NaN"), &place]);
        options.write.allow_nonfinite = true;
        run(&options).unwrap();
        assert!(!source.path().join("web").exists());
    }
}

#[test]
fn grown_vocabularies() {
    let grow = |names: &[&str]| {
        let (source, mut tensors) = without_weights();
        for tensor in tensors.iter_mut().filter(|tensor| names.contains(&tensor.name.as_str())) {
            let row = tensor.data.len() / tensor.shape[0];
            tensor.shape[0] += 3;
            tensor.data.extend_from_within(..3 * row);
        }
        write_tensors(&source.path().join("model.safetensors"), &tensors);
        source
    };
    let source = grow(&["transformer.wte.weight", "lm_head.weight"]);
    fs::write(source.path().join("added_tokens.json"), r#"{"<loc_0>": 1024, "<loc_1>": 1025, "<|endoftext|>": 768}"#).unwrap();
    let decoder = json!({ "added_tokens_decoder": { "1026": { "content": "<seg>", "special": true }, "769": { "content": "x" } } });
    fs::write(source.path().join("tokenizer_config.json"), decoder.to_string()).unwrap();
    let (out, summary) = convert(source.path(), SchemeName::Q4).unwrap();
    assert_eq!(open(&out).manifest().config.decoder.vocab_size, 1027);
    assert_names(&summary.notes[0], &["`vocab_size` is 1024", "1027 is used"]);
    let added = |id, text: &str, special| AddedToken { id, text: text.to_owned(), special };
    let expected = [added(1024, "<loc_0>", false), added(1025, "<loc_1>", false), added(1026, "<seg>", true)];
    assert_eq!(open(&out).manifest().processor.added_tokens, expected);
    assert_eq!(quantize::verify(&out.path().join("web"), &mut |_| ()).unwrap(), []);
    // The comparison with the source takes the same size.
    let report = quantize::report(&Input::Folder(source.path().to_owned()), &out.path().join("web"), &mut |_| ()).unwrap();
    assert!(report.tensors.iter().all(|tensor| tensor.relative < 0.1));

    fs::write(source.path().join("added_tokens.json"), r#"{"<loc_3>": 1027}"#).unwrap();
    assert_names(&refusal(source.path()), &["`<loc_3>` as 1027", "1027 rows"]);

    let source = grow(&["transformer.wte.weight"]);
    assert_names(&refusal(source.path()), &["`transformer.wte.weight` has 1027 rows", "`lm_head.weight` has 1024"]);
}

fn generation(edit: impl FnOnce(&mut serde_json::Value)) -> (qwen_vl_format::manifest::GenerationConfig, Vec<String>) {
    let source = copy("mini-b");
    edit_json(&source.path().join("generation_config.json"), edit);
    let (out, summary) = convert(source.path(), SchemeName::Q4).unwrap();
    (open(&out).manifest().generation.clone(), summary.notes)
}

#[test]
fn every_setting_that_the_runtime_has_is_kept() {
    let (found, notes) = generation(|config| {
        for (key, value) in [
            ("eos_token_id", json!([768, 770])),
            ("temperature", json!(0.2)),
            ("repetition_penalty", json!(1.5)),
            ("top_k", json!(50.0)),
            ("top_p", json!(0.8)),
            ("do_sample", json!(false)),
            ("presence_penalty", json!(1.5)),
            ("min_new_tokens", json!(2)),
            ("stop_strings", json!("</answer>")),
            ("num_beams", json!(4)),
            ("stop_words_ids", json!([[768], [771]])),
            ("bad_words_ids", json!(null)),
        ] {
            config[key] = value;
        }
    });
    assert_eq!(found.eos_token_ids().collect::<Vec<_>>(), [768, 770, 771]);
    assert_eq!(
        (found.presence_penalty, found.min_new_tokens, &found.stop_strings[..]),
        (Some(1.5), Some(2), &["</answer>".to_owned()][..])
    );
    assert_eq!((found.temperature, found.repetition_penalty, found.top_k, found.top_p), (Some(0.2), Some(1.5), 50, 0.8));
    assert!(!found.do_sample);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_names(&notes[0], &["generation_config.json", "left out", "`num_beams` (4)"]);
    assert!(!notes[0].contains("stop") && !notes[0].contains("bad_words_ids") && !notes[0].contains("pad_token_id"), "{notes:?}");

    // A sequence of several tokens ends no answer here.
    let (found, notes) = generation(|config| config["stop_words_ids"] = json!([[768], [770, 771]]));
    assert_eq!((found.eos_token_ids().count(), notes.len()), (1, 1));
    assert_names(&notes[0], &["left out", "`stop_words_ids` ([[768],[770,771]])"]);

    // The longest answer: `max_new_tokens` overrides `max_length`, as in the original.
    let (found, _) = generation(|config| config["max_length"] = json!(20));
    assert_eq!((found.max_new_tokens, found.max_length), (512, None));
    let (found, notes) = generation(|config| {
        config["max_length"] = json!(20);
        config.as_object_mut().unwrap().remove("max_new_tokens");
        config["temperature"] = json!(null);
    });
    assert_eq!((found.max_length, found.temperature, notes.len()), (Some(20), None, 0));
    // Zero stands for "do not sample".
    let (found, _) = generation(|config| (config["do_sample"], config["temperature"]) = (json!(false), json!(0.0)));
    assert_eq!(found.temperature, None);
}

#[test]
fn the_cache_of_hugging_face() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path().join("models--Qwen--Qwen-VL-Chat");
    let snapshot = top.join("snapshots/f57cfbd3");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(top.join("snapshots/0000")).unwrap();
    fs::create_dir_all(top.join("refs")).unwrap();
    fs::write(top.join("refs/main"), "f57cfbd3").unwrap();
    for entry in fs::read_dir(checkpoint("mini-a")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    assert_names(&refusal(&top), &["cache", &Path::new("snapshots").join("f57cfbd3").display().to_string()]);
    let (out, _) = convert(&snapshot, SchemeName::Q4).unwrap();
    let provenance = open(&out).manifest().provenance.clone();
    assert_eq!(provenance.source, "Qwen/Qwen-VL-Chat");
    assert!(provenance.modifications.contains("`Qwen/Qwen-VL-Chat`"));
}

/// The web checkpoint has the strict form of the vocabulary, whatever form the source has.
#[test]
fn vocabularies_in_every_form() {
    let strict = fs::read_to_string(checkpoint("mini-b").join("qwen.tiktoken")).unwrap();
    let mut reversed: Vec<&str> = strict.lines().collect();
    reversed.reverse();
    for text in [
        strict.clone() + "\n\n",
        strict.replace(' ', "\t"),
        strict.replace('\n', " \n"),
        strict.trim_end().to_owned(),
        strict.replace('\n', "\r\n") + "\r\n",
        "\n".to_owned() + &strict,
        strict.replace(" 5\n", " +5\n"),
        "\u{feff}".to_owned() + &strict,
        reversed.join("\n"),
    ] {
        let source = copy("mini-b");
        fs::write(source.path().join("qwen.tiktoken"), text).unwrap();
        let (out, _) = convert(source.path(), SchemeName::Q4).unwrap();
        assert_eq!(fs::read_to_string(out.path().join("web/qwen.tiktoken")).unwrap(), strict);
        assert_eq!(quantize::verify(&out.path().join("web"), &mut |_| ()).unwrap(), []);
    }
    let lines: Vec<&str> = strict.lines().collect();
    let line = |at: usize, line: String| {
        lines.iter().enumerate().map(|(index, old)| if index == at { line.clone() + "\n" } else { format!("{old}\n") }).collect::<String>()
    };
    let token = |at: usize| lines[at].split(' ').next().unwrap();
    for (text, part) in [
        (line(600, format!("{} 600", token(599))), "rank 600"),
        (line(65, "QUFBQUFB 65".to_owned()), "single byte"),
        (line(300, "A=== 300".to_owned()), "line 301"),
    ] {
        let source = copy("mini-b");
        fs::write(source.path().join("qwen.tiktoken"), &text).unwrap();
        assert_names(&refusal(source.path()), &["qwen.tiktoken", part]);
        // A web checkpoint with such a file, whose hash is right.
        let (out, _) = convert(&checkpoint("mini-b"), SchemeName::Q4).unwrap();
        let web = out.path().join("web");
        fs::write(web.join("qwen.tiktoken"), &text).unwrap();
        edit_json(&web.join("manifest.json"), |manifest| {
            let file = manifest["files"].as_array_mut().unwrap().iter_mut().find(|file| file["file"] == "qwen.tiktoken").unwrap();
            file["bytes"] = text.len().into();
            file["sha256"] = qwen_vl_format::ShardHash::of(text.as_bytes()).into();
        });
        let problems = quantize::verify(&web, &mut |_| ()).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_names(&problems[0].problem, &["vocabulary", part]);
    }
}

#[test]
fn the_helpers_write_what_the_source_has() {
    let source = single();
    assert_eq!(tensors(source.path()).len(), tensors(&checkpoint("mini-b")).len());
}
