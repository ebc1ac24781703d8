//! Qwen3-VL, dense: `configuration_qwen3_vl.py` and `modeling_qwen3_vl.py` of transformers.

use super::{Keys, VISION_NORM_EPSILON, activation, check_text, check_vision, rotary, text_keys, tied_head, video, vision_rotary};
use qwen_vl_format::config::{MergerConfig, unsupported};
use qwen_vl_format::{ConfigError, DecoderConfig, Family, ModelConfig, VisionConfig};
use serde_json::Value;

/// Reads the configuration of a Qwen3-VL.
pub(super) fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
    let root = Keys::root(config);
    let text = text_keys(root);
    let vision = root.object("vision_config").ok_or_else(|| root.missing("vision_config"))?;

    check_text(text)?;
    let width = text.size("hidden_size")?;
    let decoder = DecoderConfig {
        vocab_size: text.size("vocab_size")?,
        width,
        layers: text.size("num_hidden_layers")?,
        heads: text.size("num_attention_heads")?,
        kv_heads: text.size("num_key_value_heads")?,
        head_dim: text.size("head_dim")?,
        mlp_width: text.size("intermediate_size")?,
        norm_epsilon: text.required_number("rms_norm_eps")? as f32,
        qkv_bias: false,
        qk_norm: true,
        tied_head: tied_head(root, text)?,
        trained_context: text.size("max_position_embeddings")?,
        // The sections alternate, whether the file says so or not.
        rotary: rotary(text, true)?,
    };

    let merge = check_vision(vision)?;
    vision.only("out_hidden_size", width)?;
    let positions = vision.size("num_position_embeddings")?;
    let side = positions.isqrt();
    if side * side != positions {
        return Err(unsupported(vision.path("num_position_embeddings"), positions, "a square number"));
    }
    let deepstack = vision.required("deepstack_visual_indexes")?;
    let deepstack: Vec<usize> = serde_json::from_value(deepstack.clone())
        .map_err(|_| unsupported(vision.path("deepstack_visual_indexes"), deepstack, "a list of block numbers"))?;
    let vision = VisionConfig {
        patch_size: vision.size("patch_size")?,
        width: vision.size("hidden_size")?,
        layers: vision.size("depth")?,
        heads: vision.size("num_heads")?,
        mlp_width: vision.size("intermediate_size")?,
        activation: activation(vision, None)?,
        norm_epsilon: VISION_NORM_EPSILON,
        rms_norms: false,
        patch_bias: true,
        pre_norm: false,
        position_side: Some(side),
        rotary_base: Some(vision_rotary(vision)?),
        windows: None,
        image_size: None,
        resampler: None,
        merger: Some(MergerConfig { size: merge, deepstack }),
        video: video(root, None)?,
    };
    Ok(ModelConfig { family: Family::Qwen3Vl, image_token: root.token("image_token_id")?, vision, decoder })
}
