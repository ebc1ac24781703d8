//! Sizes of a model as building blocks.
//!
//! The converter translates the published `config.json` of each generation into these blocks, and the runtime is built from them. Only prompts,
//! special tokens and the syntax of boxes depend on the [`Family`].

use serde::{Deserialize, Serialize};

/// Largest width of an attention head that the kernels support.
pub const MAX_HEAD_DIM: usize = 256;

/// The architectures of the models that can be converted.
pub const SUPPORTED: &str = "Qwen-VL (`QWenLMHeadModel` with a `visual` part), Qwen2-VL (`Qwen2VLForConditionalGeneration`), Qwen2.5-VL \
     (`Qwen2_5_VLForConditionalGeneration`) and Qwen3-VL (`Qwen3VLForConditionalGeneration`)";

/// Generation of a model: Qwen-VL (2023), Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Qwen-VL (2023).
    QwenVl,
    /// Qwen2-VL (2024).
    Qwen2Vl,
    /// Qwen2.5-VL (2025).
    #[serde(rename = "qwen2_5_vl")]
    Qwen25Vl,
    /// Qwen3-VL (2025), dense.
    Qwen3Vl,
}

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The generation.
    pub family: Family,
    /// The token at the positions of a picture, `<|image_pad|>`. For [`Family::QwenVl`] the token before them, `<img>`.
    pub image_token: u32,
    /// From patches to image features.
    pub vision: VisionConfig,
    /// From tokens and image features to logits.
    pub decoder: DecoderConfig,
}

/// The vision tower and the part that turns its output into image features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of the tower.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; a divisor of `width`.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Epsilon of all norms of the vision part.
    pub norm_epsilon: f32,
    /// True if these are RMS norms, without biases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rms_norms: bool,
    /// True if the patch embedding has a bias.
    pub patch_bias: bool,
    /// True if a norm precedes the first block.
    pub pre_norm: bool,
    /// Side of the square table of position embeddings, which is resampled to the grid of a picture. Absent without a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_side: Option<usize>,
    /// Base of the frequencies of the rotary position embedding by row and column. Absent if the tower has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_base: Option<f64>,
    /// Windows of the attention. Absent if every patch attends to its whole picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowConfig>,
    /// Side of the square picture, pixels. Absent if pictures have any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Image features by learned queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resampler: Option<ResamplerConfig>,
    /// Image features by merging neighbouring patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merger: Option<MergerConfig>,
    /// Videos. Absent if the model takes none; also in checkpoints that were converted before videos were supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoConfig>,
}

/// Videos: two frames make a step of time, which the tower encodes like a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoConfig {
    /// The token at the positions of a video, `<|video_pad|>`.
    pub token: u32,
    /// Positions in time that a second takes (`tokens_per_second`). Absent if every step takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_per_second: Option<u32>,
}

/// Activation function of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `x · sigmoid(x)` of one branch of the MLP, times the other branch (SwiGLU).
    GatedSilu,
}

/// Attention within windows: squares of tokens. Those at the right and the lower border of a picture are smaller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowConfig {
    /// Side of a window, tokens.
    pub size: usize,
    /// Blocks whose attention is over the whole picture, in ascending order.
    pub full_blocks: Vec<usize>,
}

/// A cross-attention from learned queries to the patches of a picture of fixed size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResamplerConfig {
    /// Number of queries: positions of a picture in the prompt.
    pub queries: usize,
    /// Attention heads; a divisor of the decoder's width.
    pub heads: usize,
}

/// An MLP over squares of neighbouring patches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergerConfig {
    /// Side of a square, patches. One square is one position of the prompt.
    pub size: usize,
    /// Blocks whose output also goes through a merger, in ascending order. The result of entry `k` is added to the hidden states after layer
    /// `k` of the decoder (DeepStack).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deepstack: Vec<usize>,
}

