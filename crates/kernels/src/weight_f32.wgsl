// 32 consecutive weights of a row as eight vectors. `blocks` is the number of 32-weight blocks in a stored row.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let at = (row * blocks + block) * 8u;
  return array<vec4<f32>, 8>(
    weight_data[at], weight_data[at + 1u], weight_data[at + 2u], weight_data[at + 3u],
    weight_data[at + 4u], weight_data[at + 5u], weight_data[at + 6u], weight_data[at + 7u]);
}

// Two vectors of a block.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let at = (row * blocks + block) * 8u + quarter * 2u;
  return array<vec4<f32>, 2>(weight_data[at], weight_data[at + 1u]);
}
