// Eight nibbles to a word (low nibbles of the four bytes first), four words to an element: a block is one element.
// EVEN: a nibble n stands for t = n - 8 scales (int4). Otherwise (q4) for floor(t * (10.75 + 0.078125 t^2) + 0.5), the format's Q4_VALUES;
// every step of that is exact in f32.
fn values(nibbles: u32) -> vec4<f32> {
  let t = vec4<f32>(unpack4xU8(nibbles & 0x0f0f0f0fu)) - 8.0;
  if (EVEN) {
    return t;
  }
  return floor(t * (10.75 + 0.078125 * t * t) + 0.5);
}

fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let codes = weight_data[row * blocks + block];
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 8>(
    values(codes.x) * scale, values(codes.x >> 4u) * scale, values(codes.y) * scale, values(codes.y >> 4u) * scale,
    values(codes.z) * scale, values(codes.z >> 4u) * scale, values(codes.w) * scale, values(codes.w >> 4u) * scale);
}
