//! Tensors of the 2023 model.
//!
//! - `attn.in_proj` of the vision tower is stored head by head: `[q of head 0; k of head 0; v of head 0; q of head 1; …]`;
//! - `attn_pool.attn.in_proj_weight` of the resampler and `c_attn` of the decoder are thirds: `[all q; all k; all v]`;
//! - `visual.proj` is `[in, out]`, every other matrix `[out, in]`;
//! - the gate of the decoder's MLP is `w2`;
//! - position tables are stored for 16×16 patches and resized when used (`visual.py`, `get_abs_pos`).

use super::recipe::{Original, Recipe, is_vector};
use qwen_vl_format::qwen_vl::POSITION_TABLE_SIDE;
use qwen_vl_format::{ModelConfig, TensorSpec};

const RESAMPLER: &str = "transformer.visual.attn_pool";

/// Returns the recipe of a tensor.
pub(super) fn recipe(config: &ModelConfig, spec: &TensorSpec) -> Recipe {
    let [rows, cols] = spec.shape;
    let name = spec.name.as_str();
    let same = |source: String| Recipe::whole(spec, source);
    // Rows of the original: those of a matrix, or elements of a vector.
    let count = if is_vector(spec) { cols } else { rows };
    let (module, leaf) = name.rsplit_once('.').expect("every name has a module");
    if let Some(rest) = name.strip_prefix("vision.blocks.") {
        let (layer, part) = rest.split_once('.').expect("a block's tensor");
        let block = format!("transformer.visual.transformer.resblocks.{layer}");
        return match part.rsplit_once('.').expect("a module and its tensor").0 {
            "attn.qkv" => Recipe::PerHead {
                source: Original::of(spec, format!("{block}.attn.in_proj.{leaf}"), count),
                heads: config.vision.heads,
                head_dim: config.vision.head_dim(),
            },
            "attn.out" => same(format!("{block}.attn.out_proj.{leaf}")),
            "mlp.fc1" => same(format!("{block}.mlp.c_fc.{leaf}")),
            "mlp.fc2" => same(format!("{block}.mlp.c_proj.{leaf}")),
            norm => same(format!("{block}.{norm}.{leaf}")),
        };
    }
    if let Some(rest) = name.strip_prefix("decoder.layers.") {
        let (layer, part) = rest.split_once('.').expect("a layer's tensor");
        let block = format!("transformer.h.{layer}");
        return match part.rsplit_once('.').expect("a module and its tensor").0 {
            "attn_norm" => same(format!("{block}.ln_1.{leaf}")),
            "attn.qkv" => same(format!("{block}.attn.c_attn.{leaf}")),
            "attn.out" => same(format!("{block}.attn.c_proj.{leaf}")),
            "mlp_norm" => same(format!("{block}.ln_2.{leaf}")),
            "mlp.gate_up" => {
                let [even, odd] = ["w1", "w2"].map(|branch| Original::of(spec, format!("{block}.mlp.{branch}.{leaf}"), count / 2));
                Recipe::Interleaved { even, odd }
            }
            "mlp.down" => same(format!("{block}.mlp.c_proj.{leaf}")),
            other => unreachable!("`{other}` of a decoder layer has no recipe"),
        };
    }
    let resized = |source: String, from: usize| {
        let to = config.vision.fixed_grid().unwrap_or_default();
        Recipe::Resized { source: Original::new(source, [from * from, cols]), from, to }
    };
    match module {
        "vision.patch_embedding" => {
            let side = config.vision.patch_size;
            Recipe::Stacked(vec![Original::new(format!("transformer.visual.conv1.{leaf}"), [rows, 3, side, side])])
        }
        "vision" => resized("transformer.visual.positional_embedding".into(), POSITION_TABLE_SIDE),
        "vision.ln_pre" => same(format!("transformer.visual.ln_pre.{leaf}")),
        "resampler" if leaf == "query" => {
            let original = |name: &str, shape: &[usize]| Original::new(format!("{RESAMPLER}.{name}"), shape);
            Recipe::Query([
                original("query", &[rows, cols]),
                original("pos_embed", &[rows, cols]),
                original("ln_q.weight", &[cols]),
                original("ln_q.bias", &[cols]),
            ])
        }
        // The number of queries is a square: `ModelConfig::validate`.
        "resampler" => resized(format!("{RESAMPLER}.pos_embed"), config.vision.queries().isqrt()),
        "resampler.kv_proj" | "resampler.ln_kv" => same(format!("transformer.visual.attn_pool.{}.{leaf}", &module["resampler.".len()..])),
        "resampler.attn.q" | "resampler.attn.k" | "resampler.attn.v" => {
            let third = ["resampler.attn.q", "resampler.attn.k", "resampler.attn.v"].iter().position(|name| *name == module).unwrap_or(0);
            Recipe::Rows { source: Original::of(spec, format!("{RESAMPLER}.attn.in_proj_{leaf}"), 3 * count), first: third * count }
        }
        "resampler.attn.out" => same(format!("{RESAMPLER}.attn.out_proj.{leaf}")),
        "resampler.ln_post" => same(format!("transformer.visual.ln_post.{leaf}")),
        "resampler.proj" => Recipe::Transposed { source: Original::new("transformer.visual.proj", [cols, rows]) },
        "decoder.embedding" => same(format!("transformer.wte.{leaf}")),
        "decoder.norm" => same(format!("transformer.ln_f.{leaf}")),
        "head" => same(format!("lm_head.{leaf}")),
        other => unreachable!("`{other}` has no recipe"),
    }
}
