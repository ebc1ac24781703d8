//! Rows of the embedding matrix for token ids.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
use crate::{Activation, Dispatch, Gpu, Grid, StepBuffer, Weight};

/// Prepares the lookup of each id's embedding: one launch for each slice of the matrix, which writes the rows of the ids in that slice.
///
/// # Shapes
/// - `weight`: `[vocab, hidden]`, `ids`: `[rows]` u32, `output`: `[rows, hidden]`
pub fn embedding(gpu: &Gpu, step: &StepBuffer, weight: &Weight, ids: &wgpu::Buffer, output: &Activation) -> Vec<Dispatch> {
    assert_eq!(weight.cols, output.cols, "embeddings have the width of the decoder");
    weight
        .parts_from()
        .map(|(first_row, part)| {
            let source = format!(
                "@group(0) @binding(1) var<storage, read> ids: array<u32>;\n\
                 @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n{}{}",
                weight.wgsl(4),
                wgsl!("embedding.wgsl"),
            );
            let sizes = Sizes::default().u32("blocks", output.stride() / 32).u32("first_row", first_row).u32("rows", part.rows);
            let buffers = [(1, ids), (2, &output.buffer)].into_iter().chain(part.bindings(4));
            Dispatch::new(gpu, "embedding", &source, sizes, Some(step), buffers, Grid::ROW_BY_ROW)
        })
        .collect()
}
