//! Checkpoints of the later generations, as people have them.

use crate::support::{
    Tensor, assert_names, checkpoint, convert, copy, edit_json, fixtures, open, refusal, replace_bytes, run, tensors, write_tensors,
};
use quantize::{Options, Rule, SchemeName, Summary, WebCheckpoint};
use qwen_vl_format::{Family, Manifest, Scheme, Vocabulary};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const MODELS: [&str; 3] = ["q2-a", "q25-a", "q3-a"];

/// A copy of a fixture as transformers 5 saves it.
fn copy_v5(name: &str) -> tempfile::TempDir {
    let folder = copy(&format!("{name}-v5"));
    fs::copy(checkpoint(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Converts to f16, which is fast. Returns the result with its folder.
fn web(source: &Path) -> (tempfile::TempDir, Summary, WebCheckpoint) {
    web_in(source, SchemeName::F16)
}

fn web_in(source: &Path, scheme: SchemeName) -> (tempfile::TempDir, Summary, WebCheckpoint) {
    let (out, summary) = convert(source, scheme).unwrap_or_else(|error| panic!("{error:#}"));
    let web = open(&out);
    (out, summary, web)
}

/// Converts a folder, which must succeed with this number of notes. Returns the notes and the bytes of the first shard.
fn converted(source: &Path, notes: usize) -> (Vec<String>, Vec<u8>) {
    let (out, summary, _) = web(source);
    assert_eq!(summary.notes.len(), notes, "{:?}", summary.notes);
    (summary.notes, fs::read(out.path().join("web/shard-00000.safetensors")).unwrap())
}

fn edit_tensors(folder: &Path, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let mut all = tensors(folder);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("safetensors") {
            fs::remove_file(path).unwrap();
        }
    }
    edit(&mut all);
    write_tensors(&folder.join("model.safetensors"), &all);
}

/// Decoder keys of a configuration of either layout.
fn text_config(config: &mut Value) -> &mut Value {
    if config["text_config"].is_object() { &mut config["text_config"] } else { config }
}

#[test]
fn saves_of_transformers_5_give_the_same_result() {
    // No fixture of Qwen2.5-VL was saved by transformers 5.
    for model in ["q2-a", "q3-a"] {
        let (old_out, old_summary, old) = web(&checkpoint(model));
        let saved = copy_v5(model);
        let (new_out, new_summary, new) = web(saved.path());
        assert_eq!((old_summary.notes, new_summary.notes), (Vec::new(), Vec::new()));
        assert_eq!(new_summary.unused_tensors, [""; 0]);
        let (old, new) = (old.manifest(), new.manifest());
        assert_eq!((&old.config, &old.processor, &old.generation), (&new.config, &new.processor, &new.generation));
        assert_eq!((&old.tensors, &old.shards), (&new.tensors, &new.shards));
        let vocabulary = |out: &tempfile::TempDir| fs::read(out.path().join("web/qwen.tiktoken")).unwrap();
        assert_eq!(vocabulary(&old_out), vocabulary(&new_out));
        assert_eq!(quantize::verify(&new_out.path().join("web"), &mut |_| ()).unwrap(), []);
    }
}

#[test]
fn names_of_other_releases_and_wrappers() {
    for (model, tower, decoder) in [("q2-a", "visual.", "model."), ("q3-a", "model.visual.", "model.language_model.")] {
        let (_, expected) = converted(&checkpoint(model), 0);
        for (new_tower, new_decoder, wrapper) in [
            ("visual.", "model.", ""),
            ("model.visual.", "model.language_model.", ""),
            ("visual.", "language_model.model.", ""),
            ("model.visual.", "model.language_model.", "module."),
            ("visual.", "model.", "base_model.model."),
        ] {
            let source = copy(model);
            edit_tensors(source.path(), |tensors| {
                for tensor in tensors {
                    let (prefix, rest) = match tensor.name.strip_prefix(tower) {
                        Some(rest) => (new_tower, rest),
                        None => (new_decoder, tensor.name.strip_prefix(decoder).unwrap()),
                    };
                    tensor.name = format!("{wrapper}{prefix}{rest}");
                }
            });
            let (notes, found) = converted(source.path(), usize::from(!wrapper.is_empty()));
            assert!(notes.iter().all(|note| note.contains(&format!("`{wrapper}`"))), "{notes:?}");
            assert!(found == expected, "{model}: {wrapper}{new_tower}, {wrapper}{new_decoder}");
        }
    }
}

#[test]
fn sharded_or_not() {
    let (_, expected) = converted(&checkpoint("q3-a"), 0);
    let source = copy("q3-a");
    let all = tensors(source.path());
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    let (first, second) = all.split_at(50);
    let mut map = serde_json::Map::new();
    for (name, tensors) in [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)] {
        write_tensors(&source.path().join(name), tensors);
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.into())));
    }
    let index = source.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    assert!(converted(source.path(), 0).1 == expected);
    fs::remove_file(index).unwrap();
    assert!(converted(source.path(), 0).1 == expected);
    fs::remove_file(source.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_names(&refusal(source.path()), &["model-NUMBER-of-00002.safetensors", "number 2"]);
}

