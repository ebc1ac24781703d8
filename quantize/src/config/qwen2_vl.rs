//! Qwen2-VL: `configuration_qwen2_vl.py` and `modeling_qwen2_vl.py` of transformers.
//!
//! The published files have the decoder's keys at the top and `rope_scaling`, newer saves have `text_config` and `rope_parameters`.

use super::{Keys, VISION_NORM_EPSILON, activation, check_text, check_vision, rotary, text_keys, tied_head, video, vision_rotary};
use qwen_vl_format::config::{Activation, MergerConfig, unsupported};
use qwen_vl_format::{ConfigError, DecoderConfig, Family, ModelConfig, VisionConfig};
use serde_json::Value;

/// Reads the configuration of a Qwen2-VL.
pub(super) fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
    let root = Keys::root(config);
    let decoder = decoder(root)?;
    let vision = root.object("vision_config").ok_or_else(|| root.missing("vision_config"))?;

    let merge = check_vision(vision)?;
    let tower = vision.size("embed_dim")?;
    // Here `hidden_size` is the decoder's width.
    vision.only("hidden_size", decoder.width)?;
    let ratio = vision.required_number("mlp_ratio")?;
    if !(ratio > 0.0 && ratio <= 64.0) {
        return Err(unsupported(vision.path("mlp_ratio"), ratio, "above 0, at most 64"));
    }
    let vision = VisionConfig {
        patch_size: vision.size("patch_size")?,
        width: tower,
        layers: vision.size("depth")?,
        heads: vision.size("num_heads")?,
        mlp_width: (tower as f64 * ratio) as usize,
        activation: activation(vision, Some(Activation::QuickGelu))?,
        norm_epsilon: VISION_NORM_EPSILON,
        rms_norms: false,
        patch_bias: false,
        pre_norm: false,
        position_side: None,
        rotary_base: Some(vision_rotary(vision)?),
        windows: None,
        image_size: None,
        resampler: None,
        merger: Some(MergerConfig { size: merge, deepstack: Vec::new() }),
        video: video(root, None)?,
    };
    Ok(ModelConfig { family: Family::Qwen2Vl, image_token: root.token("image_token_id")?, vision, decoder })
}

/// Reads the decoder of a Qwen2-VL or a Qwen2.5-VL.
pub(super) fn decoder(root: Keys<'_>) -> Result<DecoderConfig, ConfigError> {
    let text = text_keys(root);
    check_text(text)?;
    let (width, heads) = (text.size("hidden_size")?, text.size("num_attention_heads")?);
    if !width.is_multiple_of(heads) {
        return Err(unsupported(text.path("num_attention_heads"), heads, format!("a divisor of hidden_size = {width}")));
    }
    text.only("head_dim", width / heads)?;
    Ok(DecoderConfig {
        vocab_size: text.size("vocab_size")?,
        width,
        layers: text.size("num_hidden_layers")?,
        heads,
        kv_heads: text.size("num_key_value_heads")?,
        head_dim: width / heads,
        mlp_width: text.size("intermediate_size")?,
        norm_epsilon: text.required_number("rms_norm_eps")? as f32,
        qkv_bias: true,
        qk_norm: false,
        tied_head: tied_head(root, text)?,
        trained_context: text.size("max_position_embeddings")?,
        rotary: rotary(text, false)?,
    })
}
