// Inner product of a block of floats with eight vectors.
fn stored_dot(
  at: Stored, bits: u32, x_sum: f32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>,
  x7: vec4<f32>
) -> f32 {
  let w = load_block(0u, at, 0u);
  let sum = w[0] * x0 + w[1] * x1 + w[2] * x2 + w[3] * x3 + w[4] * x4 + w[5] * x5 + w[6] * x6 + w[7] * x7;
  return sum.x + sum.y + sum.z + sum.w;
}

fn block_scale_bits(row: u32, block: u32, blocks: u32) -> u32 {
  return 0u;
}

fn scale_from(bits: u32) -> f32 {
  return 1.0;
}
