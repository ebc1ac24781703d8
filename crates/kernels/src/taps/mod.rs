//! Rows of a table resampled by four taps, as the position tables of vision towers.

pub mod oracle;

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer};

/// Four rows of a table and their weights for each row of the output.
#[derive(Debug, Clone)]
pub struct Taps {
    /// Rows of the table, u32, `[rows, 4]`. An index past the table takes its last row.
    pub indices: wgpu::Buffer,
    /// Factors, f32, `[rows, 4]`.
    pub weights: wgpu::Buffer,
}

/// Prepares `output[m] += sum over k of weights[m, k] * table[indices[m, k]]` for all rows of the step.
///
/// # Shapes
/// - `table`: `[rows of the table, cols]`, `output`: `[rows, cols]` in different buffers
pub fn add_taps(gpu: &Gpu, step: &StepBuffer, table: &Activation, taps: &Taps, output: &Activation) -> Dispatch {
    assert_eq!(table.cols, output.cols, "taps keep the columns");
    let source = [
        "@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;\n\
         @group(0) @binding(2) var<storage, read> indices: array<vec4<u32>>;\n\
         @group(0) @binding(3) var<storage, read> weights: array<vec4<f32>>;\n\
         @group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;\n",
        wgsl!("taps.wgsl"),
    ]
    .concat();
    let sizes = Sizes::default().u32("vectors", output.stride() / 4).u32("last", table.rows - 1);
    let buffers = [(1, &table.buffer), (2, &taps.indices), (3, &taps.weights), (4, &output.buffer)];
    Dispatch::new(gpu, "add_taps", &source, sizes, Some(step), buffers, Grid::ROW_BY_ROW)
}
