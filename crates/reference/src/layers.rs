//! Layers that several blocks share, with weights in the checkpoint's layout.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, module};

/// Linear layer: `x · weightᵀ (+ bias)`.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight, `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// Bias, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Creates the layer with weights of zero.
    pub fn zeros(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self { weight: zeros([outputs, inputs], device), bias: bias.then(|| zeros([outputs], device)) }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// - `x`: `[…, in]`
    /// - returns: `[…, out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        module::linear(x, self.weight.val().transpose(), self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// Layer normalisation over the last dimension.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Weight, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Bias, `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Creates the layer with weights of zero.
    pub fn zeros(width: usize, device: &Device) -> Self {
        Self { weight: zeros([width], device), bias: zeros([width], device) }
    }

    /// Normalises `x` and keeps its shape. The epsilon is that of the visual part.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let epsilon = f64::from(qwen_vl_format::qwen_vl::VISION_NORM_EPSILON);
        module::layer_norm(x, self.weight.val(), Some(self.bias.val()), epsilon)
    }
}

/// RMS normalisation over the last dimension: `x / √(mean(x²) + ε) · weight`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Weight, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f32,
}

impl RmsNorm {
    /// Creates the layer with weights of zero.
    pub fn zeros(hidden: usize, epsilon: f32, device: &Device) -> Self {
        Self { weight: zeros([hidden], device), epsilon }
    }

    /// Normalises `x` and keeps its shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let root = (x.clone().square().mean_dim(D - 1) + self.epsilon).sqrt();
        x / root * self.weight.val().unsqueeze()
    }
}

/// Creates a parameter of zeros. A checkpoint fills it later.
pub(crate) fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::zeros(shape, device))
}

/// Splits the heads: `[batch, n, heads · head_dim]` → `[batch, heads, n, head_dim]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, n, width] = x.dims();
    x.reshape([batch, n, heads, width / heads]).swap_dims(1, 2)
}

/// Joins the heads: `[batch, heads, n, head_dim]` → `[batch, n, heads · head_dim]`.
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, n, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, n, heads * head_dim])
}
