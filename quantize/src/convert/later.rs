//! Tensors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
//!
//! - The patch embedding is a convolution over two frames, which are equal in a still picture: their weights are added in f32, and those of the
//!   second are stored once more for videos;
//! - `attn.qkv` of the vision tower is `[all q; all k; all v]` already; the decoder stores three matrices;
//! - the gate of an MLP is `gate_proj`.

use super::recipe::{Original, Recipe, is_vector};
use crate::source::names::prefixes;
use qwen_vl_format::{Family, ModelConfig, TensorSpec};

/// Frames of the convolution that embeds patches: `temporal_patch_size`.
const FRAMES: usize = 2;

/// Returns the recipe of a tensor.
pub(super) fn recipe(config: &ModelConfig, spec: &TensorSpec) -> Recipe {
    let [rows, cols] = spec.shape;
    let name = spec.name.as_str();
    let same = |source: String| Recipe::whole(spec, source);
    // Rows of the original: those of a matrix, or elements of a vector.
    let count = if is_vector(spec) { cols } else { rows };
    let (visual, decoder) = prefixes(config.family);
    let (module, leaf) = name.rsplit_once('.').expect("every name has a module");
    // Names of modules changed with Qwen3-VL.
    let qwen2 = config.family != Family::Qwen3Vl;
    if let Some(rest) = name.strip_prefix("vision.blocks.") {
        let (layer, part) = rest.split_once('.').expect("a block's tensor");
        let part = match part.rsplit_once('.').expect("a module and its tensor").0 {
            "ln_1" => "norm1",
            "ln_2" => "norm2",
            "attn.qkv" => "attn.qkv",
            "attn.out" => "attn.proj",
            "mlp.gate_up" => {
                let [even, odd] =
                    ["up_proj", "gate_proj"].map(|part| Original::of(spec, format!("{visual}blocks.{layer}.mlp.{part}.{leaf}"), count / 2));
                return Recipe::Interleaved { even, odd };
            }
            "mlp.down" => "mlp.down_proj",
            "mlp.fc1" if qwen2 => "mlp.fc1",
            "mlp.fc2" if qwen2 => "mlp.fc2",
            "mlp.fc1" => "mlp.linear_fc1",
            "mlp.fc2" => "mlp.linear_fc2",
            other => unreachable!("`{other}` of a vision block has no recipe"),
        };
        return same(format!("{visual}blocks.{layer}.{part}.{leaf}"));
    }
    if let Some(rest) = name.strip_prefix("decoder.layers.") {
        let (layer, part) = rest.split_once('.').expect("a layer's tensor");
        let original = |part: &str, rows: usize| Original::of(spec, format!("{decoder}layers.{layer}.{part}.{leaf}"), rows);
        let part = match part.rsplit_once('.').expect("a module and its tensor").0 {
            "attn.qkv" => {
                let sizes = &config.decoder;
                let rows = [sizes.attention_width(), sizes.kv_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim];
                let parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
                return Recipe::Stacked(parts.into_iter().zip(rows).map(|(part, rows)| original(part, rows)).collect());
            }
            "mlp.gate_up" => {
                let [even, odd] = ["mlp.up_proj", "mlp.gate_proj"].map(|part| original(part, count / 2));
                return Recipe::Interleaved { even, odd };
            }
            "attn_norm" => "input_layernorm",
            "attn.q_norm" => "self_attn.q_norm",
            "attn.k_norm" => "self_attn.k_norm",
            "attn.out" => "self_attn.o_proj",
            "mlp_norm" => "post_attention_layernorm",
            "mlp.down" => "mlp.down_proj",
            other => unreachable!("`{other}` of a decoder layer has no recipe"),
        };
        return Recipe::Stacked(vec![original(part, count)]);
    }
    let merger = |list: &str, part: &str| {
        let part = match part {
            "norm" if qwen2 => "ln_q",
            "fc1" if qwen2 => "mlp.0",
            "fc2" if qwen2 => "mlp.2",
            "norm" => "norm",
            "fc1" => "linear_fc1",
            "fc2" => "linear_fc2",
            other => unreachable!("`{other}` of a merger has no recipe"),
        };
        same(format!("{visual}{list}.{part}.{leaf}"))
    };
    if let Some(part) = module.strip_prefix("merger.") {
        return merger("merger", part);
    }
    if let Some((index, part)) = module.strip_prefix("deepstack.").and_then(|rest| rest.split_once('.')) {
        return merger(&format!("deepstack_merger_list.{index}"), part);
    }
    match module {
        "vision.patch_embedding" | "vision.frame_change" if leaf == "weight" => {
            let side = config.vision.patch_size;
            let source = Original::new(format!("{visual}patch_embed.proj.{leaf}"), [rows, 3, FRAMES, side, side]);
            // The change from the first frame to the second meets the weights of the second alone.
            Recipe::Folded { source, first: if module == "vision.frame_change" { 1 } else { 0 } }
        }
        "vision.patch_embedding" => same(format!("{visual}patch_embed.proj.{leaf}")),
        "vision" => same(format!("{visual}pos_embed.weight")),
        "decoder.embedding" => same(format!("{decoder}embed_tokens.{leaf}")),
        "decoder.norm" => same(format!("{decoder}norm.{leaf}")),
        "head" => same(format!("lm_head.{leaf}")),
        other => unreachable!("`{other}` has no recipe"),
    }
}