/// Names and shapes of the published checkpoints.
#[test]
fn the_originals_have_these_tensors() {
    let read = |name: &str| fs::read_to_string(fixtures().join("family/facts").join(name)).unwrap();
    let facts: Value = serde_json::from_str(&read("parameters.json")).unwrap();
    for (model, tensors) in [("Qwen2-VL-2B-Instruct", 729), ("Qwen3-VL-2B-Instruct", 625), ("Qwen3-VL-4B-Instruct", 713)] {
        let config = quantize::model_config(&read(&format!("{model}.config.json"))).unwrap();
        let found: BTreeMap<String, Vec<usize>> = quantize::original_tensors(&config).into_iter().collect();
        let expected: BTreeMap<String, Vec<usize>> = serde_json::from_value(facts["models"][model]["shapes"].clone()).unwrap();
        assert_eq!(found, expected, "{model}");
        assert_eq!(found.len(), tensors);
    }
}

#[test]
fn tensors_that_are_missing_or_wrong() {
    let source = copy("q3-a");
    edit_tensors(source.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "model.visual.pos_embed.weight").unwrap();
        tensor.name = "model.visual.pos_embedding.weight".into();
    });
    assert_names(
        &refusal(source.path()),
        &["`model.visual.pos_embed.weight` is missing", "nearest name is `model.visual.pos_embedding.weight`"],
    );

    let source = copy("q3-a");
    edit_tensors(source.path(), |tensors| tensors.retain(|tensor| !tensor.name.contains("deepstack_merger_list.1")));
    assert_names(&refusal(source.path()), &["`model.visual.deepstack_merger_list.1.norm.weight` is missing", "and 5 more"]);

    let source = copy("q3-a");
    edit_tensors(source.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name.ends_with("layers.2.self_attn.k_proj.weight")).unwrap();
        tensor.shape = vec![128, 192];
    });
    assert_names(&refusal(source.path()), &["layers.2.self_attn.k_proj.weight", "[128, 192]", "[256, 96]"]);

    // Other tensors are left out.
    let source = copy("q2-a");
    edit_tensors(source.path(), |tensors| {
        let mut other = tensors[0].clone();
        other.name = "model.layers.0.self_attn.rotary_emb.inv_freq".into();
        tensors.push(other);
    });
    assert_eq!(web(source.path()).1.unused_tensors, ["model.layers.0.self_attn.rotary_emb.inv_freq"]);
}

/// The place of a value in the source is that of the tensor with it.
#[test]
fn places_of_values_that_are_not_finite() {
    for (name, at, parts) in [
        ("model.layers.1.self_attn.v_proj.weight", 192 * 3 + 5, ["`model.layers.1.self_attn.v_proj.weight`", "row 3"]),
        ("model.layers.1.self_attn.k_proj.bias", 7, ["`model.layers.1.self_attn.k_proj.bias`", "element 7"]),
        ("model.layers.0.mlp.gate_proj.weight", 192 * 9, ["`model.layers.0.mlp.gate_proj.weight`", "row 9"]),
        ("visual.patch_embed.proj.weight", 1176 * 2 + 700, ["`visual.patch_embed.proj.weight`", "row 2 after adding the frames"]),
    ] {
        let source = copy("q2-a");
        edit_tensors(source.path(), |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
            tensor.data[2 * at..2 * at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        });
        assert_names(&refusal(source.path()), &parts);
    }
}

