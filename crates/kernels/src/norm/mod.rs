//! LayerNorm and RMS norm over rows.

pub mod oracle;

use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// Weight and bias of a norm on the GPU, with its epsilon.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Multiplied onto the normalised values.
    pub weight: wgpu::Buffer,
    /// Added to them; a norm with a bias is a LayerNorm, one without is an RMS norm.
    pub bias: Option<wgpu::Buffer>,
    /// Added to the variance or to the mean of squares.
    pub epsilon: f32,
}

/// Normalises all rows of the step.
///
/// # Shapes
/// - `input`, `output`: `[rows, cols]`, different buffers
pub fn norm(gpu: &Gpu, step: &StepBuffer, norm: &Norm, input: &Activation, output: &Activation) -> Dispatch {
    assert_eq!(input.cols, output.cols, "a norm keeps the columns");
    let bias = match norm.bias {
        Some(_) => {
            "@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;\nfn bias_at(i: u32) -> vec4<f32> { return bias[i]; }\n"
        }
        None => "fn bias_at(i: u32) -> vec4<f32> { return vec4<f32>(0.0); }\n",
    };
    let source = format!(
        "const COLS: u32 = {}u;\nconst VECTORS: u32 = {}u;\nconst RMS: bool = {};\nconst EPSILON: f32 = {:e};\n\
         @group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n\
         @group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;\n{bias}{}",
        input.cols,
        input.stride() / 4,
        norm.bias.is_none(),
        norm.epsilon,
        include_str!("norm.wgsl"),
    );
    let buffers = [(1, &input.buffer), (2, &output.buffer), (3, &norm.weight)].into_iter().chain(norm.bias.iter().map(|bias| (4, bias)));
    Dispatch::new(gpu, "norm", &source, Some(step), buffers, Grid::Rows { tile: 1, x: 1, z: 1 })
}
