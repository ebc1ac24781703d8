//! Rows of the embedding matrix for token ids.

use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer, Weight};

/// Looks up the embedding of each id; one launch for each part of the matrix, each writing the rows whose ids it holds.
///
/// # Shapes
/// - `weight`: `[vocab, hidden]`, `ids`: `[rows]` u32, `output`: `[rows, hidden]`
pub fn embedding(gpu: &Gpu, step: &StepBuffer, weight: &Weight, ids: &wgpu::Buffer, output: &Activation) -> Vec<Dispatch> {
    assert_eq!(weight.cols, output.cols, "embeddings are of the decoder's width");
    weight
        .parts_from()
        .map(|(first_row, part)| {
            let source = format!(
                "const BLOCKS: u32 = {}u;\nconst FIRST_ROW: u32 = {first_row}u;\nconst ROWS: u32 = {}u;\n\
                 @group(0) @binding(1) var<storage, read> ids: array<u32>;\n\
                 @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n{}{}",
                output.stride() / 32,
                part.rows,
                weight.wgsl(4),
                include_str!("embedding.wgsl"),
            );
            let buffers = [(1, ids), (2, &output.buffer)].into_iter().chain(part.bindings(4));
            Dispatch::new(gpu, "embedding", &source, Some(step), buffers, Grid::Rows { tile: 1, x: 1, z: 1 })
        })
        .collect()
}
