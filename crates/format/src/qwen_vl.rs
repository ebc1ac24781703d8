//! Sizes of the 2023 model, with the keys of its published `config.json`. Manifests of version 1 have them too.

use crate::config::{
    Activation, ConfigError, DecoderConfig, Family, MAX_HEAD_DIM, ModelConfig, ResamplerConfig, RotaryConfig, SUPPORTED, VisionConfig,
    check_bounds, unsupported,
};
use serde::{Deserialize, Serialize};

/// Width of one resampler head, rounded down. In no config key: `visual.py`, class `Resampler`, is built with `output_dim // 128` heads.
const RESAMPLER_HEAD_DIM: usize = 128;
/// Rows of the stored vision position table (16×16), whatever the image size: `visual.py`, `get_abs_pos`.
pub const POSITION_TABLE_SIDE: usize = 16;
/// LayerNorm epsilon of the whole visual part; `layer_norm_epsilon` of the config does not touch it.
pub const VISION_NORM_EPSILON: f32 = 1e-6;
/// Mean of each channel of a picture scaled to 0..1. In no config key: `visual.py`, class `VisionTransformer`.
pub const IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of each channel, from the same place as [`IMAGE_MEAN`].
pub const IMAGE_STD: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

fn default_queries() -> usize {
    256
}

/// The configuration of a Qwen-VL: the keys of the published `config.json` that the architecture depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QwenVlConfig {
    /// Rows of both embedding matrices (padded beyond the tokenizer's ids).
    pub vocab_size: usize,
    /// Width of the decoder.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads of the decoder (as many for keys and values).
    pub num_attention_heads: usize,
    /// Width of one attention head.
    pub kv_channels: usize,
    /// **Twice** the width of one MLP branch.
    pub intermediate_size: usize,
    /// Epsilon of the decoder's RMS norms.
    pub layer_norm_epsilon: f32,
    /// Trained context, tokens: dynamic NTK and log-n attention act beyond it.
    pub seq_length: usize,
    /// Base of the rotary frequencies before NTK.
    pub rotary_emb_base: f64,
    /// True if the rotary base grows with the prompt.
    pub use_dynamic_ntk: bool,
    /// True if queries beyond `seq_length` are scaled by the logarithm of their position.
    pub use_logn_attn: bool,
    /// The image side.
    pub visual: QwenVlVision,
}

/// The `visual` part of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QwenVlVision {
    /// Side of the square input picture, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of the vision tower.
    pub width: usize,
    /// Vision blocks.
    pub layers: usize,
    /// Attention heads of the vision tower.
    pub heads: usize,
    /// MLP width over tower width; the product is rounded down.
    pub mlp_ratio: f64,
    /// Width of the image features; equals `hidden_size`.
    pub output_dim: usize,
    /// Id of `<img>`; `</img>` and `<imgpad>` follow.
    pub image_start_id: u32,
    /// Queries of the resampler, and positions of a picture in the prompt. The published config does not have this key (always 256); it is an
    /// extension for small models.
    #[serde(default = "default_queries")]
    pub n_queries: usize,
}

