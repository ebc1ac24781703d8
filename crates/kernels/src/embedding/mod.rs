//! Rows of the embedding matrix for token ids.

use crate::dispatch::Sizes;
use crate::wgsl::wgsl;
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
                "@group(0) @binding(1) var<storage, read> ids: array<u32>;\n\
                 @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;\n{}{}",
                weight.wgsl(4),
                wgsl!("embedding.wgsl"),
            );
            let sizes = Sizes::default().u32("blocks", output.stride() / 32).u32("first_row", first_row).u32("rows", part.rows);
            let buffers = [(1, ids), (2, &output.buffer)].into_iter().chain(part.bindings(4));
            Dispatch::new(gpu, "embedding", &source, sizes, Some(step), buffers, Grid::Rows { tile: 1, x: 1, z: 1 })
        })
        .collect()
}
