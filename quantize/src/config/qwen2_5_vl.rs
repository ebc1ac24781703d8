//! Qwen2.5-VL: `configuration_qwen2_5_vl.py` and `modeling_qwen2_5_vl.py` of transformers.

use super::{Keys, VISION_NORM_EPSILON, activation, check_vision, qwen2_vl, video, vision_rotary};
use qwen_vl_format::config::{Activation, MergerConfig, WindowConfig, unsupported};
use qwen_vl_format::{ConfigError, Family, ModelConfig, VisionConfig};
use serde_json::Value;

/// Reads the configuration of a Qwen2.5-VL. Its decoder is that of Qwen2-VL.
pub(super) fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
    let root = Keys::root(config);
    let decoder = qwen2_vl::decoder(root)?;
    let vision = root.object("vision_config").ok_or_else(|| root.missing("vision_config"))?;

    let merge = check_vision(vision)?;
    vision.only("out_hidden_size", decoder.width)?;
    let patch_size = vision.size("patch_size")?;
    let window = vision.size("window_size")?;
    // `get_window_index` rounds down.
    let side = window / merge / patch_size;
    if side == 0 {
        return Err(unsupported(
            vision.path("window_size"),
            window,
            format!("at least {}, the side of a token", merge.saturating_mul(patch_size)),
        ));
    }
    let full = vision.required("fullatt_block_indexes")?;
    let mut full_blocks: Vec<usize> = serde_json::from_value(full.clone())
        .map_err(|_| unsupported(vision.path("fullatt_block_indexes"), full, "a list of block numbers"))?;
    full_blocks.sort_unstable();
    full_blocks.dedup();
    let activation = activation(vision, None)?;
    if activation != Activation::GatedSilu {
        return Err(unsupported(vision.path("hidden_act"), format!("{activation:?}"), "silu"));
    }
    // The default of `Qwen2_5_VLVisionConfig` is 4.
    let positions_per_second = vision.optional_size("tokens_per_second")?.unwrap_or(4);
    let vision = VisionConfig {
        patch_size,
        width: vision.size("hidden_size")?,
        layers: vision.size("depth")?,
        heads: vision.size("num_heads")?,
        mlp_width: vision.size("intermediate_size")?,
        activation,
        norm_epsilon: VISION_NORM_EPSILON,
        rms_norms: true,
        patch_bias: false,
        pre_norm: false,
        position_side: None,
        rotary_base: Some(vision_rotary(vision)?),
        windows: Some(WindowConfig { size: side, full_blocks }),
        image_size: None,
        resampler: None,
        merger: Some(MergerConfig { size: merge, deepstack: Vec::new() }),
        video: video(root, Some(positions_per_second))?,
    };
    Ok(ModelConfig { family: Family::Qwen25Vl, image_token: root.token("image_token_id")?, vision, decoder })
}