/// Both layouts can have a `lm_head.weight` next to `tie_word_embeddings`.
#[test]
fn heads_that_are_the_embedding() {
    let with_head = |model: &str, change: bool| {
        let source = copy(model);
        edit_tensors(source.path(), |tensors| {
            let embedding = tensors.iter().find(|tensor| tensor.name.ends_with("embed_tokens.weight")).unwrap();
            let mut head = Tensor { name: "lm_head.weight".into(), ..embedding.clone() };
            head.data[100] ^= u8::from(change);
            tensors.push(head);
        });
        source
    };
    for model in MODELS {
        let (_, expected) = converted(&checkpoint(model), 0);
        let (notes, found) = converted(with_head(model, false).path(), 1);
        assert_names(&notes[0], &["`lm_head.weight` is a copy of", "embed_tokens.weight"]);
        assert!(found == expected);

        let source = with_head(model, true);
        assert_names(&refusal(source.path()), &["`lm_head.weight` differs", "tie_word_embeddings", "transformers 4", "transformers 5"]);
        edit_json(&source.path().join("config.json"), |config| {
            config["tie_word_embeddings"] = false.into();
            text_config(config)["tie_word_embeddings"] = false.into();
        });
        let (_, summary, web) = web_in(source.path(), SchemeName::Q4);
        assert_eq!((summary.notes.len(), summary.unused_tensors.len()), (0, 0));
        // A head and an embedding that are apart are stored in 4 bits.
        for name in ["head.weight", "decoder.embedding.weight"] {
            assert_eq!(web.manifest().tensor(name).unwrap().scheme, Scheme::Q4Z { group_size: 32 }, "{model}: {name}");
        }
    }
    for (value, is_tied) in [(json!(false), false), (Value::Null, true)] {
        let source = copy("q3-a");
        edit_json(&source.path().join("config.json"), |config| {
            config["tie_word_embeddings"] = value.clone();
            config["text_config"]["tie_word_embeddings"] = value;
        });
        if is_tied {
            let (notes, found) = converted(source.path(), 1);
            assert_names(&notes[0], &["`tie_word_embeddings`", "the head is the embedding"]);
            assert!(found == converted(&checkpoint("q3-a"), 0).1);
        } else {
            assert_names(&refusal(source.path()), &["`lm_head.weight` is missing"]);
        }
    }
}

#[test]
fn grown_vocabularies() {
    let source = copy("q2-a");
    edit_tensors(source.path(), |tensors| {
        let embedding = tensors.iter_mut().find(|tensor| tensor.name == "model.embed_tokens.weight").unwrap();
        embedding.shape[0] += 2;
        embedding.data.extend([0; 2 * 2 * 192]);
    });
    let (_, summary, web) = web(source.path());
    assert_names(&summary.notes[0], &["`vocab_size` is 3072", "3074 tokens"]);
    assert_eq!(web.manifest().config.decoder.vocab_size, 3074);
}

#[test]
fn defaults_keep_bits_where_they_cost_little() {
    let scheme_of = |options: Options| {
        run(&options).unwrap();
        let web = WebCheckpoint::open(&options.out).unwrap();
        move |name: &str| web.manifest().tensor(name).unwrap().scheme
    };
    let (q4, q8) = (Scheme::Q4Z { group_size: 32 }, Scheme::Q8 { group_size: 32 });
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| Options::new(checkpoint("q3-a"), folder.path().join(name));
    let scheme = scheme_of(options("default"));
    for (name, expected) in [
        ("vision.patch_embedding.weight", Scheme::F16),
        ("vision.blocks.0.attn.qkv.weight", q8),
        ("merger.fc1.weight", q8),
        ("deepstack.2.fc2.weight", q8),
        ("decoder.embedding.weight", q8),
        ("decoder.layers.0.attn.qkv.weight", q4),
        ("decoder.layers.3.mlp.down.weight", q4),
        ("vision.position_embedding", Scheme::F32),
        ("decoder.layers.0.attn.q_norm.weight", Scheme::F32),
    ] {
        assert_eq!(scheme(name), expected, "{name}");
    }
    let mut with_rules = options("rules");
    with_rules.rules = ["vision=q4", "deepstack.1=f16", "embed_tokens=q4"].map(|rule| Rule::parse(rule).unwrap()).to_vec();
    let scheme = scheme_of(with_rules);
    for (name, expected) in [
        ("vision.blocks.0.attn.qkv.weight", q4),
        ("merger.fc1.weight", q4),
        ("deepstack.0.fc2.weight", q4),
        ("deepstack.1.fc2.weight", Scheme::F16),
        ("decoder.embedding.weight", q4),
    ] {
        assert_eq!(scheme(name), expected, "{name}");
    }
    let scheme = scheme_of(options("f16").scheme(SchemeName::F16));
    assert_eq!(scheme("vision.blocks.0.attn.qkv.weight"), Scheme::F16);

    let read = |name: &str| fs::read_to_string(folder.path().join(name).join("MODIFICATIONS")).unwrap();
    assert_names(&read("default"), &["q4z in groups of 32, vision as q8 in groups of 32, decoder.embedding as q8 in groups of 32"]);
    assert_names(&read("default"), &["the frames of the patch embedding added"]);
    assert!(!read("f16").contains("vision"));
}

