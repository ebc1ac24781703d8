// Eight nibbles to a word (low nibbles of the four bytes first), four words to an element: a block is one element.
fn low_nibbles(word: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
}

fn high_nibbles(word: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0;
}

fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let codes = weight_data[row * blocks + block];
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 8>(
    low_nibbles(codes.x) * scale, high_nibbles(codes.x) * scale, low_nibbles(codes.y) * scale, high_nibbles(codes.y) * scale,
    low_nibbles(codes.z) * scale, high_nibbles(codes.z) * scale, low_nibbles(codes.w) * scale, high_nibbles(codes.w) * scale);
}
