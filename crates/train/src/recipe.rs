//! Recipes of training runs, from JSON files or built in.

use anyhow::{Context, Result, ensure};
use qwen_vl_format::QwenVlConfig;
use qwen_vl_world::World;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Recipe of a whole run. The recipe, the version of this program and the device determine every weight of the result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the model.
    pub name: String,
    /// Seed of the weights and samples.
    pub seed: u64,
    /// Name of the world, `small` or `full` (see `qwen_vl_world::World`).
    pub world: String,
    /// Sizes of the model.
    pub model: Geometry,
    /// Stages, in order.
    pub stages: Vec<StageRecipe>,
}

/// Sizes of the model, with the names of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub seq_length: usize,
    pub visual: VisualGeometry,
}

/// Sizes of the vision tower.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisualGeometry {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp_ratio: f64,
    pub patch_size: usize,
    pub n_queries: usize,
}

/// One stage of the paper's section 3, or the text-only training before it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecipe {
    /// Name of the stage, also part of its folder's name.
    pub name: String,
    /// Kind of the samples.
    pub data: qwen_vl_world::Stage,
    /// Second kind of samples, and its share.
    #[serde(default)]
    pub mix: Option<(qwen_vl_world::Stage, f64)>,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Least and greatest number of objects in a picture. The default is that of the recipe's world.
    #[serde(default)]
    pub objects: Option<[usize; 2]>,
    /// Frequency of texts among the objects, relative to the world's pictograms and shapes. The default is that of the recipe's world.
    /// There are many words, so each word is rare.
    #[serde(default)]
    pub texts: Option<f32>,
    /// Prefixes of the names of the tensors that are not trained.
    pub frozen: Vec<String>,
    /// Number of steps of the optimiser.
    pub steps: usize,
    /// Number of rows of a batch.
    pub rows: usize,
    /// Length of a row, in tokens. Several samples share a row.
    pub row_length: usize,
    /// Peak learning rate.
    pub peak_rate: f64,
    /// Last learning rate.
    pub min_rate: f64,
    /// Number of steps of linear warm-up.
    pub warmup: usize,
    /// Learning rate of the vision tower and the resampler, as a factor of the decoder's.
    #[serde(default = "one")]
    pub visual_rate: f64,
    /// Learning rate of a block of the vision tower, as a factor of that of the block above.
    #[serde(default = "one")]
    pub layer_decay: f64,
}

fn one() -> f64 {
    1.0
}

/// Built-in recipes: name and JSON.
const BUILT_IN: [(&str, &str); 5] = [
    ("nano", include_str!("../recipes/nano.json")),
    ("queries-64", include_str!("../recipes/ablations/queries-64.json")),
    ("queries-16", include_str!("../recipes/ablations/queries-16.json")),
    ("queries-9", include_str!("../recipes/ablations/queries-9.json")),
    ("tower-frozen", include_str!("../recipes/ablations/tower-frozen.json")),
];