#[test]
fn licences() {
    for (model, name) in [("q2-a", "Qwen2-VL-2B"), ("q3-a", "Qwen3-VL")] {
        let (out, _, _) = web(&checkpoint(model));
        let notice = fs::read_to_string(out.path().join("web/NOTICE")).unwrap();
        assert_names(&notice, &["No licence file came with", name, "Apache License 2.0", "MODIFICATIONS"]);
        assert!(!notice.contains("Tongyi"));
        let source = copy(model);
        fs::write(source.path().join("LICENSE"), "Apache License, Version 2.0").unwrap();
        fs::write(source.path().join("NOTICE"), "Some notice.").unwrap();
        let (out, _, web) = web(source.path());
        let read = |name: &str| fs::read_to_string(out.path().join("web").join(name)).unwrap();
        assert_eq!(read("LICENSE"), "Apache License, Version 2.0");
        assert_eq!(read("NOTICE"), "Some notice.\n\nThe weights in this folder were changed: see MODIFICATIONS.\n");
        assert!(web.manifest().files.iter().any(|file| file.file == "LICENSE"));
    }
}

#[test]
fn models_that_think() {
    let published = fs::read_to_string(checkpoint("q3-a-v5").join("chat_template.jinja")).unwrap();
    let thinking = published.replace("<|im_start|>assistant\\n' }}\n{%- endif %}", "<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}");
    assert_ne!(thinking, published);
    let source = copy("q3-a");
    edit_json(&source.path().join("chat_template.json"), |json| json["chat_template"] = thinking.clone().into());
    assert_names(&refusal(source.path()), &["chat_template.json", "`<think>`", "Thinking", "Instruct"]);
    let source = copy_v5("q3-a");
    fs::write(source.path().join("chat_template.jinja"), thinking).unwrap();
    assert_names(&refusal(source.path()), &["chat_template.jinja", "Thinking"]);

    // By its name, without a template.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Qwen3-VL-2B-Thinking");
    fs::create_dir(&source).unwrap();
    for name in ["config.json", "model.safetensors", "vocab.json", "merges.txt"] {
        fs::copy(checkpoint("q3-a").join(name), source.join(name)).unwrap();
    }
    assert_names(&refusal(&source), &["Qwen3-VL-2B-Thinking", "by its name"]);
    fs::copy(checkpoint("q3-a").join("chat_template.json"), source.join("chat_template.json")).unwrap();
    fs::copy(checkpoint("q3-a").join("tokenizer_config.json"), source.join("tokenizer_config.json")).unwrap();
    web(&source);
}

#[test]
fn chat_templates() {
    let notes = |edit: &dyn Fn(&Path)| {
        let source = copy("q2-a");
        edit(source.path());
        web(source.path()).1.notes
    };
    let set = |text: &'static str| {
        move |folder: &Path| fs::write(folder.join("chat_template.json"), json!({ "chat_template": text }).to_string()).unwrap()
    };
    let other = notes(&set("{{ messages }}"));
    assert_eq!(other.len(), 1);
    assert_names(&other[0], &["chat_template.json", "not the published one", "published template of Qwen2-VL"]);

    // The first of the files counts.
    let third = fs::read_to_string(checkpoint("q3-a-v5").join("chat_template.jinja")).unwrap();
    let other = notes(&|folder| fs::write(folder.join("chat_template.jinja"), &third).unwrap());
    assert_names(&other[0], &["chat_template.jinja", "that of Qwen3-VL", "published template of Qwen2-VL"]);

    let published = fs::read_to_string(checkpoint("q2-a-v5").join("chat_template.jinja")).unwrap();
    let windows = published.clone() + "\r\n";
    assert_eq!(notes(&|folder| fs::write(folder.join("chat_template.jinja"), &windows).unwrap()), [""; 0]);
    // In `tokenizer_config.json`, alone or in a list.
    for template in [json!(published), json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": published}])] {
        let found = notes(&|folder| {
            fs::remove_file(folder.join("chat_template.json")).unwrap();
            edit_json(&folder.join("tokenizer_config.json"), |json| json["chat_template"] = template.clone());
        });
        assert_eq!(found, [""; 0]);
    }
    let missing = notes(&|folder| {
        fs::remove_file(folder.join("chat_template.json")).unwrap();
        edit_json(&folder.join("tokenizer_config.json"), |json| _ = json.as_object_mut().unwrap().remove("chat_template"));
    });
    assert_names(&missing[0], &["no chat template", "published template of Qwen2-VL"]);
}

