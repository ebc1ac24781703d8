//! Translates the published `config.json` of each generation into [`ModelConfig`].
//!
//! Every size is read from the file. A key that changes the computation and has a value that the runtime does not compute is refused.

mod keys;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl;

use keys::Keys;
use qwen_vl_format::config::{Activation, RotaryConfig, SUPPORTED, VideoConfig, unsupported};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{ConfigError, Family, ModelConfig, QwenVlConfig};
use serde_json::Value;

/// Largest number of parameters. Models above it do not fit a browser tab, even at 4 bits.
const MAX_PARAMETERS: u64 = 16_000_000_000;
/// Epsilon of the norms of the later vision towers. In no config key: `modeling_qwen2_vl.py`, `modeling_qwen3_vl.py`.
const VISION_NORM_EPSILON: f32 = 1e-6;
/// Base of the rotary frequencies of the later vision towers, unless the file names it.
const VISION_ROTARY_BASE: f64 = 10000.0;

/// Reads the published `config.json` of a model of any supported generation.
///
/// # Errors
/// If it is of another architecture, or a key is missing or has a value that is not supported. The error names the key and the value.
pub fn model_config(json: &str) -> Result<ModelConfig, ConfigError> {
    let value: Value = serde_json::from_str(json)?;
    let name = value["architectures"][0].as_str().or(value["model_type"].as_str()).unwrap_or("unknown");
    let config = match family(name) {
        Ok(Family::QwenVl) => QwenVlConfig::from_hf_json(json)?.model(),
        Ok(Family::Qwen2Vl) => qwen2_vl::read(&value)?,
        Ok(Family::Qwen25Vl) => qwen2_5_vl::read(&value)?,
        Ok(Family::Qwen3Vl) => qwen3_vl::read(&value)?,
        Err(kind) => return Err(ConfigError::Architecture { found: format!("{name}{kind}"), supported: SUPPORTED }),
    };
    config.validate()?;
    let parameters: u64 = tensor_table(&config).iter().map(|spec| spec.shape[0] as u64 * spec.shape[1] as u64).sum();
    if parameters > MAX_PARAMETERS {
        let found = format!("{name}, with {:.1} billion parameters", parameters as f64 / 1e9);
        let supported =
            "models of at most 16 billion parameters: Qwen-VL, Qwen2-VL-2B and -7B, Qwen2.5-VL-3B and -7B, Qwen3-VL-2B, -4B and -8B";
        return Err(ConfigError::Architecture { found, supported });
    }
    Ok(config)
}

/// The generation of an architecture or a `model_type`. The error says what a known architecture is that is not supported.
fn family(name: &str) -> Result<Family, &'static str> {
    match name {
        "QWenLMHeadModel" | "qwen" => Ok(Family::QwenVl),
        "Qwen2VLForConditionalGeneration" | "qwen2_vl" => Ok(Family::Qwen2Vl),
        "Qwen3VLForConditionalGeneration" | "qwen3_vl" => Ok(Family::Qwen3Vl),
        "Qwen2_5_VLForConditionalGeneration" | "qwen2_5_vl" => Ok(Family::Qwen25Vl),
        name if name.starts_with("Qwen3VLMoe") || name.starts_with("qwen3_vl_moe") => Err(" (a mixture of experts)"),
        name if name.starts_with("Qwen3_5") || name.starts_with("qwen3_5") => Err(" (Qwen3.5)"),
        name if name.contains("Omni") || name.contains("omni") => Err(" (Qwen-Omni)"),
        _ => Err(""),
    }
}

