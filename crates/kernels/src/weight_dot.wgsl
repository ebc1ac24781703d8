// A block, 32 consecutive weights of a row, as eight vectors. `blocks` is the number of blocks in a stored row.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let a = load_quarter(row, block, blocks, 0u);
  let b = load_quarter(row, block, blocks, 1u);
  let c = load_quarter(row, block, blocks, 2u);
  let d = load_quarter(row, block, blocks, 3u);
  return array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]);
}

// Inner product of a block with eight vectors.
fn block_dot(
  row: u32, block: u32, blocks: u32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>,
  x6: vec4<f32>, x7: vec4<f32>
) -> f32 {
  let w = load_block(row, block, blocks);
  let sum = w[0] * x0 + w[1] * x1 + w[2] * x2 + w[3] * x3 + w[4] * x4 + w[5] * x5 + w[6] * x6 + w[7] * x7;
  return sum.x + sum.y + sum.z + sum.w;
}
