//! The resampler (`visual.py`, class `Resampler`): one cross-attention, `[batch, patches, width]` → `[batch, queries, hidden]`.

use crate::layers::{LayerNorm, Linear, join_heads, split_heads, zeros};
use crate::observer::Observer;
use crate::positions::resize_matrix;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation, module};
use qwen_vl_format::QwenVlVision;

/// The module `transformer.visual.attn_pool`.
#[derive(Module, Debug)]
pub struct Resampler {
    /// Learned queries, `[queries, hidden]`.
    pub query: Param<Tensor<2>>,
    /// Fixed sines of a grid of √queries × √queries places, `[queries, hidden]`.
    pub pos_embed: Param<Tensor<2>>,
    /// Projection from the tower's width to hidden, without a bias.
    pub kv_proj: Linear,
    /// Norm of the queries.
    pub ln_q: LayerNorm,
    /// Norm of keys and values.
    pub ln_kv: LayerNorm,
    /// Cross-attention.
    pub attn: ResamplerAttention,
    #[module(skip)]
    resize: Option<Tensor<2>>,
    /// Positions added to the keys, `[patches, hidden]`. If `None`, they are computed from `pos_embed`.
    #[module(skip)]
    pub(crate) key_places: Option<Tensor<2>>,
}

/// The module `transformer.visual.attn_pool.attn`.
#[derive(Module, Debug)]
pub struct ResamplerAttention {
    /// Input projection `[all q; all k; all v]`, `[3 · hidden, hidden]`.
    pub in_proj_weight: Param<Tensor<2>>,
    /// Bias of the input projection, `[3 · hidden]`.
    pub in_proj_bias: Param<Tensor<1>>,
    /// Output projection.
    pub out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Resampler {
    pub(crate) fn zeros(config: &QwenVlVision, device: &Device) -> Self {
        let (hidden, queries) = (config.output_dim, config.n_queries);
        Self {
            query: zeros([queries, hidden], device),
            pos_embed: zeros([queries, hidden], device),
            kv_proj: Linear::zeros(config.width, hidden, false, device),
            ln_q: LayerNorm::zeros(hidden, device),
            ln_kv: LayerNorm::zeros(hidden, device),
            attn: ResamplerAttention {
                in_proj_weight: zeros([3 * hidden, hidden], device),
                in_proj_bias: zeros([3 * hidden], device),
                out_proj: Linear::zeros(hidden, hidden, true, device),
                heads: config.resampler_heads(),
            },
            resize: resize_matrix(queries.isqrt(), config.grid(), device),
            key_places: None,
        }
    }

    /// Computes the features of each picture from its patches.
    ///
    /// # Shapes
    /// - `patches`: `[batch, patches, width]`
    /// - returns: `[batch, queries, hidden]`
    pub fn forward(&self, patches: Tensor<3>, observe: Observer) -> Tensor<3> {
        let batch = patches.dims()[0];
        let values = self.ln_kv.forward(self.kv_proj.forward(patches));
        observe("resampler_ln_kv", &values);
        let places = self.pos_embed.val();
        let key_places = match (&self.key_places, &self.resize) {
            (Some(known), _) => known.clone(),
            (None, Some(matrix)) => matrix.clone().matmul(places.clone()),
            (None, None) => places.clone(),
        };
        let keys = values.clone() + key_places.unsqueeze();
        // All pictures share the queries, so one projection is enough.
        let queries = (self.ln_q.forward(self.query.val()) + places).unsqueeze::<3>();
        let out = self.attn.forward(queries, keys, values, batch);
        observe("resampler_out", &out);
        out
    }
}

impl ResamplerAttention {
    fn forward(&self, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>, batch: usize) -> Tensor<3> {
        let (hidden, heads) = (self.in_proj_weight.dims()[1], self.heads);
        let head_dim = hidden / heads;
        let project = |x: Tensor<3>, part: usize| {
            let weight = self.in_proj_weight.val().narrow(0, part * hidden, hidden);
            let bias = self.in_proj_bias.val().narrow(0, part * hidden, hidden);
            split_heads(module::linear(x, weight.transpose(), Some(bias)), heads)
        };
        let (q, k, v) = (project(queries, 0) / (head_dim as f32).sqrt(), project(keys, 1), project(values, 2));
        let [_, _, n, _] = q.dims();
        let scores = q.expand([batch, heads, n, head_dim]).matmul(k.swap_dims(2, 3));
        self.out_proj.forward(join_heads(activation::softmax(scores, 3).matmul(v)))
    }
}