/// The decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Rows of the embedding and of the head (padded beyond the tokenizer's ids).
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`: query head `j` reads head `j / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head. `heads · head_dim` need not be `width`.
    pub head_dim: usize,
    /// Width of one branch of the MLP.
    pub mlp_width: usize,
    /// Epsilon of the RMS norms.
    pub norm_epsilon: f32,
    /// True if the projection to queries, keys and values has a bias.
    pub qkv_bias: bool,
    /// True if each head of queries and keys passes an RMS norm before the rotary embedding.
    pub qk_norm: bool,
    /// True if the head is the embedding.
    pub tied_head: bool,
    /// Longest sequence that the model was trained for, tokens.
    pub trained_context: usize,
    /// Rotary position embedding.
    pub rotary: RotaryConfig,
}

/// Rotary position embedding of the decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RotaryConfig {
    /// Base of the frequencies.
    pub base: f64,
    /// Number of frequencies that follow time, height and width of a position (M-RoPE); they add up to `head_dim / 2`. Absent if a position is
    /// one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sections: Option<[usize; 3]>,
    /// True if the sections alternate along the frequencies (time, height, width, time, …), false if each is a block.
    #[serde(default)]
    pub interleaved: bool,
    /// True if the base grows with a prompt beyond `trained_context` (dynamic NTK).
    #[serde(default)]
    pub dynamic_ntk: bool,
    /// True if queries beyond `trained_context` are scaled by the logarithm of their position.
    #[serde(default)]
    pub logn: bool,
}

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("config.json is not a configuration of this model: {0}")]
    Parse(serde_json::Error),
    /// The checkpoint is of another model.
    #[error("config.json is of architecture `{found}`; supported are {supported}")]
    Architecture {
        /// The architecture that the config names.
        found: String,
        /// The supported ones.
        supported: &'static str,
    },
    /// A key has a value that is not supported.
    #[error("config.json: `{key}` is {found}, expected {expected}")]
    Unsupported {
        /// The key, with dots.
        key: String,
        /// Its value.
        found: String,
        /// The supported values.
        expected: String,
    },
}

// Not a `source` of the error: its text has the cause already.
impl From<serde_json::Error> for ConfigError {
    fn from(error: serde_json::Error) -> Self {
        Self::Parse(error)
    }
}

/// Returns the error for a value that is not supported.
pub fn unsupported(key: impl Into<String>, found: impl ToString, expected: impl ToString) -> ConfigError {
    ConfigError::Unsupported { key: key.into(), found: found.to_string(), expected: expected.to_string() }
}

