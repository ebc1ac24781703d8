//! Loads the model from a web checkpoint. The loader restores the original's layouts, so that these modules compute with the same weights
//! as the runtime, also in 4 bits.
//!
//! Two results of the converter cannot be reversed: position tables are already resized to the picture's grid, and the resampler's queries
//! are stored as `ln_q(query) + pos_embed`. The model uses them directly: the tables without a resize, and the queries as `pos_embed` under
//! an `ln_q` of zeros.

use crate::QwenVl;
use crate::layers::zeros;
use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use qwen_vl_format::QwenVlConfig;

impl QwenVl {
    /// Opens the folder of a web checkpoint (`crates/format/FORMAT.md`).
    #[cfg(feature = "files")]
    pub fn open_web(folder: &std::path::Path, device: &Device) -> Result<Self> {
        let checkpoint = quantize::WebCheckpoint::open(folder)?;
        let config = checkpoint.manifest().config.qwen_vl();
        let config =
            config.with_context(|| format!("{} is not a Qwen-VL of 2023, the only generation of the reference", folder.display()))?;
        Self::from_web(&config, &|name| checkpoint.tensor(name), device)
    }

    /// Builds the model from a web checkpoint. `tensor` returns the decoded values of a tensor by its name in that checkpoint.
    pub fn from_web(config: &QwenVlConfig, tensor: &dyn Fn(&str) -> Result<Vec<f32>>, device: &Device) -> Result<Self> {
        let mut model = Self::zeros(config, device);
        let visual = &mut model.transformer.visual;
        visual.positional_embedding = zeros([config.visual.patches(), config.visual.width], device);
        visual.resize = None;
        let keys = TensorData::new(tensor("resampler.key_position")?, [config.visual.patches(), config.hidden_size]);
        visual.attn_pool.key_places = Some(Tensor::from_data(keys, device));

        let mut weights = model.weights();
        for (name, weight) in &mut weights {
            weight.values = original(tensor, config, name, &weight.shape).with_context(|| format!("tensor `{name}`"))?;
        }
        model.load(weights)
    }
}

/// Restores a tensor of the original from the tensors of the web checkpoint.
fn original(tensor: &dyn Fn(&str) -> Result<Vec<f32>>, config: &QwenVlConfig, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let (module, leaf) = name.rsplit_once('.').context("a name has a module")?;
    let get = |module: &str| tensor(&format!("{module}.{leaf}"));
    if let Some(part) = module.strip_prefix("transformer.visual.transformer.resblocks.") {
        let (index, part) = part.split_once('.').context("a block has a number")?;
        let block = format!("vision.blocks.{index}");
        return match part {
            "attn.in_proj" => Ok(per_head(&get(&format!("{block}.attn.qkv"))?, config.visual.heads)),
            "attn.out_proj" => get(&format!("{block}.attn.out")),
            "mlp.c_fc" => get(&format!("{block}.mlp.fc1")),
            "mlp.c_proj" => get(&format!("{block}.mlp.fc2")),
            norm => get(&format!("{block}.{norm}")),
        };
    }
    if let Some(part) = module.strip_prefix("transformer.h.") {
        let (index, part) = part.split_once('.').context("a layer has a number")?;
        let block = format!("decoder.layers.{index}");
        return match part {
            "ln_1" => get(&format!("{block}.attn_norm")),
            "attn.c_attn" => get(&format!("{block}.attn.qkv")),
            "attn.c_proj" => get(&format!("{block}.attn.out")),
            "ln_2" => get(&format!("{block}.mlp_norm")),
            "mlp.w1" => Ok(every_second(&get(&format!("{block}.mlp.gate_up"))?, shape[1], 0)),
            "mlp.w2" => Ok(every_second(&get(&format!("{block}.mlp.gate_up"))?, shape[1], 1)),
            _ => get(&format!("{block}.mlp.down")),
        };
    }
    match name {
        "transformer.visual.conv1.weight" => tensor("vision.patch_embedding.weight"),
        "transformer.visual.positional_embedding" => tensor("vision.position_embedding"),
        "transformer.visual.attn_pool.pos_embed" => tensor("resampler.query"),
        "transformer.visual.proj" => Ok(transposed(&tensor("resampler.proj.weight")?, shape[0])),
        "transformer.wte.weight" => tensor("decoder.embedding.weight"),
        "transformer.ln_f.weight" => tensor("decoder.norm.weight"),
        "lm_head.weight" => tensor("head.weight"),
        _ => match module {
            "transformer.visual.ln_pre" => get("vision.ln_pre"),
            "transformer.visual.ln_post" => get("resampler.ln_post"),
            "transformer.visual.attn_pool.kv_proj" => get("resampler.kv_proj"),
            "transformer.visual.attn_pool.ln_kv" => get("resampler.ln_kv"),
            "transformer.visual.attn_pool.attn.out_proj" => get("resampler.attn.out"),
            "transformer.visual.attn_pool.attn" => {
                let leaf = leaf.strip_prefix("in_proj_").context("a stacked projection")?;
                let thirds: Result<Vec<_>> = ["q", "k", "v"].iter().map(|part| tensor(&format!("resampler.attn.{part}.{leaf}"))).collect();
                Ok(thirds?.concat())
            }
            // `query` and `ln_q` are zeros: `pos_embed` contains the finished queries.
            _ => Ok(vec![0.0; shape.iter().product()]),
        },
    }
}

/// Reorders rows of any width: `[all q; all k; all v]` → `[q, k, v of head 0; q, k, v of head 1; …]`.
fn per_head(stacked: &[f32], heads: usize) -> Vec<f32> {
    let block = stacked.len() / (3 * heads);
    let places = (0..heads).flat_map(|head| (0..3).map(move |part| part * heads + head));
    places.flat_map(|place| stacked[place * block..][..block].iter().copied()).collect()
}

/// Returns the rows `first`, `first + 2`, ….
fn every_second(rows: &[f32], cols: usize, first: usize) -> Vec<f32> {
    rows.chunks_exact(cols).skip(first).step_by(2).flatten().copied().collect()
}

/// Transposes a matrix: `[rows, cols]` → `[cols, rows]`.
fn transposed(matrix: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| matrix.iter().skip(col).step_by(cols).copied()).collect()
}