#[test]
fn settings_of_pictures() {
    for (model, mean, min, max) in [("q2-a", 0.481_454_66, 3136, 12_845_056), ("q3-a", 0.5, 65_536, 16_777_216)] {
        let processor = web(&checkpoint(model)).2.manifest().processor.clone();
        assert_eq!((processor.image_mean[0], processor.min_pixels, processor.max_pixels), (mean, Some(min), Some(max)), "{model}");
        // Without a file: the published ones.
        let source = copy(model);
        fs::remove_file(source.path().join("preprocessor_config.json")).unwrap();
        let (_, summary, web) = web(source.path());
        assert_names(&summary.notes[0], &["preprocessor_config.json", "published settings"]);
        assert_eq!(web.manifest().processor, processor);
    }
    let edited = |file: &'static str, edit: &dyn Fn(&mut Value)| {
        let source = if file == "processor_config.json" { copy_v5("q3-a") } else { copy("q3-a") };
        edit_json(&source.path().join(file), edit);
        source
    };
    let (file, new_file) = ("preprocessor_config.json", "processor_config.json");
    // Both spellings at once: that of transformers' own precedence.
    let source = edited(file, &|json| (json["min_pixels"], json["max_pixels"]) = (1024.into(), 16_777_216.into()));
    let (_, summary, web) = web(source.path());
    assert_eq!(summary.notes.len(), 1);
    assert_names(&summary.notes[0], &["`min_pixels` is 1024", "`size.shortest_edge` is 65536", "1024 is used"]);
    assert_eq!(web.manifest().processor.min_pixels, Some(1024));

    for (file, pointer, value, parts) in [
        (file, "/patch_size", json!(14), ["preprocessor_config.json: `patch_size` is 14", "expected 16"]),
        (file, "/merge_size", json!(4), ["`merge_size` is 4", "expected 2"]),
        (file, "/temporal_patch_size", json!(1), ["`temporal_patch_size` is 1", "expected 2"]),
        (file, "/do_resize", json!(false), ["`do_resize` is false", "expected true"]),
        (file, "/resample", json!(2), ["`resample` is 2", "expected 3"]),
        (file, "/rescale_factor", json!(1.0), ["`rescale_factor` is 1", "1/255"]),
        (file, "/image_mean", json!([0.5]), ["`image_mean` is [0.5]", "three numbers"]),
        (file, "/size/shortest_edge", json!(0), ["`size.shortest_edge` is 0", "a number of pixels"]),
        (file, "/size/shortest_edge", json!(1 << 25), ["`min_pixels` is 33554432", "`max_pixels` is 16777216"]),
        (new_file, "/image_processor/patch_size", json!(14), ["processor_config.json: `patch_size` is 14", "expected 16"]),
    ] {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let source = edited(file, &|json| json.pointer_mut(parent).unwrap()[key] = value.clone());
        assert_names(&refusal(source.path()), &parts);
    }
}

