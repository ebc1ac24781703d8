//! LayerNorm and RMS norm over rows.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// Weight, bias and epsilon of a norm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Factors of the normalised values.
    pub weight: wgpu::Buffer,
    /// Added to the values. A norm with a bias is a LayerNorm, a norm without is an RMS norm.
    pub bias: Option<wgpu::Buffer>,
    /// Added to the variance, or to the mean of squares.
    pub epsilon: f32,
}

/// Invocations of a workgroup.
const LANES: u32 = 64;

/// Prepares the norm of all rows of the step.
///
/// # Shapes
/// - `input`, `output`: `[rows, cols]` in different buffers
pub fn norm(gpu: &Gpu, step: &StepBuffer, norm: &Norm, input: &Activation, output: &Activation) -> Dispatch {
    assert_eq!(input.cols, output.cols, "a norm keeps the columns");
    let source = [
        "@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n\
         @group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;\n\
         @group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;\n",
        &gpu.kernels().reductions(LANES),
        wgsl!("norm.wgsl"),
    ]
    .concat();
    let sizes = Sizes::default()
        .u32("cols", input.cols)
        .u32("vectors", input.stride() / 4)
        .u32("layer_norm", norm.bias.is_some().into())
        .f32("epsilon", norm.epsilon);
    let bias = norm.bias.as_ref().unwrap_or(gpu.zeros());
    let buffers = [(1, &input.buffer), (2, &output.buffer), (3, &norm.weight), (4, bias)];
    Dispatch::new(gpu, "norm", &source, sizes, Some(step), buffers, Grid::ROW_BY_ROW)
}
