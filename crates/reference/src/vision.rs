//! The vision tower (`visual.py`): patches `[batch, patches, 588]` → `[batch, patches, width]`, then the resampler, `ln_post` and `proj`.

use crate::layers::{LayerNorm, Linear, join_heads, zeros};
use crate::observer::Observer;
use crate::positions::resize_matrix;
use crate::resampler::Resampler;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation, module};
use qwen_vl_format::QwenVlVision;
use qwen_vl_format::qwen_vl::POSITION_TABLE_SIDE;

/// The module `transformer.visual`.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// Patch embedding. The stride of this convolution equals its size, so it is a matrix product.
    pub conv1: PatchEmbedding,
    /// Position table, `[256, width]` for every picture size.
    pub positional_embedding: Param<Tensor<2>>,
    /// Norm before the blocks.
    pub ln_pre: LayerNorm,
    /// Blocks.
    pub transformer: Blocks,
    /// Resampler.
    pub attn_pool: Resampler,
    /// Norm **after** the resampler.
    pub ln_post: LayerNorm,
    /// Output projection, `[hidden, hidden]`, input dimension first.
    pub proj: Param<Tensor<2>>,
    #[module(skip)]
    pub(crate) resize: Option<Tensor<2>>,
}

/// The module `visual.conv1`.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// Weight, `[width, 3, patch, patch]`.
    pub weight: Param<Tensor<4>>,
}

/// The module `visual.transformer`.
#[derive(Module, Debug)]
pub struct Blocks {
    /// Blocks, in order.
    pub resblocks: Vec<VisionBlock>,
}

/// One pre-norm block of the vision tower.
#[derive(Module, Debug)]
pub struct VisionBlock {
    /// Norm before attention.
    pub ln_1: LayerNorm,
    /// Attention of every patch to every patch.
    pub attn: VisionAttention,
    /// Norm before the MLP.
    pub ln_2: LayerNorm,
    /// MLP.
    pub mlp: VisionMlp,
}

/// Self-attention of the vision tower.
#[derive(Module, Debug)]
pub struct VisionAttention {
    /// Input projection, rows **head by head**: `[q of head 0; k of head 0; v of head 0; q of head 1; …]`.
    pub in_proj: Linear,
    /// Output projection.
    pub out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

/// MLP of the vision tower, with the exact GELU.
#[derive(Module, Debug)]
pub struct VisionMlp {
    /// Projection to the inner width.
    pub c_fc: Linear,
    /// Projection back to the tower's width.
    pub c_proj: Linear,
}

impl VisionTower {
    pub(crate) fn zeros(config: &QwenVlVision, device: &Device) -> Self {
        let (width, hidden, patch) = (config.width, config.output_dim, config.patch_size);
        Self {
            conv1: PatchEmbedding { weight: zeros([width, 3, patch, patch], device) },
            positional_embedding: zeros([POSITION_TABLE_SIDE * POSITION_TABLE_SIDE, width], device),
            ln_pre: LayerNorm::zeros(width, device),
            transformer: Blocks { resblocks: (0..config.layers).map(|_| VisionBlock::zeros(config, device)).collect() },
            attn_pool: Resampler::zeros(config, device),
            ln_post: LayerNorm::zeros(hidden, device),
            proj: zeros([hidden, hidden], device),
            resize: resize_matrix(POSITION_TABLE_SIDE, config.grid(), device),
        }
    }

    /// Returns the tower's output for each patch, before the resampler.
    ///
    /// # Shapes
    /// - `patches`: `[batch, patches, 3 · patch²]`, channel first within a patch, rows of patches from the top
    /// - returns: `[batch, patches, width]`
    pub fn tower(&self, patches: Tensor<3>, observe: Observer) -> Tensor<3> {
        let weight = self.conv1.weight.val();
        let [width, channels, rows, cols] = weight.dims();
        let weight = weight.reshape([width, channels * rows * cols]);
        let mut positions = self.positional_embedding.val();
        if let Some(matrix) = &self.resize {
            positions = matrix.clone().matmul(positions);
        }
        let mut x = self.ln_pre.forward(module::linear(patches, weight.transpose(), None) + positions.unsqueeze());
        observe("ln_pre", &x);
        for (index, block) in self.transformer.resblocks.iter().enumerate() {
            x = block.forward(x);
            observe(&format!("block{index}"), &x);
        }
        x
    }

    /// Returns the image features, `[batch, queries, hidden]`. `patches` are as in [`VisionTower::tower`].
    pub fn forward(&self, patches: Tensor<3>, observe: Observer) -> Tensor<3> {
        let x = self.tower(patches, observe);
        let pooled = self.attn_pool.forward(x, observe);
        let normed = self.ln_post.forward(pooled);
        observe("ln_post", &normed);
        let features = module::linear(normed, self.proj.val(), None);
        observe("image_features", &features);
        features
    }
}

impl VisionBlock {
    fn zeros(config: &QwenVlVision, device: &Device) -> Self {
        let (width, mlp) = (config.width, config.mlp_width());
        Self {
            ln_1: LayerNorm::zeros(width, device),
            attn: VisionAttention {
                in_proj: Linear::zeros(width, 3 * width, true, device),
                out_proj: Linear::zeros(width, width, true, device),
                heads: config.heads,
            },
            ln_2: LayerNorm::zeros(width, device),
            mlp: VisionMlp { c_fc: Linear::zeros(width, mlp, true, device), c_proj: Linear::zeros(mlp, width, true, device) },
        }
    }

    /// Applies the block. Keeps the shape `[batch, patches, width]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x));
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

impl VisionAttention {
    /// Applies attention. Keeps the shape `[batch, patches, width]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, patches, width] = x.dims();
        let head_dim = width / self.heads;
        // [batch, patches, heads, 3 · head_dim] → [batch, heads, patches, 3 · head_dim]
        let qkv = self.in_proj.forward(x).reshape([batch, patches, self.heads, 3 * head_dim]).swap_dims(1, 2);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(3, part * head_dim, head_dim));
        let scores = (q / (head_dim as f32).sqrt()).matmul(k.swap_dims(2, 3));
        self.out_proj.forward(join_heads(activation::softmax(scores, 3).matmul(v)))
    }
}

impl VisionMlp {
    /// Applies the MLP. Keeps the shape `[batch, patches, width]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.c_proj.forward(activation::gelu(self.c_fc.forward(x)))
    }
}
