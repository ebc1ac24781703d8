//! Web checkpoints for the browser tests and for the demo, made by our own converter.

use crate::process::{command, root, run, target_dir};
use crate::scripted;
use anyhow::{Context, Result, ensure};
use quantize::{Options, SchemeName, WriteOptions};
use qwen_vl_format::manifest::{MANIFEST_FILE, Manifest};
use qwen_vl_testkit::golden::{GoldenSet, fixtures};
use qwen_vl_testkit::synthetic::write_synthetic_checkpoint;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the checkpoints of the browser tests are.
pub fn test_folder() -> PathBuf {
    target_dir().join("browser-tests")
}

/// Converts every golden model: `NAME-f32`, `NAME-q4`, and `NAME-q4-dequantized`, whose f32 weights are exactly those that the
/// 4-bit codes stand for. `golden.json` says where their cases are. `scripted` is a model whose answer is known.
pub fn for_tests() -> Result<()> {
    let folder = test_folder();
    fs::create_dir_all(&folder)?;
    let sets = GoldenSet::all();
    for set in &sets {
        let out = |scheme: &str| folder.join(format!("{}-{scheme}", set.name));
        convert(&set.checkpoint(), &out("f32"), SchemeName::F32)?;
        convert(&set.checkpoint(), &out("q4"), SchemeName::Q4)?;
        quantize::dequantized(&out("q4"), &out("q4-dequantized"), &overwrite())?;
    }
    let index: Vec<_> = sets.iter().map(|set| json!({ "name": set.name, "root": set.root, "golden": set.golden() })).collect();
    fs::write(folder.join("golden.json"), serde_json::to_string_pretty(&index)?)?;
    println!("{} golden models: {}", sets.len(), sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>().join(", "));

    random(&folder.join("random"))?;
    convert(&folder.join("random"), &folder.join("scripted"), SchemeName::F32)?;
    scripted::rewrite(&folder.join("scripted"))
}

/// The folder or address of the model that the demo shows: the given one, converted if it is a Hugging Face folder; otherwise the
/// embedded model, or a small random one while there is none.
pub fn for_demo(given: Option<&str>) -> Result<String> {
    let folder = target_dir().join("demo");
    fs::create_dir_all(&folder)?;
    let Some(given) = given else {
        let embedded = root().join("models/nano");
        if embedded.join(MANIFEST_FILE).is_file() {
            return Ok(embedded.display().to_string());
        }
        println!("there is no models/nano: a small model with random weights stands in for it, and answers with random words");
        let (source, out) = (folder.join("random"), folder.join("random-q4"));
        random(&source)?;
        convert(&source, &out, SchemeName::Q4)?;
        // Random words do not come to an end by themselves.
        let path = out.join(MANIFEST_FILE);
        let mut manifest = Manifest::from_json(&fs::read_to_string(&path)?)?;
        manifest.generation.max_new_tokens = 32;
        fs::write(&path, serde_json::to_string(&manifest)?)?;
        return Ok(out.display().to_string());
    };
    if given.starts_with("http://") || given.starts_with("https://") {
        return Ok(given.to_owned());
    }
    let path = fs::canonicalize(given).with_context(|| format!("--model {given}"))?;
    if path.join(MANIFEST_FILE).is_file() {
        return Ok(path.display().to_string());
    }
    ensure!(
        path.join("config.json").is_file(),
        "--model {given}: neither a web checkpoint (manifest.json) nor a Hugging Face folder (config.json)"
    );
    let name = path.file_name().context("--model is a root")?.to_string_lossy().into_owned();
    let out = folder.join(format!("{name}-q4"));
    // Optimised code takes a while to compile, which a large checkpoint is worth.
    run(command("cargo run --quiet --release --package quantize -- --force").arg(&path).arg(&out))?;
    Ok(out.display().to_string())
}

fn convert(source: &Path, out: &Path, scheme: SchemeName) -> Result<()> {
    let mut options = Options::new(source, out).scheme(scheme);
    options.write = overwrite();
    quantize::convert(&options, &mut |_| ())?;
    Ok(())
}

fn overwrite() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.force = true;
    options
}

/// A small model of random weights: the published shapes of picture and resampler, everything else little. Its vocabulary is the first
/// 4096 ranks of the published one.
fn random(folder: &Path) -> Result<()> {
    let config = json!({
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": 4352, "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "kv_channels": 32, "intermediate_size": 256, "layer_norm_epsilon": 1e-6, "seq_length": 2048,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true,
        "scale_attn_weights": true, "tie_word_embeddings": false,
        "visual": {
            "image_size": 448, "patch_size": 14, "width": 64, "layers": 2, "heads": 2, "mlp_ratio": 4.0, "output_dim": 128,
            "image_start_id": 4310
        }
    });
    let vocabulary = fs::read(fixtures().join("tokenizer/qwen.tiktoken"))?;
    write_synthetic_checkpoint(&config, 1, &vocabulary, folder)
}
