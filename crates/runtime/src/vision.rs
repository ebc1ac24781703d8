//! The vision tower: `[patches, 3·patch²]` → patch embedding + positions → `ln_pre` → blocks → `[patches, width]`
//! (`visual.py`, `VisionTransformer`; the resampler follows the last block without a norm).

use crate::RuntimeError;
use crate::weights::Weights;
use qwen_vl_format::ModelConfig;
use qwen_vl_kernels::attention::{Attention, Heads, attention};
use qwen_vl_kernels::matmul::{Epilogue, matmul};
use qwen_vl_kernels::norm::norm;
use qwen_vl_kernels::{Activation, Dispatch, Gpu, StepBuffer};

/// The vision tower with its buffers.
pub(crate) struct VisionTower {
    /// Input: patches of one picture, `[patches, 3·patch²]`.
    pub(crate) patches: Activation,
    /// Output: `[patches, width]`.
    pub(crate) hidden: Activation,
    /// Position embedding. It is copied to `embedded`, and the patch embedding is then added.
    pub(crate) positions: Activation,
    /// Embedded patches, before `ln_pre`.
    pub(crate) embedded: Activation,
    /// Patch embedding and `ln_pre`.
    pub(crate) embed: Vec<Dispatch>,
    /// The blocks in order.
    pub(crate) blocks: Vec<Vec<Dispatch>>,
}

impl VisionTower {
    pub(crate) fn new(gpu: &Gpu, config: &ModelConfig, weights: &Weights, step: &StepBuffer) -> Result<Self, RuntimeError> {
        let vision = &config.vision;
        let (rows, width) = (vision.fixed_patches(), vision.width);
        let patches = gpu.activation("vision.patches", rows, vision.patch_values())?;
        let hidden = gpu.activation("vision.hidden", rows, width)?;
        let normed = gpu.activation("vision.normed", rows, width)?;
        let qkv = gpu.activation("vision.qkv", rows, 3 * width)?;
        let attended = gpu.activation("vision.attended", rows, width)?;
        let mlp = gpu.activation("vision.mlp", rows, vision.mlp_width)?;

        let mut embed = matmul(gpu, step, weights.linear("vision.patch_embedding").product(&patches, &normed, Epilogue::Accumulate));
        embed.push(norm(gpu, step, &weights.layer_norm("vision.ln_pre"), &normed, &hidden));

        let blocks = (0..vision.layers)
            .map(|layer| {
                let name = |part: &str| format!("vision.blocks.{layer}.{part}");
                let linear =
                    |part, input, output, epilogue| matmul(gpu, step, weights.linear(&name(part)).product(input, output, epilogue));
                let heads = |third| Heads { rows: &qkv, first_col: third * width };
                let mut block = vec![norm(gpu, step, &weights.layer_norm(&name("ln_1")), &hidden, &normed)];
                block.extend(linear("attn.qkv", &normed, &qkv, Epilogue::Store));
                block.push(attention(
                    gpu,
                    step,
                    Attention {
                        queries: heads(0),
                        keys: heads(1).into(),
                        values: heads(2).into(),
                        output: &attended,
                        heads: vision.heads,
                        kv_heads: vision.heads,
                        head_dim: vision.head_dim(),
                        causal: false,
                    },
                ));
                block.extend(linear("attn.out", &attended, &hidden, Epilogue::Accumulate));
                block.push(norm(gpu, step, &weights.layer_norm(&name("ln_2")), &hidden, &normed));
                block.extend(linear("mlp.fc1", &normed, &mlp, Epilogue::Gelu));
                block.extend(linear("mlp.fc2", &mlp, &hidden, Epilogue::Accumulate));
                block
            })
            .collect();
        Ok(Self { patches, hidden, positions: weights.rows("vision.position_embedding"), embedded: normed, embed, blocks })
    }
}
