//! What is trained, and how: read from a JSON file, or one of those built in.

use anyhow::{Context, Result, ensure};
use qwen_vl_format::ModelConfig;
use qwen_vl_world::World;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A whole run. Together with this program's version it decides every weight of the result on one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the model.
    pub name: String,
    /// Of weights and samples.
    pub seed: u64,
    /// `small` or `full`: see `qwen_vl_world::World`.
    pub world: String,
    /// Geometry.
    pub model: Geometry,
    /// Stages in order.
    pub stages: Vec<StageRecipe>,
}

/// Sizes of the model, by the words of `config.json`.
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
    /// Name, also of its folder.
    pub name: String,
    /// What it is trained on.
    pub data: qwen_vl_world::Stage,
    /// Samples of another kind mixed in, and the share of them.
    #[serde(default)]
    pub mix: Option<(qwen_vl_world::Stage, f64)>,
    /// Side of the pictures, pixels.
    pub image_size: usize,
    /// Objects in a picture, at least and at most, if not as many as in the recipe's world.
    #[serde(default)]
    pub objects: Option<[usize; 2]>,
    /// How often an object is a text, relative to the world's pictograms and shapes, if not as often as in the recipe's world: there are
    /// many words, so each is rare.
    #[serde(default)]
    pub texts: Option<f32>,
    /// Parts that are not trained: beginnings of tensor names.
    pub frozen: Vec<String>,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Rows of a batch.
    pub rows: usize,
    /// Positions of a row; samples are packed into it.
    pub row_length: usize,
    /// Peak learning rate.
    pub peak_rate: f64,
    /// Last learning rate.
    pub min_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// The vision tower and the resampler learn by this factor slower than the decoder.
    #[serde(default = "one")]
    pub visual_rate: f64,
    /// Each block of the vision tower learns by this factor slower than the one above it.
    #[serde(default = "one")]
    pub layer_decay: f64,
}

fn one() -> f64 {
    1.0
}

/// The recipes that are built in.
const BUILT_IN: [(&str, &str); 5] = [
    ("nano", include_str!("../recipes/nano.json")),
    ("queries-64", include_str!("../recipes/ablations/queries-64.json")),
    ("queries-16", include_str!("../recipes/ablations/queries-16.json")),
    ("queries-9", include_str!("../recipes/ablations/queries-9.json")),
    ("tower-frozen", include_str!("../recipes/ablations/tower-frozen.json")),
];

impl Recipe {
    /// A built-in one by name, or else a file.
    pub fn read(name: &str) -> Result<Self> {
        let json = match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, json)) => (*json).to_owned(),
            None => std::fs::read_to_string(Path::new(name)).with_context(|| {
                format!("`{name}` is neither a built-in recipe ({}) nor a readable file", BUILT_IN.map(|(name, _)| name).join(", "))
            })?,
        };
        let recipe: Self = serde_json::from_str(&json).with_context(|| format!("recipe {name}"))?;
        ensure!(!recipe.stages.is_empty(), "recipe {name} has no stages");
        recipe.world()?;
        for stage in &recipe.stages {
            recipe.config(stage.image_size).with_context(|| format!("recipe {name}, stage {}", stage.name))?;
        }
        Ok(recipe)
    }

    /// The world that it is trained in.
    pub fn world(&self) -> Result<World> {
        let world = match self.world.as_str() {
            "small" => World::small(),
            "full" => World::full(),
            other => anyhow::bail!("there is no world `{other}`; there are small and full"),
        };
        // Drawn at the largest size; lower resolutions are made from that by the model's own resize.
        let largest = self.stages.iter().map(|stage| stage.image_size).max().unwrap_or(world.side);
        Ok(world.with_side(largest))
    }

    /// The world as a stage shows it.
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

    /// The `config.json` of its model for pictures of this size.
    pub fn config_json(&self, image_size: usize) -> Result<serde_json::Value> {
        let specials = qwen_vl_world::tokenizer(self.model.visual.n_queries)?.special();
        let Geometry { hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, seq_length, visual } = &self.model;
        // Padded, as the published one is.
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

    /// The same as read by everything else.
    pub fn config(&self, image_size: usize) -> Result<ModelConfig> {
        Ok(ModelConfig::from_hf_json(&self.config_json(image_size)?.to_string())?)
    }
}

impl StageRecipe {
    /// Whether a tensor learns in this stage.
    pub fn trains(&self, name: &str) -> bool {
        !qwen_vl_reference::frozen_always(name) && !self.frozen.iter().any(|part| name.starts_with(part.as_str()))
    }

    /// The learning rate of a step: linear warm-up, then a cosine from the peak to the minimum.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let part = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.min_rate + (self.peak_rate - self.min_rate) * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
    }

    /// By what a tensor's learning rate is multiplied: less for the visual part, and layer-wise decay down the vision tower.
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
