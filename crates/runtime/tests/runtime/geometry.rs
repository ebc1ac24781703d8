//! Memory and launches of the published geometry, without its weights.

use qwen_vl_format::{ModelConfig, QwenVlConfig};
use qwen_vl_runtime::{Backend, Budget, Gpu, GpuOptions, KvFormat, KvReuse, Model, ModelLoader, ModelOptions, Precision, synthetic};
use std::ops::ControlFlow;

fn published() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["QWenLMHeadModel"], "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128,
        "layer_norm_epsilon": 1e-6, "no_bias": true, "num_attention_heads": 32, "num_hidden_layers": 32,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": true, "seq_length": 2048,
        "tie_word_embeddings": false, "use_dynamic_ntk": true, "use_logn_attn": true, "vocab_size": 151936,
        "visual": {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231,
                   "output_dim": 4096, "patch_size": 14, "width": 1664}
    })
}

/// A token reads at least 7.1 G weights of layers and head at 4.5 bits. A format or a plan that reads more fails here.
#[test]
fn the_published_model_reads_four_gigabytes_a_token() {
    let manifest = synthetic::manifest(QwenVlConfig::from_hf_json(&published().to_string()).unwrap().model());
    let weights = Budget::decode_bytes(&manifest, 0, KvFormat::F16);
    let matrices: u64 = 32 * (4 * 4096 * 4096 + 3 * 11_008 * 4096) + 151_936 * 4096;
    let tables: u64 = 32 * (3 + 2) * 4096 * 4;
    assert_eq!(weights, matrices * 9 / 16 + tables);
    // Keys and values in f16: half a MiB a token.
    assert_eq!(Budget::decode_bytes(&manifest, 2048, KvFormat::F16) - weights, 2048 << 19);
    let budget = Budget::new(&manifest, &ModelOptions { kv: KvFormat::F16, ..Default::default() }, Precision::F32);
    assert!((5_100_000_000..5_600_000_000).contains(&budget.weights), "{budget:?}");
    assert_eq!(budget.kv_cache, 2048 << 19);
    assert!(budget.scratch < 200 << 20, "{budget:?}");
}

/// Sizes are computed in 64 bits: in 32 a cache of 262,144 positions would wrap to nothing.
#[test]
fn the_budget_of_a_long_context_does_not_wrap() {
    let manifest = synthetic::manifest(QwenVlConfig::from_hf_json(&published().to_string()).unwrap().model());
    let options = ModelOptions { context_length: 262_144, ..Default::default() };
    let budget = Budget::new(&manifest, &options, Precision::F32);
    assert_eq!((budget.kv_cache, budget.largest_binding), (64 << 32, 1 << 32));
    assert!(budget.total() > budget.kv_cache + budget.weights);
    // The longest context that options allow, with the largest numbers there are.
    let longest = ModelOptions { context_length: i32::MAX as usize, prefill_chunk: i32::MAX as usize, ..options }.checked().unwrap();
    assert_eq!(Budget::new(&manifest, &longest, Precision::F32).kv_cache, 64 * (i32::MAX as u64 * 4096 * 4));
}

#[test]
fn the_budget_names_the_largest_binding() {
    let manifest = synthetic::manifest(small());
    let largest =
        |context_length| Budget::new(&manifest, &ModelOptions { context_length, ..Default::default() }, Precision::F32).largest_binding;
    // A picture's patches, or the keys of a layer.
    assert_eq!(largest(40), 1024 * 588_u64.next_multiple_of(32) * 4);
    assert_eq!(largest(100_000), 100_000 * 128 * 4);
}

fn small() -> ModelConfig {
    let mut config = published();
    for (key, value) in [("hidden_size", 128), ("intermediate_size", 96), ("kv_channels", 32), ("num_attention_heads", 4)] {
        config[key] = value.into();
    }
    (config["num_hidden_layers"], config["vocab_size"]) = (2.into(), 576.into());
    config["visual"] = serde_json::json!({"heads": 2, "image_size": 448, "image_start_id": 534, "layers": 1, "mlp_ratio": 2.0,
        "output_dim": 128, "patch_size": 14, "width": 32});
    QwenVlConfig::from_hf_json(&config.to_string()).unwrap().model()
}

#[test]
fn all_kernels_of_a_model_are_known_before_a_byte_is_allocated() {
    let gpu = pollster::block_on(Gpu::request(GpuOptions::default())).unwrap();
    let manifest = synthetic::manifest(QwenVlConfig::from_hf_json(&published().to_string()).unwrap().model());
    Model::note_kernels(&gpu, &manifest, ModelOptions::default()).unwrap();
    assert!(gpu.uncompiled().len() > 5);
    assert_eq!(gpu.allocated_bytes(), 0);

    let manifest = synthetic::manifest(small());
    Model::note_kernels(&gpu, &manifest, ModelOptions::default()).unwrap();
    let noted = gpu.pipelines();
    let loader = ModelLoader::new(gpu, manifest, ModelOptions::default()).unwrap();
    let gpu = loader.model().unwrap().gpu();
    assert_eq!(gpu.pipelines(), noted);
    assert!(gpu.allocated_bytes() > 0);
}

#[test]
fn a_model_of_random_weights_runs_within_its_budget() {
    let gpu = pollster::block_on(Gpu::request(GpuOptions::default())).unwrap();
    let options = ModelOptions { context_length: 40, ..Default::default() };
    let mut model = pollster::block_on(synthetic::model(gpu, small(), options)).unwrap();
    assert_eq!(model.gpu().allocated_bytes(), Budget::new(model.manifest(), &options, model.gpu().kernels().precision).total());
    let _ = pollster::block_on(model.prefill(&[5, 6, 7], &[], KvReuse::Exact, &mut |_| ControlFlow::Continue(()), None)).unwrap();
    let logits = pollster::block_on(model.logits()).unwrap();
    // Logits as large as in a trained model, so that the measurement is not a special case.
    let size = (logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32).sqrt();
    assert!((0.1..100.0).contains(&size), "logits of size {size}");
}