impl QwenVlConfig {
    /// Reads the published `config.json`. Checks the architecture first, so that the config of another model is reported as such.
    pub fn from_hf_json(json: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        let architecture = value["architectures"][0].as_str();
        let model_type = value["model_type"].as_str();
        // Some scripts save `architectures` as null. The model type is `qwen` for text-only models too: `visual` distinguishes them.
        let published = architecture == Some("QWenLMHeadModel") || (architecture.is_none() && model_type == Some("qwen"));
        let architecture = architecture.or(model_type).unwrap_or("unknown");
        if !published {
            return Err(ConfigError::Architecture { found: architecture.to_owned(), supported: SUPPORTED });
        }
        if !value["visual"].is_object() {
            return Err(ConfigError::Architecture { found: format!("{architecture} without `visual`"), supported: SUPPORTED });
        }
        for (key, wanted) in [("no_bias", true), ("scale_attn_weights", true), ("tie_word_embeddings", false)] {
            if let Some(found) = value[key].as_bool().filter(|found| *found != wanted) {
                return Err(unsupported(key, found, wanted));
            }
        }
        if let Some(found) = value["rotary_pct"].as_f64().filter(|found| *found != 1.0) {
            return Err(unsupported("rotary_pct", found, 1.0));
        }
        let config: Self = serde_json::from_value(value)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks the relations between sizes that the architecture assumes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let vision = &self.visual;
        // With these bounds, the bytes of a row fit u32 (wasm32) and those of a tensor fit u64, even in a hostile file.
        check_bounds(&[
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("kv_channels", self.kv_channels, MAX_HEAD_DIM),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("seq_length", self.seq_length, 1 << 24),
            ("visual.image_size", vision.image_size, 1 << 13),
            ("visual.patch_size", vision.patch_size, 1 << 8),
            ("visual.width", vision.width, 1 << 14),
            ("visual.layers", vision.layers, 1 << 10),
            ("visual.heads", vision.heads, 1 << 10),
            ("visual.n_queries", vision.n_queries, 1 << 14),
        ])?;
        if self.kv_channels * self.num_attention_heads != self.hidden_size {
            return Err(unsupported(
                "kv_channels",
                self.kv_channels,
                format!("hidden_size / num_attention_heads = {}/{}", self.hidden_size, self.num_attention_heads),
            ));
        }
        if !self.kv_channels.is_multiple_of(8) {
            return Err(unsupported("kv_channels", self.kv_channels, format!("a multiple of 8, at most {MAX_HEAD_DIM}")));
        }
        if !self.intermediate_size.is_multiple_of(2) {
            return Err(unsupported("intermediate_size", self.intermediate_size, "an even number (it counts both MLP branches)"));
        }
        if vision.output_dim != self.hidden_size {
            return Err(unsupported("visual.output_dim", vision.output_dim, format!("hidden_size = {}", self.hidden_size)));
        }
        let resampler_heads = vision.resampler_heads();
        if resampler_heads == 0 || !vision.output_dim.is_multiple_of(resampler_heads) || !self.resampler_head_dim().is_multiple_of(4) {
            let expected = format!(
                "at least {RESAMPLER_HEAD_DIM}, and a multiple of the resampler's heads, output_dim // {RESAMPLER_HEAD_DIM} = {resampler_heads}, giving heads of a multiple of 4"
            );
            return Err(unsupported("visual.output_dim", vision.output_dim, expected));
        }
        if !vision.width.is_multiple_of(vision.heads) || !self.vision_head_dim().is_multiple_of(4) || self.vision_head_dim() > MAX_HEAD_DIM
        {
            let expected = format!("a divisor of visual.width giving heads of a multiple of 4, at most {MAX_HEAD_DIM}");
            return Err(unsupported("visual.heads", vision.heads, expected));
        }
        if !vision.image_size.is_multiple_of(vision.patch_size) {
            return Err(unsupported("visual.image_size", vision.image_size, format!("a multiple of patch_size = {}", vision.patch_size)));
        }
        let queries = (vision.n_queries as f64).sqrt() as usize;
        if queries * queries != vision.n_queries {
            return Err(unsupported("visual.n_queries", vision.n_queries, "a square number"));
        }
        if !(vision.mlp_ratio > 0.0 && vision.mlp_ratio <= 64.0) {
            return Err(unsupported("visual.mlp_ratio", vision.mlp_ratio, "above 0, at most 64"));
        }
        if vision.mlp_width() == 0 {
            return Err(unsupported("visual.mlp_ratio", vision.mlp_ratio, format!("at least 1/width = 1/{}", vision.width)));
        }
        if !(self.rotary_emb_base > 1.0 && self.rotary_emb_base.is_finite()) {
            return Err(unsupported("rotary_emb_base", self.rotary_emb_base, "above 1"));
        }
        if vision.image_start_id as usize + 2 >= self.vocab_size {
            return Err(unsupported(
                "visual.image_start_id",
                vision.image_start_id,
                format!("below vocab_size - 2 = {}", self.vocab_size.saturating_sub(2)),
            ));
        }
        Ok(())
    }

