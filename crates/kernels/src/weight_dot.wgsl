// Inner product of 32 consecutive weights of a row with eight vectors.
fn block_dot(
  row: u32, block: u32, blocks: u32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>,
  x6: vec4<f32>, x7: vec4<f32>
) -> f32 {
  let w = load_block(row, block, blocks);
  let sum = w[0] * x0 + w[1] * x1 + w[2] * x2 + w[3] * x3 + w[4] * x4 + w[5] * x5 + w[6] * x6 + w[7] * x7;
  return sum.x + sum.y + sum.z + sum.w;
}