#[test]
fn settings_of_generation() {
    let of = |edit: &dyn Fn(&Path), model: &str| {
        let source = copy(model);
        edit(source.path());
        let web = web(source.path()).2;
        (web.manifest().generation.clone(), web.manifest().config.decoder.trained_context)
    };
    for (model, eos, temperature, top_k, top_p) in [("q2-a", [3002, 3000], 0.01, 1, 0.001), ("q3-a", [3102, 3100], 0.7, 20, 0.8)] {
        let (found, context) = of(&|_| (), model);
        assert_eq!(found.eos_token_ids().collect::<Vec<_>>(), eos);
        assert_eq!((found.do_sample, found.temperature, found.top_k, found.top_p), (true, Some(temperature), top_k, top_p));
        assert_eq!((found.chat_format.as_str(), found.max_new_tokens, found.max_window_size), ("chatml", 1024, context));
        // Without a file: the same. (The published file of Qwen2-VL does not name the penalty.)
        let (mut without, _) = of(&|folder| fs::remove_file(folder.join("generation_config.json")).unwrap(), model);
        without.repetition_penalty = found.repetition_penalty;
        assert_eq!(without, found);
        // A file without settings is read as transformers reads it: greedy.
        let (bare, _) = of(&|folder| fs::write(folder.join("generation_config.json"), r#"{"_from_model_config": true}"#).unwrap(), model);
        assert_eq!((bare.do_sample, bare.temperature, bare.top_k, bare.top_p), (false, None, 50, 1.0));
        assert_eq!(bare.eos_token_ids().collect::<Vec<_>>(), eos);
    }
}

#[test]
fn tokenizers() {
    let ranks = fs::read_to_string(fixtures().join("tokenizer/qwen.tiktoken")).unwrap();
    for (model, count, added) in [("q2-a", 3000, 14), ("q3-a", 3100, 26)] {
        let (out, _, web_checkpoint) = web(&checkpoint(model));
        let expected: String = ranks.lines().take(count).map(|line| format!("{line}\n")).collect();
        assert_eq!(fs::read_to_string(out.path().join("web/qwen.tiktoken")).unwrap(), expected, "{model}");
        let tokens = &web_checkpoint.manifest().processor.added_tokens;
        assert_eq!((tokens.len(), tokens[0].id, tokens[0].text.as_str()), (added, count as u32, "<|endoftext|>"));
        assert_eq!(tokens.iter().filter(|token| token.special).count(), 14);

        // `vocab.json` and `merges.txt` alone, with the added tokens in `tokenizer_config.json`.
        let source = copy(model);
        fs::remove_file(source.path().join("tokenizer.json")).unwrap();
        let (other_out, summary, other) = web(source.path());
        assert_eq!(summary.notes, [""; 0]);
        assert_eq!(fs::read_to_string(other_out.path().join("web/qwen.tiktoken")).unwrap(), expected);
        assert_eq!(other.manifest().processor, web_checkpoint.manifest().processor);
        // Or in `added_tokens.json`, which has no flags: the lists of special tokens have them.
        let texts: Vec<&str> = tokens.iter().filter(|token| token.special).map(|token| token.text.as_str()).collect();
        edit_json(&source.path().join("tokenizer_config.json"), |json| {
            json.as_object_mut().unwrap().remove("added_tokens_decoder").unwrap();
            (json["additional_special_tokens"], json["pad_token"]) = (json!(texts[1..]), json!({ "content": texts[0] }));
        });
        let map: serde_json::Map<String, Value> = tokens.iter().map(|token| (token.text.clone(), token.id.into())).collect();
        fs::write(source.path().join("added_tokens.json"), Value::from(map).to_string()).unwrap();
        assert_eq!(web(source.path()).2.manifest().processor, web_checkpoint.manifest().processor);
        // The files can be made of the ranks.
        let [vocabulary, merges] = quantize::bpe_files(&Vocabulary::parse(expected.as_bytes()).unwrap()).unwrap();
        let published = |name: &str| fs::read_to_string(checkpoint(model).join(name)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&vocabulary).unwrap(), serde_json::from_str::<Value>(&published("vocab.json")).unwrap());
        assert_eq!(merges, published("merges.txt"));
        // The library reads the same.
        let (config, tokenizer) = quantize::tokenizer(source.path()).unwrap();
        assert_eq!((config.family == Family::Qwen3Vl, &tokenizer.added_tokens), (model == "q3-a", tokens));
        assert_eq!(Vocabulary::parse(&tokenizer.vocabulary).unwrap().len(), count);
    }
}

#[test]
fn tokens_that_were_added_later() {
    let add = |flags: Value| {
        let source = copy("q3-a");
        edit_json(&source.path().join("tokenizer.json"), |json| {
            let mut token = json!({ "id": 3126, "content": "<|plate|>", "special": true, "normalized": false });
            token.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
            json["added_tokens"].as_array_mut().unwrap().push(token);
        });
        source
    };
    let (_, summary, web) = web(add(json!({})).path());
    let last = web.manifest().processor.added_tokens.last().unwrap().clone();
    assert_eq!((last.id, last.text.as_str(), last.special, summary.notes.len()), (3126, "<|plate|>", true, 0));
    let (notes, _) = converted(add(json!({ "normalized": true, "special": false })).path(), 1);
    assert_names(&notes[0], &["<|plate|>", "normalised text"]);
    assert_names(&refusal(add(json!({ "lstrip": true })).path()), &["tokenizer.json", "`<|plate|>`", "`lstrip`"]);
    assert_names(&refusal(add(json!({ "id": 3200 })).path()), &["`<|plate|>` as 3200", "3200 rows"]);
    assert_names(&refusal(add(json!({ "id": 50 })).path()), &["`<|plate|>` has id 50", "behind the ranks"]);
    assert_names(&refusal(add(json!({ "id": 3125 })).path()), &["`<|plate|>` as 3125", "`</think>`"]);
    assert_names(&refusal(add(json!({ "content": "<think>" })).path()), &["`<think>` as 3126", "3124"]);
    assert_names(&refusal(add(json!({ "id": "x" })).path()), &["`<|plate|>` has no id"]);
}

#[test]
fn tokenizers_that_are_not_of_this_kind() {
    let edited = |pointer: &str, value: Value| {
        let source = copy("q3-a");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        edit_json(&source.path().join("tokenizer.json"), |json| match json.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            parent => parent[key] = value,
        });
        refusal(source.path())
    };
    for (pointer, value, parts) in [
        ("/normalizer/type", json!("NFKC"), vec!["`normalizer.type` is \"NFKC\"", "\"NFC\"", "not Qwen's"]),
        ("/normalizer", Value::Null, vec!["`normalizer.type` is null"]),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\w+"), vec!["pattern.Regex", "\\\\w+"]),
        ("/pre_tokenizer/type", json!("Whitespace"), vec!["`pre_tokenizer.type` is \"Whitespace\""]),
        ("/pre_tokenizer/pretokenizers/1/use_regex", json!(true), vec!["use_regex` is true"]),
        ("/post_processor/type", json!("TemplateProcessing"), vec!["`post_processor.type`", "TemplateProcessing"]),
        ("/model/type", json!("Unigram"), vec!["`model.type` is \"Unigram\"", "\"BPE\""]),
        ("/model/byte_fallback", json!(true), vec!["`model.byte_fallback` is true"]),
        ("/model/merges/5", json!("x"), vec!["merge 5", "two tokens"]),
        ("/model/merges/5", json!("i n"), vec!["merge 5", "does not make token 261"]),
        ("/model/vocab/in", json!(5), vec!["have the id 5"]),
        ("/model/vocab/in", json!(9999), vec!["none has the id 258"]),
        ("/model/vocab/zzzz", json!(9999), vec!["3101 tokens and 2844 merges"]),
    ] {
        assert_names(&edited(pointer, value), &[parts.as_slice(), &["tokenizer.json"]].concat());
    }

    // Merges that ranks alone do not lead to: `in` + `g` for `ing`, where `i` + `n` is the earlier merge, is right; `i` + `ng` is not.
    let source = copy("q3-a");
    fs::remove_file(source.path().join("tokenizer.json")).unwrap();
    let merges = fs::read_to_string(source.path().join("merges.txt")).unwrap();
    assert!(merges.contains("\nin g\n"));
    fs::write(source.path().join("merges.txt"), merges.replace("\nin g\n", "\ni ng\n")).unwrap();
    assert_names(&refusal(source.path()), &["merges.txt", "`i` and `ng`", "have 2 and 1 bytes"]);
    fs::remove_file(source.path().join("merges.txt")).unwrap();
    assert_names(&refusal(source.path()), &["the tokenizer is missing", "tokenizer.json", "merges.txt"]);

    // Of another model.
    let source = copy("q3-a");
    edit_json(&source.path().join("config.json"), |json| json["image_token_id"] = 3111.into());
    assert_names(&refusal(source.path()), &["`image_token_id` is 3111", "`<|image_pad|>` as 3112"]);
    let source = copy("q3-a");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let path = source.path().join(name);
        replace_bytes(&path, b"<|box_end|>", b"<|box_and|>");
    }
    edit_json(&source.path().join("tokenizer_config.json"), |json| json["added_tokens_decoder"]["3106"]["content"] = "<|box_and|>".into());
    edit_json(&source.path().join("tokenizer.json"), |json| json["added_tokens"][6]["content"] = "<|box_and|>".into());
    assert_names(&refusal(source.path()), &["`<|box_end|>` is missing"]);
}

