//! Configurations that must be read and configurations that must not.

use super::*;
use qwen_vl_format::config::{MergerConfig, WindowConfig};
use serde_json::json;

fn fixture(path: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/family").join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn read(config: &Value) -> Result<ModelConfig, String> {
    model_config(&config.to_string()).map_err(|error| error.to_string())
}

#[test]
fn published_sizes_of_qwen2_vl() {
    let config = read(&fixture("facts/Qwen2-VL-2B-Instruct.config.json")).unwrap();
    assert_eq!((config.family, config.image_token), (Family::Qwen2Vl, 151_655));
    let vision = &config.vision;
    assert_eq!((vision.patch_size, vision.width, vision.layers, vision.heads, vision.mlp_width), (14, 1280, 32, 16, 5120));
    assert_eq!((vision.head_dim(), vision.activation, vision.norm_epsilon), (80, Activation::QuickGelu, 1e-6));
    assert_eq!((vision.patch_bias, vision.pre_norm, vision.position_side, vision.rotary_base), (false, false, None, Some(1e4)));
    assert_eq!(vision.merger, Some(MergerConfig { size: 2, deepstack: Vec::new() }));
    let decoder = &config.decoder;
    assert_eq!((decoder.vocab_size, decoder.width, decoder.layers, decoder.mlp_width), (151_936, 1536, 28, 8960));
    assert_eq!((decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.norm_epsilon), (12, 2, 128, 1e-6));
    assert_eq!((decoder.qkv_bias, decoder.qk_norm, decoder.tied_head, decoder.trained_context), (true, false, true, 32_768));
    let rotary = &decoder.rotary;
    assert_eq!((rotary.base, rotary.sections, rotary.interleaved), (1e6, Some([16, 24, 24]), false));
    assert_eq!((rotary.dynamic_ntk, rotary.logn), (false, false));
}

#[test]
fn published_sizes_of_qwen2_5_vl() {
    let config = read(&fixture("facts/Qwen2.5-VL-3B-Instruct.config.json")).unwrap();
    assert_eq!((config.family, config.image_token), (Family::Qwen25Vl, 151_655));
    let vision = &config.vision;
    assert_eq!((vision.patch_size, vision.width, vision.layers, vision.heads, vision.mlp_width), (14, 1280, 32, 16, 3420));
    assert_eq!((vision.activation, vision.norm_epsilon, vision.rms_norms), (Activation::GatedSilu, 1e-6, true));
    assert_eq!((vision.patch_bias, vision.pre_norm, vision.position_side, vision.rotary_base), (false, false, None, Some(1e4)));
    assert_eq!(vision.merger, Some(MergerConfig { size: 2, deepstack: Vec::new() }));
    assert_eq!(vision.windows, Some(WindowConfig { size: 4, full_blocks: vec![7, 15, 23, 31] }));
    assert_eq!(vision.window_patches(), Some(64));
    let decoder = &config.decoder;
    assert_eq!((decoder.vocab_size, decoder.width, decoder.layers, decoder.mlp_width), (151_936, 2048, 36, 11_008));
    assert_eq!((decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.norm_epsilon), (16, 2, 128, 1e-6));
    assert_eq!((decoder.qkv_bias, decoder.qk_norm, decoder.tied_head, decoder.trained_context), (true, false, true, 128_000));
    assert_eq!((decoder.rotary.base, decoder.rotary.sections, decoder.rotary.interleaved), (1e6, Some([16, 24, 24]), false));
}

