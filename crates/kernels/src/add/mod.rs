//! Sums of two matrices of the same shape.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// Prepares `output = left + right` for all rows of the step.
///
/// # Shapes
/// - `left`, `right`, `output`: `[rows, cols]`; `output` is a different buffer from the other two
pub fn add(gpu: &Gpu, step: &StepBuffer, left: &Activation, right: &Activation, output: &Activation) -> Dispatch {
    assert!(left.cols == right.cols && left.cols == output.cols, "a sum keeps the columns");
    let source = [
        "@group(0) @binding(1) var<storage, read> left: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> right: array<vec4<f32>>;\n\
         @group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;\n",
        wgsl!("add.wgsl"),
    ]
    .concat();
    let sizes = Sizes::default().u32("vectors", left.stride() / 4);
    let buffers = [(1, &left.buffer), (2, &right.buffer), (3, &output.buffer)];
    Dispatch::new(gpu, "add", &source, sizes, Some(step), buffers, Grid::ROW_BY_ROW)
}

/// Prepares `output += other` for all rows of the step.
///
/// # Shapes
/// - `output`, `other`: `[rows, cols]` in different buffers
pub fn accumulate(gpu: &Gpu, step: &StepBuffer, output: &Activation, other: &Activation) -> Dispatch {
    assert_eq!(output.cols, other.cols, "a sum keeps the columns");
    let source = [
        "@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> other: array<vec4<f32>>;\n",
        wgsl!("accumulate.wgsl"),
    ]
    .concat();
    let sizes = Sizes::default().u32("vectors", output.stride() / 4);
    Dispatch::new(gpu, "accumulate", &source, sizes, Some(step), [(1, &output.buffer), (2, &other.buffer)], Grid::ROW_BY_ROW)
}