#[test]
fn adapters_are_recognised() {
    let source = copy("q3-a");
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    fs::write(source.path().join("adapter_config.json"), r#"{"base_model_name_or_path": "Qwen/Qwen3-VL-2B-Instruct"}"#).unwrap();
    fs::write(source.path().join("adapter_model.safetensors"), "").unwrap();
    assert_names(&refusal(source.path()), &["LoRA adapter of `Qwen/Qwen3-VL-2B-Instruct`", "merge_and_unload"]);

    let source = copy("q2-a");
    edit_tensors(source.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "model.layers.0.self_attn.q_proj.weight").unwrap();
        tensor.name = "model.layers.0.self_attn.q_proj.base_layer.weight".into();
    });
    assert_names(&refusal(source.path()), &["base_layer", "not merged"]);
}

/// The gated MLP of the vision tower is interleaved, with its biases, and the fine-tune's licence is carried.
#[test]
fn qwen2_5_vl_is_converted() {
    let (out, summary, web) = web_in(&checkpoint("q25-a"), SchemeName::F32);
    assert_eq!((summary.notes.len(), summary.unused_tensors.len()), (0, 0), "{:?}", summary.notes);
    let manifest = web.manifest();
    assert_eq!((manifest.processor.min_pixels, manifest.processor.max_pixels), (Some(3136), Some(12_845_056)));
    assert_eq!(manifest.generation.repetition_penalty, Some(1.05));
    let source = |name: &str| -> Vec<f32> {
        let index = fs::read(checkpoint("q25-a").join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let bytes = fs::read(checkpoint("q25-a").join(index["weight_map"][name].as_str().unwrap())).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect()
    };
    for (leaf, columns) in [("weight", 96), ("bias", 1)] {
        let [up, gate] = ["up", "gate"].map(|part| source(&format!("visual.blocks.3.mlp.{part}_proj.{leaf}")));
        let woven: Vec<f32> = up.chunks(columns).zip(gate.chunks(columns)).flat_map(|(up, gate)| [up, gate].concat()).collect();
        assert_eq!(web.tensor(&format!("vision.blocks.3.mlp.gate_up.{leaf}")).unwrap(), woven, "{leaf}");
    }
    let notice = fs::read_to_string(out.path().join("web/NOTICE")).unwrap();
    assert_names(&notice, &["Qwen2.5-VL-7B", "Apache", "Qwen2.5-VL-3B", "excludes commercial use"]);
    assert_names(&fs::read_to_string(out.path().join("web/README.md")).unwrap(), &["- qwen2_5_vl"]);
}

#[test]
fn other_models_are_refused_by_name() {
    let (source, architecture) = (copy("q3-a"), "Qwen3VLMoeForConditionalGeneration");
    edit_json(&source.path().join("config.json"), |json| json["architectures"] = json!([architecture]));
    assert_names(&refusal(source.path()), &[architecture, "mixture of experts", "Qwen3VLForConditionalGeneration"]);
}

#[test]
fn contents_and_errors_of_modules() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("web");
    let mut options = Options::new(checkpoint("q3-a"), &out);
    options.dry_run = true;
    let dry = run(&options).unwrap();
    assert!(!out.exists());
    options.dry_run = false;
    let mut real = run(&options).unwrap();
    // A dry run encodes nothing.
    for total in &mut real.schemes {
        assert!(total.relative_error.take().is_some());
    }
    assert_eq!(real, dry);
    let contents = quantize::inspect(&out).unwrap();
    assert_eq!((contents.weights, contents.shard_bytes), (dry.weights, dry.shard_bytes));
    let modules: Vec<&str> = contents.modules.iter().map(|module| module.module.as_str()).collect();
    for module in ["vision.position_embedding", "vision.blocks", "merger", "deepstack", "decoder.embedding", "decoder.layers"] {
        assert!(modules.contains(&module), "{module}: {modules:?}");
    }
    let report = quantize::report(&checkpoint("q3-a").as_path().into(), &out, &mut |_| ()).unwrap();
    let relative = |name: &str| report.modules.iter().find(|module| module.module == name).unwrap().relative;
    assert!((0.06..0.08).contains(&relative("decoder.layers")), "{}", relative("decoder.layers"));
    for module in ["vision.blocks", "merger", "deepstack", "decoder.embedding"] {
        assert!((0.003..0.008).contains(&relative(module)), "{module}: {}", relative(module));
    }
    assert_eq!(quantize::verify(&out, &mut |_| ()).unwrap(), []);

    // A manifest whose added tokens do not fit the vocabulary.
    let path = out.join("manifest.json");
    let mut manifest = Manifest::from_json(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest.processor.added_tokens[0].id = 3099;
    fs::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
    let problems = quantize::verify(&out, &mut |_| ()).unwrap();
    assert_eq!((problems.len(), problems[0].file.as_str()), (1, "qwen.tiktoken"));
    assert_names(&problems[0].problem, &["`<|endoftext|>` has id 3099", "3100 or more"]);
}