/// The keys of the windows and of the gated MLP.
#[test]
fn vision_keys_of_qwen2_5_vl_are_checked() {
    let published = fixture("facts/Qwen2.5-VL-3B-Instruct.config.json");
    for (key, value, parts) in [
        ("window_size", json!(27), &["vision_config.window_size", "27", "28"][..]),
        ("window_size", json!("112"), &["vision_config.window_size"]),
        ("fullatt_block_indexes", json!([7, 32]), &["full_blocks", "32"]),
        ("fullatt_block_indexes", json!(7), &["vision_config.fullatt_block_indexes", "7"]),
        ("hidden_act", json!("gelu"), &["vision_config.hidden_act", "silu"]),
        ("out_hidden_size", json!(1), &["vision_config.out_hidden_size", "2048"]),
    ] {
        let mut config = published.clone();
        config["vision_config"][key] = value;
        let error = read(&config).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    let mut config = published;
    config["vision_config"].as_object_mut().unwrap().remove("fullatt_block_indexes");
    assert!(read(&config).unwrap_err().contains("vision_config.fullatt_block_indexes"));
}

#[test]
fn published_sizes_of_qwen3_vl() {
    for (name, width, layers, heads, mlp) in [("2B", 2048, 28, 16, 6144), ("4B", 2560, 36, 32, 9728)] {
        let config = read(&fixture(&format!("facts/Qwen3-VL-{name}-Instruct.config.json"))).unwrap();
        assert_eq!((config.family, config.image_token), (Family::Qwen3Vl, 151_655));
        let vision = &config.vision;
        assert_eq!((vision.patch_size, vision.width, vision.layers, vision.heads, vision.mlp_width), (16, 1024, 24, 16, 4096));
        assert_eq!((vision.activation, vision.norm_epsilon), (Activation::GeluTanh, 1e-6));
        assert_eq!((vision.patch_bias, vision.pre_norm, vision.position_side, vision.rotary_base), (true, false, Some(48), Some(1e4)));
        assert_eq!(vision.merger, Some(MergerConfig { size: 2, deepstack: vec![5, 11, 17] }));
        let decoder = &config.decoder;
        assert_eq!((decoder.vocab_size, decoder.width, decoder.layers, decoder.mlp_width), (151_936, width, layers, mlp));
        assert_eq!((decoder.heads, decoder.kv_heads, decoder.head_dim), (heads, 8, 128));
        assert_eq!((decoder.qkv_bias, decoder.qk_norm, decoder.tied_head, decoder.trained_context), (false, true, true, 262_144));
        assert_eq!((decoder.rotary.base, decoder.rotary.sections, decoder.rotary.interleaved), (5e6, Some([24, 20, 20]), true));
    }
}

#[test]
fn both_layouts_say_the_same() {
    for name in ["q2-a", "q3-a"] {
        let [old, new] = ["", "-v5"].map(|ending| fixture(&format!("checkpoints/{name}{ending}/config.json")));
        assert_eq!(read(&old).unwrap(), read(&new).unwrap(), "{name}");
    }
    // Releases between the two wrote the decoder's keys at both places. `text_config` counts.
    let mut both = fixture("checkpoints/q2-a/config.json");
    let mut text = both.clone();
    text.as_object_mut().unwrap().retain(|key, _| key != "vision_config" && key != "architectures");
    both["text_config"] = text;
    both["hidden_size"] = 8192.into();
    assert_eq!(read(&both).unwrap(), read(&fixture("checkpoints/q2-a/config.json")).unwrap());
}

#[test]
fn what_published_files_leave_out() {
    let mut config = fixture("checkpoints/q2-a-v5/config.json");
    for key in ["hidden_act", "in_chans", "in_channels", "spatial_merge_size", "temporal_patch_size", "rope_parameters"] {
        config["vision_config"].as_object_mut().unwrap().remove(key).unwrap();
    }
    config.as_object_mut().unwrap().remove("architectures");
    assert_eq!(read(&config).unwrap(), read(&fixture("checkpoints/q2-a/config.json")).unwrap());
    // The 7B and the 8B have a head.
    for name in ["q2-a", "q3-a"] {
        let mut config = fixture(&format!("checkpoints/{name}-v5/config.json"));
        config.as_object_mut().unwrap().remove("tie_word_embeddings");
        config["text_config"].as_object_mut().unwrap().remove("tie_word_embeddings");
        assert!(!read(&config).unwrap().decoder.tied_head);
        config["text_config"]["tie_word_embeddings"] = true.into();
        assert!(read(&config).unwrap().decoder.tied_head);
    }
}

#[test]
fn values_that_change_the_computation_are_refused_by_key() {
    let cases: [(&str, &str, Value, &[&str]); 35] = [
        ("q2-a", "/hidden_act", "gelu".into(), &["`hidden_act` is \"gelu\"", "\"silu\""]),
        ("q3-a", "/text_config/hidden_act", "gelu".into(), &["`text_config.hidden_act`"]),
        ("q3-a", "/text_config/attention_bias", true.into(), &["`text_config.attention_bias` is true", "false"]),
        ("q2-a", "/use_sliding_window", true.into(), &["`use_sliding_window` is true"]),
        ("q3-a", "/text_config/num_experts", 8.into(), &["num_experts", "8"]),
        ("q2-a-v5", "/text_config/layer_types", json!(["full_attention", "sliding_attention"]), &["layer_types", "sliding_attention"]),
        ("q2-a", "/rope_scaling/type", "yarn".into(), &["`rope_scaling.type` is \"yarn\"", "mrope"]),
        ("q3-a", "/text_config/rope_scaling/rope_type", "linear".into(), &["`text_config.rope_scaling.rope_type`"]),
        ("q3-a-v5", "/text_config/rope_parameters/rope_type", "dynamic".into(), &["`text_config.rope_parameters.rope_type`"]),
        ("q3-a", "/text_config/rope_scaling/mrope_interleaved", false.into(), &["mrope_interleaved", "false"]),
        ("q2-a", "/rope_scaling/mrope_interleaved", true.into(), &["mrope_interleaved", "true"]),
        ("q2-a", "/rope_scaling/mrope_section", json!([2, 3]), &["mrope_section", "[2,3]", "three numbers"]),
        ("q2-a", "/rope_scaling/mrope_section", json!([2, 3, 4]), &["sections", "add up to head_dim / 2 = 8"]),
        ("q2-a", "/rope_scaling/mrope_section", Value::Null, &["missing field `rope_scaling.mrope_section`"]),
        ("q2-a", "/rope_scaling", Value::Null, &["rope_scaling", "absent"]),
        ("q2-a-v5", "/text_config/rope_theta", json!(1e4), &["rope_parameters.rope_theta", "1000000", "10000"]),
        ("q2-a", "/rope_theta", Value::Null, &["missing field `rope_theta`"]),
        ("q3-a", "/text_config/partial_rotary_factor", json!(0.5), &["partial_rotary_factor", "0.5"]),
        ("q2-a", "/num_attention_heads", 7.into(), &["`num_attention_heads` is 7", "divisor of hidden_size = 192"]),
        ("q2-a", "/num_key_value_heads", 5.into(), &["kv_heads", "5"]),
        ("q2-a", "/hidden_size", 0.into(), &["`hidden_size` is 0", "a positive integer"]),
        ("q2-a", "/hidden_size", Value::Null, &["missing field `hidden_size`"]),
        ("q3-a", "/text_config/head_dim", Value::Null, &["missing field `text_config.head_dim`"]),
        ("q3-a", "/text_config/tie_word_embeddings", false.into(), &["`text_config.tie_word_embeddings` is false", "true"]),
        ("q2-a", "/vision_config", Value::Null, &["missing field `vision_config`"]),
        ("q2-a", "/vision_config/temporal_patch_size", 1.into(), &["`vision_config.temporal_patch_size` is 1", "expected 2"]),
        ("q2-a", "/vision_config/in_chans", 4.into(), &["`vision_config.in_chans` is 4", "expected 3"]),
        ("q2-a", "/vision_config/hidden_size", 256.into(), &["`vision_config.hidden_size` is 256", "192"]),
        ("q2-a", "/vision_config/mlp_ratio", json!(-1.0), &["`vision_config.mlp_ratio` is -1"]),
        ("q2-a", "/vision_config/hidden_act", "relu".into(), &["`vision_config.hidden_act` is \"relu\"", "quick_gelu"]),
        ("q3-a", "/vision_config/out_hidden_size", 64.into(), &["`vision_config.out_hidden_size` is 64", "96"]),
        ("q3-a", "/vision_config/num_position_embeddings", 143.into(), &["`vision_config.num_position_embeddings` is 143", "square"]),
        ("q3-a", "/vision_config/deepstack_visual_indexes", json!([3, 1]), &["deepstack", "[3, 1]"]),
        ("q3-a", "/vision_config/deepstack_visual_indexes", "all".into(), &["`vision_config.deepstack_visual_indexes`"]),
        ("q3-a", "/image_token_id", Value::Null, &["missing field `image_token_id`"]),
    ];
    for (name, pointer, value, parts) in cases {
        let mut config = fixture(&format!("checkpoints/{name}/config.json"));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let error = read(&config).expect_err(pointer);
        for part in parts {
            assert!(error.contains(part), "{pointer}: `{part}` is not in: {error}");
        }
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (architecture, part) in [
        ("Qwen3VLMoeForConditionalGeneration", "a mixture of experts"),
        ("Qwen3_5ForConditionalGeneration", "Qwen3.5"),
        ("Qwen2_5OmniModel", "Qwen-Omni"),
        ("Qwen2ForCausalLM", "Qwen2ForCausalLM"),
        ("LlavaForConditionalGeneration", "LlavaForConditionalGeneration"),
    ] {
        let mut config = fixture("checkpoints/q2-a/config.json");
        config["architectures"] = json!([architecture]);
        let error = read(&config).unwrap_err();
        for part in [architecture, part, "Qwen3VLForConditionalGeneration"] {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    let error = read(&json!({"model_type": "qwen3_vl_moe"})).unwrap_err();
    assert!(error.contains("qwen3_vl_moe (a mixture of experts)"), "{error}");
    assert!(read(&json!([1])).unwrap_err().contains("unknown"));
}

/// The sizes of Qwen3-VL-32B and Qwen2-VL-72B.
#[test]
fn large_models_are_refused_by_their_size() {
    let mut config = fixture("facts/Qwen3-VL-4B-Instruct.config.json");
    for (key, value) in [("hidden_size", 5120), ("num_hidden_layers", 64), ("num_attention_heads", 64), ("intermediate_size", 25_600)] {
        config["text_config"][key] = value.into();
    }
    config["vision_config"]["out_hidden_size"] = 5120.into();
    let error = read(&config).unwrap_err();
    assert!(error.contains("32.") && error.contains("billion parameters") && error.contains("Qwen3-VL-2B"), "{error}");

    let mut config = fixture("facts/Qwen2-VL-2B-Instruct.config.json");
    let large = [
        ("hidden_size", 8192),
        ("num_hidden_layers", 80),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 8),
        ("intermediate_size", 29_568),
    ];
    for (key, value) in large {
        config[key] = value.into();
    }
    config["vision_config"]["hidden_size"] = 8192.into();
    assert!(read(&config).unwrap_err().contains("billion parameters"));
}

/// The 7B and the 8B, by their known sizes.
#[test]
fn models_with_a_head_are_read() {
    let mut config = fixture("facts/Qwen3-VL-4B-Instruct.config.json");
    for (key, value) in [("hidden_size", 4096), ("intermediate_size", 12_288)] {
        config["text_config"][key] = value.into();
    }
    (config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]) = (false.into(), false.into());
    for (key, value) in [("out_hidden_size", 4096), ("hidden_size", 1152), ("depth", 27), ("intermediate_size", 4304)] {
        config["vision_config"][key] = value.into();
    }
    config["vision_config"]["deepstack_visual_indexes"] = json!([8, 16, 24]);
    let config = read(&config).unwrap();
    assert_eq!((config.vision.head_dim(), config.decoder.tied_head), (72, false));
    let weights: usize = tensor_table(&config).iter().map(|spec| spec.shape[0] * spec.shape[1]).sum();
    assert_eq!((weights as f64 / 1e7).round() / 100.0, 8.77);
}
