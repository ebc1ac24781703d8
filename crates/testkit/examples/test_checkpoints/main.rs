//! Writes the web checkpoints of the browser tests: `test_checkpoints FOLDER`.
//!
//! For every golden model `NAME`: `NAME-f32`, `NAME-q4`, and `NAME-q4-dequantized`, whose f32 weights are the values that the 4-bit codes
//! stand for. For those of the later generations: `NAME-f32`. `scripted`, `scripted-q2`, `scripted-q25` and `scripted-q3` are models whose answer is known.
//! `golden.json` lists the golden models, and those that are not on this machine.

mod scripted;

use anyhow::{Context, Result, bail};
use quantize::{Options, SchemeName, WriteOptions};
use qwen_vl_testkit::family::FamilySet;
use qwen_vl_testkit::golden::{GoldenSet, fixtures};
use qwen_vl_testkit::synthetic::write_synthetic_checkpoint;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder] = arguments.as_slice() else { bail!("usage: test_checkpoints FOLDER") };
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;

    let sets = GoldenSet::all();
    for set in &sets {
        let out = |scheme: &str| folder.join(format!("{}-{scheme}", set.name));
        convert(&set.checkpoint(), &out("f32"), SchemeName::F32)?;
        convert(&set.checkpoint(), &out("q4"), SchemeName::Q4)?;
        quantize::dequantized(&out("q4"), &out("q4-dequantized"), &overwrite())?;
    }
    let families = FamilySet::all();
    for set in &families {
        convert(&set.checkpoint(), &folder.join(format!("{}-f32", set.name)), SchemeName::F32)?;
    }
    random(&folder.join("random"))?;
    convert(&folder.join("random"), &folder.join("scripted"), SchemeName::F32)?;
    scripted::rewrite(&folder.join("scripted"), scripted::QWEN_VL)?;
    for (name, script) in [("q2", scripted::QWEN2_VL), ("q25", scripted::QWEN2_5_VL), ("q3", scripted::QWEN3_VL)] {
        let set = families.iter().find(|set| set.name == format!("{name}-a")).with_context(|| format!("no fixture {name}-a"))?;
        let out = folder.join(format!("scripted-{name}"));
        convert(&set.checkpoint(), &out, SchemeName::F32)?;
        scripted::rewrite(&out, script)?;
    }

    let found: Vec<_> = sets.iter().map(|set| json!({ "name": set.name, "root": set.root, "golden": set.golden() })).collect();
    let later: Vec<_> = families.iter().map(|set| json!({ "name": set.name, "root": set.root })).collect();
    let index = json!({ "sets": found, "families": later, "missing": GoldenSet::missing() });
    fs::write(folder.join("golden.json"), serde_json::to_string_pretty(&index)?)?;
    println!("golden models: {}", sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>().join(", "));
    Ok(())
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

/// Writes a small model of random weights: pictures and the resampler have the published shapes, everything else is small. Its vocabulary is
/// the first 4096 ranks of the published one.
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
