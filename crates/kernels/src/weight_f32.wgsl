// 32 consecutive weights of a row are eight elements.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let at = (row * blocks + block) * 8u + quarter * 2u;
  return array<vec4<f32>, 2>(weight_data[at], weight_data[at + 1u]);
}
