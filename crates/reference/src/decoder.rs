//! Block of the decoder: rotary attention over a KV cache and a gated MLP (`modeling_qwen.py`).

use crate::layers::{Linear, RmsNorm, join_heads, split_heads};
use crate::positions::{inverse_frequencies, logn_factor};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use qwen_vl_format::QwenVlConfig;

/// The module `transformer.h.N`.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention.
    pub ln_1: RmsNorm,
    /// Causal self-attention.
    pub attn: Attention,
    /// Norm before the MLP.
    pub ln_2: RmsNorm,
    /// Gated MLP.
    pub mlp: DecoderMlp,
}

/// The module `transformer.h.N.attn`.
#[derive(Module, Debug)]
pub struct Attention {
    /// Input projection `[all q; all k; all v]`, each head by head. It has a bias, although the config says `no_bias`.
    pub c_attn: Linear,
    /// Output projection.
    pub c_proj: Linear,
    #[module(skip)]
    heads: usize,
}

/// The module `transformer.h.N.mlp`: `c_proj(w1(x) · silu(w2(x)))`.
#[derive(Module, Debug)]
pub struct DecoderMlp {
    /// Branch that the gate multiplies.
    pub w1: Linear,
    /// Gate.
    pub w2: Linear,
    /// Projection back to hidden.
    pub c_proj: Linear,
}

/// Tables that attention reads for the positions of one forward pass.
#[derive(Debug, Clone)]
pub struct Positions {
    /// Cosines, `[batch or 1, 1, seq, head_dim / 2]`.
    cos: Tensor<4>,
    /// Sines, `[batch or 1, 1, seq, head_dim / 2]`.
    sin: Tensor<4>,
    /// Log-n factors, `[batch or 1, 1, seq, 1]`. `None` if all are 1.
    logn: Option<Tensor<4>>,
}

impl Positions {
    /// Computes the tables for the positions `first .. first + seq`. `alpha` is the NTK factor.
    pub fn new(config: &QwenVlConfig, alpha: f64, first: usize, seq: usize, device: &Device) -> Self {
        Self::of_rows(config, alpha, &[(first..first + seq).collect()], device)
    }

    /// Computes the tables for any positions, given for each row of a batch. `alpha` is the NTK factor. The angle is an f32 product, as in
    /// the original.
    pub fn of_rows(config: &QwenVlConfig, alpha: f64, rows: &[Vec<usize>], device: &Device) -> Self {
        let seq = rows[0].len();
        let positions = || rows.iter().flatten();
        let frequencies = inverse_frequencies(config.rotary_emb_base, alpha, config.head_dim());
        let angles = positions().flat_map(|position| frequencies.iter().map(move |frequency| f64::from(*position as f32 * frequency)));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        let table = |values: Vec<f32>| {
            let last = values.len() / (rows.len() * seq);
            Tensor::from_data(TensorData::new(values, [rows.len(), 1, seq, last]), device)
        };
        let far = config.use_logn_attn && positions().any(|position| *position >= config.seq_length);
        let factors = || positions().map(|position| logn_factor(*position, config.seq_length)).collect();
        Self { cos: table(cos), sin: table(sin), logn: far.then(|| table(factors())) }
    }

    /// Rotates the pairs `(i, i + head_dim / 2)` of `[batch, heads, seq, head_dim]`.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned_a = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let turned_b = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![turned_a, turned_b], 3)
    }
}

/// Keys (after the rotation) and values of all positions so far, `[batch, heads, keys, head_dim]` for each layer.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
}

impl KvCache {
    /// Returns the number of positions in the cache.
    pub fn positions(&self) -> usize {
        self.layers.first().map_or(0, |(keys, _)| keys.dims()[2])
    }

    /// Removes all but the first `positions`.
    pub fn truncate(&mut self, positions: usize) {
        if positions == 0 {
            self.layers.clear();
        } else if positions < self.positions() {
            for (keys, values) in &mut self.layers {
                (*keys, *values) = (keys.clone().narrow(2, 0, positions), values.clone().narrow(2, 0, positions));
            }
        }
    }

    /// Appends keys and values to a layer. Returns all keys and values of that layer.
    fn extend(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let held = match self.layers.get(layer).cloned() {
            Some((old_keys, old_values)) => (Tensor::cat(vec![old_keys, keys], 2), Tensor::cat(vec![old_values, values], 2)),
            None => (keys, values),
        };
        self.layers.truncate(self.layers.len().max(layer));
        match self.layers.get_mut(layer) {
            Some(place) => *place = held.clone(),
            None => self.layers.push(held.clone()),
        }
        held
    }
}

impl Block {
    pub(crate) fn zeros(config: &QwenVlConfig, device: &Device) -> Self {
        let (hidden, mlp) = (config.hidden_size, config.mlp_width());
        let norm = || RmsNorm::zeros(hidden, config.layer_norm_epsilon, device);
        Self {
            ln_1: norm(),
            attn: Attention {
                c_attn: Linear::zeros(hidden, 3 * hidden, true, device),
                c_proj: Linear::zeros(hidden, hidden, false, device),
                heads: config.num_attention_heads,
            },
            ln_2: norm(),
            mlp: DecoderMlp {
                w1: Linear::zeros(hidden, mlp, false, device),
                w2: Linear::zeros(hidden, mlp, false, device),
                c_proj: Linear::zeros(mlp, hidden, false, device),
            },
        }
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, hidden]`, also the shape of the result
    /// - `mask`: `[batch or 1, 1, seq, keys]`, added to the scores
    pub fn forward(&self, x: Tensor<3>, positions: &Positions, mask: &Tensor<4>, cache: Option<(&mut KvCache, usize)>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x), positions, mask, cache);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

impl Attention {
    /// Applies attention, with the shapes of [`Block::forward`].
    pub fn forward(&self, x: Tensor<3>, positions: &Positions, mask: &Tensor<4>, cache: Option<(&mut KvCache, usize)>) -> Tensor<3> {
        let hidden = x.dims()[2];
        let head_dim = hidden / self.heads;
        let qkv = self.c_attn.forward(x);
        // Queries and keys rotate in the same way, so they rotate together as 2 · heads.
        let turned = positions.rotate(split_heads(qkv.clone().narrow(2, 0, 2 * hidden), 2 * self.heads));
        let v = split_heads(qkv.narrow(2, 2 * hidden, hidden), self.heads);
        let (mut q, k) = (turned.clone().narrow(1, 0, self.heads), turned.narrow(1, self.heads, self.heads));
        if let Some(factors) = &positions.logn {
            q = q * factors.clone();
        }
        let (k, v) = match cache {
            Some((cache, layer)) => cache.extend(layer, k, v),
            None => (k, v),
        };
        let scores = q.matmul(k.swap_dims(2, 3)) / (head_dim as f32).sqrt() + mask.clone();
        self.c_proj.forward(join_heads(activation::softmax(scores, 3).matmul(v)))
    }
}

impl DecoderMlp {
    /// Applies the MLP. Keeps the shape `[batch, seq, hidden]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.c_proj.forward(self.w1.forward(x.clone()) * activation::silu(self.w2.forward(x)))
    }
}