/// Checks that each number is from 1 to its bound.
pub(crate) fn check_bounds(bounded: &[(&'static str, usize, usize)]) -> Result<(), ConfigError> {
    match bounded.iter().find(|(_, value, largest)| !(1..=*largest).contains(value)) {
        Some((key, value, largest)) => Err(unsupported(*key, value, format!("1 to {largest}"))),
        None => Ok(()),
    }
}

impl ModelConfig {
    /// Checks the relations between sizes that the runtime assumes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.decoder.validate()?;
        self.vision.validate(self.decoder.width)?;
        // `</img>` and `<imgpad>` follow `<img>`.
        let after = if self.family == Family::QwenVl { 2 } else { 0 };
        if self.image_token as usize + after >= self.decoder.vocab_size {
            let largest = self.decoder.vocab_size.saturating_sub(after);
            return Err(unsupported("image_token", self.image_token, format!("below {largest}, by decoder.vocab_size")));
        }
        if let Some(video) = &self.vision.video
            && (video.token as usize >= self.decoder.vocab_size || self.vision.merger.is_none())
        {
            let expected = format!("below {}, by decoder.vocab_size, and absent without `merger`", self.decoder.vocab_size);
            return Err(unsupported("vision.video.token", video.token, expected));
        }
        let deepstack = self.vision.deepstack().len();
        if deepstack > self.decoder.layers {
            let expected = format!("at most decoder.layers = {} entries", self.decoder.layers);
            return Err(unsupported("vision.merger.deepstack", format!("a list of {deepstack} entries"), expected));
        }
        Ok(())
    }
}

impl VisionConfig {
    fn validate(&self, decoder_width: usize) -> Result<(), ConfigError> {
        // With these bounds, the bytes of a row fit u32 (wasm32) and those of a tensor fit u64, even in a hostile file.
        check_bounds(&[
            ("vision.patch_size", self.patch_size, 1 << 8),
            ("vision.width", self.width, 1 << 14),
            ("vision.layers", self.layers, 1 << 10),
            ("vision.heads", self.heads, 1 << 10),
            ("vision.mlp_width", self.mlp_width, 1 << 20),
            ("vision.image_size", self.image_size.unwrap_or(1), 1 << 13),
            ("vision.position_side", self.position_side.unwrap_or(1), 1 << 10),
        ])?;
        if !self.width.is_multiple_of(self.heads) || !self.head_dim().is_multiple_of(4) || self.head_dim() > MAX_HEAD_DIM {
            let expected = format!("a divisor of vision.width giving heads of a multiple of 4, at most {MAX_HEAD_DIM}");
            return Err(unsupported("vision.heads", self.heads, expected));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            return Err(unsupported("vision.norm_epsilon", self.norm_epsilon, "above 0"));
        }
        if let Some(base) = self.rotary_base.filter(|base| !(*base > 1.0 && base.is_finite())) {
            return Err(unsupported("vision.rotary_base", base, "above 1"));
        }
        if let Some(size) = self.image_size.filter(|size| !size.is_multiple_of(self.patch_size)) {
            return Err(unsupported("vision.image_size", size, format!("a multiple of patch_size = {}", self.patch_size)));
        }
        if let Some(windows) = &self.windows {
            self.validate_windows(windows)?;
        }
        match (&self.resampler, &self.merger) {
            (Some(resampler), None) => self.validate_resampler(resampler, decoder_width),
            (None, Some(merger)) => self.validate_merger(merger),
            (resampler, _) => {
                let found = if resampler.is_some() { "both `resampler` and `merger`" } else { "neither `resampler` nor `merger`" };
                Err(unsupported("vision", found, "one of `resampler` and `merger`"))
            }
        }
    }

    fn validate_resampler(&self, resampler: &ResamplerConfig, decoder_width: usize) -> Result<(), ConfigError> {
        check_bounds(&[("vision.resampler.queries", resampler.queries, 1 << 14), ("vision.resampler.heads", resampler.heads, 1 << 10)])?;
        let Some(grid) = self.fixed_grid() else {
            return Err(unsupported("vision.image_size", "absent", "present with `resampler`"));
        };
        if self.position_side != Some(grid) {
            let found = self.position_side.map_or("absent".to_owned(), |side| side.to_string());
            return Err(unsupported("vision.position_side", found, format!("{grid}, the patches along a side of the picture")));
        }
        let head_dim = decoder_width / resampler.heads;
        if !decoder_width.is_multiple_of(resampler.heads) || !head_dim.is_multiple_of(4) || head_dim > MAX_HEAD_DIM {
            let expected = format!("a divisor of decoder.width giving heads of a multiple of 4, at most {MAX_HEAD_DIM}");
            return Err(unsupported("vision.resampler.heads", resampler.heads, expected));
        }
        if resampler.queries.isqrt().pow(2) != resampler.queries {
            return Err(unsupported("vision.resampler.queries", resampler.queries, "a square number"));
        }
        Ok(())
    }

    fn validate_merger(&self, merger: &MergerConfig) -> Result<(), ConfigError> {
        check_bounds(&[("vision.merger.size", merger.size, 16)])?;
        // The rows of a square are one row of the merger's input in the same buffer, which therefore has no padding.
        if !self.width.is_multiple_of(crate::ROW_ALIGN) {
            return Err(unsupported("vision.width", self.width, format!("a multiple of {} with `merger`", crate::ROW_ALIGN)));
        }
        if self.image_size.is_some() {
            return Err(unsupported("vision.image_size", "present", "absent with `merger`"));
        }
        self.validate_blocks("vision.merger.deepstack", &merger.deepstack)
    }

    fn validate_windows(&self, windows: &WindowConfig) -> Result<(), ConfigError> {
        check_bounds(&[("vision.windows.size", windows.size, 1 << 10)])?;
        if self.merger.is_none() || self.samples_positions() || !self.deepstack().is_empty() {
            return Err(unsupported("vision.windows", "present", "absent without `merger`, with a position table and with `deepstack`"));
        }
        self.validate_blocks("vision.windows.full_blocks", &windows.full_blocks)
    }

    fn validate_blocks(&self, key: &str, list: &[usize]) -> Result<(), ConfigError> {
        if !list.is_sorted_by(|a, b| a < b) || list.last().is_some_and(|last| *last >= self.layers) {
            let expected = format!("ascending numbers below vision.layers = {}", self.layers);
            return Err(unsupported(key, format!("{list:?}"), expected));
        }
        Ok(())
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Values of one patch of a still picture: three channels of `patch_size`².
    pub fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    /// Patches along a side of the picture, if pictures have a fixed size.
    pub fn fixed_grid(&self) -> Option<usize> {
        self.image_size.map(|size| size / self.patch_size)
    }

    /// True if the position table is resampled for each picture.
    pub fn samples_positions(&self) -> bool {
        self.position_side.is_some() && self.image_size.is_none()
    }

    /// Patches of a picture, if pictures have a fixed size; otherwise 0.
    pub fn fixed_patches(&self) -> usize {
        self.fixed_grid().map_or(0, |grid| grid * grid)
    }

    /// Queries of the resampler; 0 without one.
    pub fn queries(&self) -> usize {
        self.resampler.as_ref().map_or(0, |resampler| resampler.queries)
    }

    /// Patches of a whole window; `None` without windows.
    pub fn window_patches(&self) -> Option<usize> {
        let side = self.windows.as_ref()?.size * self.merger.as_ref()?.size;
        Some(side * side)
    }

    /// Blocks whose output also goes through a merger.
    pub fn deepstack(&self) -> &[usize] {
        self.merger.as_ref().map_or(&[], |merger| &merger.deepstack)
    }
}

impl DecoderConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check_bounds(&[
            ("decoder.vocab_size", self.vocab_size, 1 << 24),
            ("decoder.width", self.width, 1 << 16),
            ("decoder.layers", self.layers, 1 << 10),
            ("decoder.heads", self.heads, 1 << 12),
            ("decoder.kv_heads", self.kv_heads, 1 << 12),
            ("decoder.head_dim", self.head_dim, MAX_HEAD_DIM),
            ("decoder.mlp_width", self.mlp_width, 1 << 20),
            ("decoder.trained_context", self.trained_context, 1 << 24),
        ])?;
        if !self.head_dim.is_multiple_of(8) {
            return Err(unsupported("decoder.head_dim", self.head_dim, format!("a multiple of 8, at most {MAX_HEAD_DIM}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(unsupported("decoder.kv_heads", self.kv_heads, format!("a divisor of decoder.heads = {}", self.heads)));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            return Err(unsupported("decoder.norm_epsilon", self.norm_epsilon, "above 0"));
        }
        if !(self.rotary.base > 1.0 && self.rotary.base.is_finite()) {
            return Err(unsupported("decoder.rotary.base", self.rotary.base, "above 1"));
        }
        if let Some(sections) = self.rotary.sections {
            let sum = sections.iter().fold(0usize, |sum, section| sum.saturating_add(*section));
            if sum != self.head_dim / 2 {
                let expected = format!("three numbers that add up to head_dim / 2 = {}", self.head_dim / 2);
                return Err(unsupported("decoder.rotary.sections", format!("{sections:?}"), expected));
            }
            if self.rotary.dynamic_ntk || self.rotary.logn {
                return Err(unsupported("decoder.rotary.sections", "present", "absent with `dynamic_ntk` or `logn`"));
            }
        }
        Ok(())
    }

    /// Columns of the projection to queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of the output of the attention.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }
}