    /// Width of one decoder head.
    pub fn head_dim(&self) -> usize {
        self.kv_channels
    }

    /// Width of one MLP branch of the decoder (`intermediate_size` counts both).
    pub fn mlp_width(&self) -> usize {
        self.intermediate_size / 2
    }

    /// Width of one head of the vision tower.
    pub fn vision_head_dim(&self) -> usize {
        self.visual.width / self.visual.heads
    }

    /// Width of one head of the resampler.
    fn resampler_head_dim(&self) -> usize {
        self.visual.output_dim / self.visual.resampler_heads()
    }

    /// Returns the sizes as building blocks.
    pub fn model(&self) -> ModelConfig {
        let vision = &self.visual;
        ModelConfig {
            family: Family::QwenVl,
            image_token: vision.image_start_id,
            vision: VisionConfig {
                patch_size: vision.patch_size,
                width: vision.width,
                layers: vision.layers,
                heads: vision.heads,
                mlp_width: vision.mlp_width(),
                activation: Activation::Gelu,
                norm_epsilon: VISION_NORM_EPSILON,
                rms_norms: false,
                patch_bias: false,
                pre_norm: true,
                position_side: Some(vision.grid()),
                rotary_base: None,
                windows: None,
                image_size: Some(vision.image_size),
                resampler: Some(ResamplerConfig { queries: vision.n_queries, heads: vision.resampler_heads() }),
                merger: None,
                video: None,
            },
            decoder: DecoderConfig {
                vocab_size: self.vocab_size,
                width: self.hidden_size,
                layers: self.num_hidden_layers,
                heads: self.num_attention_heads,
                kv_heads: self.num_attention_heads,
                head_dim: self.kv_channels,
                mlp_width: self.mlp_width(),
                norm_epsilon: self.layer_norm_epsilon,
                qkv_bias: true,
                qk_norm: false,
                tied_head: false,
                trained_context: self.seq_length,
                rotary: RotaryConfig {
                    base: self.rotary_emb_base,
                    sections: None,
                    interleaved: false,
                    dynamic_ntk: self.use_dynamic_ntk,
                    logn: self.use_logn_attn,
                },
            },
        }
    }
}

impl ModelConfig {
    /// Returns the sizes with the keys of the 2023 model; `None` if they are of another generation.
    pub fn qwen_vl(&self) -> Option<QwenVlConfig> {
        let (vision, decoder) = (&self.vision, &self.decoder);
        let config = QwenVlConfig {
            vocab_size: decoder.vocab_size,
            hidden_size: decoder.width,
            num_hidden_layers: decoder.layers,
            num_attention_heads: decoder.heads,
            kv_channels: decoder.head_dim,
            intermediate_size: 2 * decoder.mlp_width,
            layer_norm_epsilon: decoder.norm_epsilon,
            seq_length: decoder.trained_context,
            rotary_emb_base: decoder.rotary.base,
            use_dynamic_ntk: decoder.rotary.dynamic_ntk,
            use_logn_attn: decoder.rotary.logn,
            visual: QwenVlVision {
                image_size: vision.image_size?,
                patch_size: vision.patch_size,
                width: vision.width,
                layers: vision.layers,
                heads: vision.heads,
                // `mlp_width` rounds the product down.
                mlp_ratio: (vision.mlp_width as f64 + 0.5) / vision.width as f64,
                output_dim: decoder.width,
                image_start_id: self.image_token,
                n_queries: vision.resampler.as_ref()?.queries,
            },
        };
        // Every block that these keys cannot express has another value.
        (config.model() == *self).then_some(config)
    }
}