impl Recipe {
    /// Reads a built-in recipe by its name, or a file.
    pub fn read(name: &str) -> Result<Self> {
        let json = match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, json)) => (*json).to_owned(),
            None => std::fs::read_to_string(Path::new(name)).with_context(|| {
                format!("`{name}` is neither a built-in recipe ({}) nor a readable file", BUILT_IN.map(|(name, _)| name).join(", "))
            })?,
        };
        let recipe: Self = serde_json::from_str(&json).with_context(|| format!("recipe {name}"))?;
        ensure!(!recipe.stages.is_empty(), "recipe {name}: `stages` is empty, expected one stage or more");
        recipe.world()?;
        for stage in &recipe.stages {
            recipe.config(stage.image_size).with_context(|| format!("recipe {name}, stage {}", stage.name))?;
        }
        Ok(recipe)
    }

    /// Returns the world that the samples come from.
    pub fn world(&self) -> Result<World> {
        let world = match self.world.as_str() {
            "small" => World::small(),
            "full" => World::full(),
            other => anyhow::bail!("`world` is `{other}`, expected `small` or `full`"),
        };
        // Pictures are drawn at the largest size. The model's own resize makes the lower resolutions from them.
        let largest = self.stages.iter().map(|stage| stage.image_size).max().unwrap_or(world.side);
        Ok(world.with_side(largest))
    }

    /// Returns the world with the settings of a stage.
    pub fn world_of(&self, stage: &StageRecipe) -> Result<World> {
        let mut world = self.world()?;
        if let Some([least, most]) = stage.objects {
            world.objects_per_scene = least..=most;
        }
        if let Some(texts) = stage.texts {
            world.texts = texts;
        }
        Ok(world)
    }

    /// Builds the model's `config.json`. `image_size` is the side of the pictures in pixels.
    pub fn config_json(&self, image_size: usize) -> Result<serde_json::Value> {
        let specials = qwen_vl_world::tokenizer(self.model.visual.n_queries)?.special();
        let Geometry { hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, seq_length, visual } = &self.model;
        // The vocabulary is padded, like that of the published model.
        let vocab_size = (specials.img_start as usize + 3).next_multiple_of(32);
        Ok(serde_json::json!({
            "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "_name_or_path": self.name,
            "vocab_size": vocab_size, "hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads, "kv_channels": hidden_size / num_attention_heads,
            "intermediate_size": intermediate_size, "layer_norm_epsilon": 1e-6, "seq_length": seq_length,
            "max_position_embeddings": 4 * seq_length, "rotary_emb_base": 10000, "rotary_pct": 1.0,
            "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true, "scale_attn_weights": true,
            "tie_word_embeddings": false, "tokenizer_type": "QWenTokenizer", "torch_dtype": "float16", "use_cache": true,
            "visual": {
                "image_size": image_size, "patch_size": visual.patch_size, "width": visual.width, "layers": visual.layers,
                "heads": visual.heads, "mlp_ratio": visual.mlp_ratio, "output_dim": hidden_size,
                "image_start_id": specials.img_start, "n_queries": visual.n_queries
            }
        }))
    }

    /// Returns the configuration that [`Self::config_json`] describes.
    pub fn config(&self, image_size: usize) -> Result<QwenVlConfig> {
        Ok(QwenVlConfig::from_hf_json(&self.config_json(image_size)?.to_string())?)
    }
}

impl StageRecipe {
    /// True if a tensor is trained in this stage.
    pub fn trains(&self, name: &str) -> bool {
        !qwen_vl_reference::frozen_always(name) && !self.frozen.iter().any(|part| name.starts_with(part.as_str()))
    }

    /// Returns the learning rate of a step: linear warm-up, then a cosine from the peak to the minimum.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let part = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.min_rate + (self.peak_rate - self.min_rate) * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
    }

    /// Returns the factor of a tensor's learning rate: `visual_rate` for the visual part, with layer-wise decay down the vision tower.
    pub fn rate_factor(&self, name: &str, layers: usize) -> f64 {
        let Some(part) = name.strip_prefix("transformer.visual.") else { return 1.0 };
        let below_top = match part.strip_prefix("transformer.resblocks.") {
            Some(block) => layers - block.split('.').next().and_then(|index| index.parse::<usize>().ok()).unwrap_or(0),
            None if ["conv1.", "positional_embedding", "ln_pre."].iter().any(|low| part.starts_with(low)) => layers + 1,
            None => 0,
        };
        self.visual_rate * self.layer_decay.powi(below_top as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_recipes_are_valid() {
        for (name, _) in BUILT_IN {
            Recipe::read(name).unwrap();
        }
    }

    #[test]
    fn rates() {
        let mut stage = Recipe::read("nano").unwrap().stages.remove(0);
        (stage.steps, stage.warmup, stage.peak_rate, stage.min_rate, stage.layer_decay) = (110, 10, 1.0, 0.1, 0.5);
        assert_eq!(stage.rate(0), 0.1);
        assert_eq!(stage.rate(9), 1.0);
        assert!((stage.rate(60) - 0.55).abs() < 1e-12);
        assert!((stage.rate(110) - 0.1).abs() < 1e-12);
        let factor = |name: &str| stage.rate_factor(&format!("transformer.{name}"), 4);
        assert_eq!(factor("h.0.ln_1.weight"), 1.0);
        assert_eq!(factor("visual.attn_pool.query"), 1.0);
        assert_eq!(factor("visual.transformer.resblocks.3.ln_1.weight"), 0.5);
        assert_eq!(factor("visual.transformer.resblocks.0.ln_1.weight"), 0.0625);
        assert_eq!(factor("visual.conv1.weight"), 0.03125);
    }
}