/// The object with the keys of the decoder: `text_config`, or the whole file in the layout of 2024.
fn text_keys(root: Keys<'_>) -> Keys<'_> {
    root.object("text_config").unwrap_or(root)
}

/// True if the head is the embedding. Files have the key at the top, in `text_config`, or in both.
fn tied_head(root: Keys<'_>, text: Keys<'_>) -> Result<bool, ConfigError> {
    let (top, inner) = (root.flag("tie_word_embeddings")?, text.flag("tie_word_embeddings")?);
    match (top, inner) {
        (Some(top), Some(inner)) if top != inner => {
            Err(unsupported(text.path("tie_word_embeddings"), inner, format!("{top}, as `tie_word_embeddings` at the top of the file")))
        }
        (top, inner) => Ok(top.or(inner).unwrap_or(false)),
    }
}

/// Checks the keys of the decoder that must have one value.
fn check_text(text: Keys<'_>) -> Result<(), ConfigError> {
    text.only("hidden_act", "silu")?;
    text.only("attention_bias", false)?;
    text.only("mlp_bias", false)?;
    text.only("use_sliding_window", false)?;
    text.only("num_experts", 0)?;
    text.only("partial_rotary_factor", 1.0)?;
    if let Some(types) = text.value("layer_types")
        && let Some(other) = types.as_array().into_iter().flatten().find(|kind| **kind != "full_attention")
    {
        return Err(unsupported(text.path("layer_types"), format!("a list with {other}"), "a list of `full_attention`"));
    }
    Ok(())
}

/// Rotary embedding of the decoder. `rope_parameters` (transformers 5) and `rope_scaling` hold the same keys.
fn rotary(text: Keys<'_>, interleaved: bool) -> Result<RotaryConfig, ConfigError> {
    let rope = text.object("rope_parameters").or_else(|| text.object("rope_scaling"));
    let Some(rope) = rope else {
        return Err(unsupported(text.path("rope_scaling"), "absent", "an object with `mrope_section`"));
    };
    // The kind has two names, and `mrope` became `default`: `mrope_section` decides.
    for key in ["rope_type", "type"] {
        rope.one_of(key, &["default", "mrope"])?;
    }
    rope.only("partial_rotary_factor", 1.0)?;
    rope.only("mrope_interleaved", interleaved)?;
    let sections = rope.required("mrope_section")?;
    let sections: [usize; 3] =
        serde_json::from_value(sections.clone()).map_err(|_| unsupported(rope.path("mrope_section"), sections, "three numbers"))?;
    let base = match (rope.number("rope_theta")?, text.number("rope_theta")?) {
        (Some(inner), Some(outer)) if inner != outer => {
            return Err(unsupported(rope.path("rope_theta"), inner, format!("{outer}, as `{}`", text.path("rope_theta"))));
        }
        (inner, outer) => inner.or(outer).ok_or_else(|| text.missing("rope_theta"))?,
    };
    Ok(RotaryConfig { base, sections: Some(sections), interleaved, dynamic_ntk: false, logn: false })
}

/// Checks the keys of the vision tower that must have one value, and returns the side of the squares that are merged.
fn check_vision(vision: Keys<'_>) -> Result<usize, ConfigError> {
    for key in ["in_channels", "in_chans"] {
        vision.only(key, 3)?;
    }
    // The weights of the two frames are added for still pictures at conversion.
    vision.only("temporal_patch_size", 2)?;
    Ok(vision.optional_size("spatial_merge_size")?.unwrap_or(2))
}

/// The part of videos; `None` if the model has no token for them.
fn video(root: Keys<'_>, positions_per_second: Option<usize>) -> Result<Option<VideoConfig>, ConfigError> {
    let Some(token) = root.optional_token("video_token_id")? else { return Ok(None) };
    let positions_per_second = match positions_per_second.map(u32::try_from).transpose() {
        Ok(positions) => positions,
        Err(_) => return Err(unsupported("vision_config.tokens_per_second", positions_per_second.unwrap_or(0), "a number below 2³²")),
    };
    Ok(Some(VideoConfig { token, positions_per_second }))
}

/// Base of the rotary frequencies of the vision tower.
fn vision_rotary(vision: Keys<'_>) -> Result<f64, ConfigError> {
    let Some(rope) = vision.object("rope_parameters") else { return Ok(VISION_ROTARY_BASE) };
    rope.one_of("rope_type", &["axial", "default"])?;
    Ok(rope.number("rope_theta")?.unwrap_or(VISION_ROTARY_BASE))
}

/// The activation of the vision tower's MLP.
fn activation(vision: Keys<'_>, default: Option<Activation>) -> Result<Activation, ConfigError> {
    match vision.one_of("hidden_act", &["gelu", "gelu_pytorch_tanh", "quick_gelu", "silu"])? {
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("silu") => Ok(Activation::GatedSilu),
        Some(_) => Ok(Activation::QuickGelu),
        None => default.ok_or_else(|| vision.missing("hidden_act")),
    }
}

#[cfg(test)]
mod tests;