impl QwenVlVision {
    /// Heads of the resampler.
    pub fn resampler_heads(&self) -> usize {
        self.output_dim / RESAMPLER_HEAD_DIM
    }

    /// MLP width of the vision tower.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    /// Patches along one side of the picture.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of the picture.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Values of one patch: three channels of `patch_size`².
    pub fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn building_blocks_and_back() {
        let config = QwenVlConfig::from_hf_json(&published().to_string()).unwrap();
        let model = config.model();
        model.validate().unwrap();
        let back = model.qwen_vl().unwrap();
        assert_eq!((back.visual.mlp_width(), back.model()), (config.visual.mlp_width(), model.clone()));
        let mut other = model;
        other.decoder.qk_norm = true;
        assert_eq!(other.qwen_vl(), None);
    }

    /// The original rounds the number of heads down: a width of 192 has one head of 192.
    #[test]
    fn a_resampler_with_a_wide_head() {
        let mut config = published();
        for (width, head) in [(192, 192), (256, 128), (376, 188)] {
            (config["hidden_size"], config["visual"]["output_dim"]) = (width.into(), width.into());
            (config["num_attention_heads"], config["kv_channels"]) = ((width / 8).into(), 8.into());
            let config = QwenVlConfig::from_hf_json(&config.to_string()).unwrap();
            assert_eq!(config.resampler_head_dim(), head);
            config.model().validate().unwrap();
        }
        for width in [120, 392] {
            (config["hidden_size"], config["visual"]["output_dim"]) = (width.into(), width.into());
            (config["num_attention_heads"], config["kv_channels"]) = ((width / 8).into(), 8.into());
            let error = QwenVlConfig::from_hf_json(&config.to_string()).unwrap_err().to_string();
            assert!(error.contains("visual.output_dim"), "{error}");
        }
    }

    #[test]
    fn published_sizes() {
        let config = QwenVlConfig::from_hf_json(&published().to_string()).unwrap();
        assert_eq!(config.mlp_width(), 11008);
        assert_eq!(config.visual.mlp_width(), 8192);
        assert_eq!(config.vision_head_dim(), 104);
        assert_eq!(config.visual.resampler_heads(), 32);
        assert_eq!(config.visual.patches(), 1024);
        assert_eq!(config.visual.n_queries, 256);
    }

    #[test]
    fn the_model_type_stands_for_a_missing_architecture() {
        let mut config = published();
        config["model_type"] = "qwen".into();
        for architectures in [serde_json::Value::Null, serde_json::json!([])] {
            config["architectures"] = architectures;
            assert!(QwenVlConfig::from_hf_json(&config.to_string()).is_ok());
        }
        config["model_type"] = "qwen2_vl".into();
        assert!(QwenVlConfig::from_hf_json(&config.to_string()).unwrap_err().to_string().contains("`qwen2_vl`"));
    }

    #[test]
    fn refuses_other_models_by_name() {
        let mut other = published();
        other["architectures"] = serde_json::json!(["Qwen2VLForConditionalGeneration"]);
        let error = QwenVlConfig::from_hf_json(&other.to_string()).unwrap_err().to_string();
        assert!(error.contains("Qwen2VLForConditionalGeneration"), "{error}");
        let mut text_only = published();
        text_only.as_object_mut().unwrap().remove("visual");
        let error = QwenVlConfig::from_hf_json(&text_only.to_string()).unwrap_err().to_string();
        assert!(error.contains("without `visual`"), "{error}");
    }

    #[test]
    fn refuses_unsupported_values_by_key() {
        for (key, value) in
            [("kv_channels", serde_json::json!(64)), ("rotary_pct", serde_json::json!(0.5)), ("hidden_size", serde_json::json!(0))]
        {
            let mut config = published();
            config[key] = value;
            let error = QwenVlConfig::from_hf_json(&config.to_string()).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
