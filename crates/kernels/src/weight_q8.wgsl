// Four signed codes to a word, four words to an element: 32 consecutive weights of a row are two elements.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let codes = weight_data[(row * blocks + block) * 2u + quarter / 2u];
  let words = select(codes.xy, codes.zw, (quarter & 1u) == 1u);
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 2>(vec4<f32>(unpack4xI8(words.x)) * scale, vec4<f32>(unpack4xI8(words.y)) * scale);
}

// A block as 32 signed codes, four to a word; block_scale is to be multiplied.
fn load_codes(row: u32, block: u32, blocks: u32) -> array<vec4<u32>, 2> {
  let at = (row * blocks + block) * 2u;
  return array<vec4<u32>, 2>(weight_data[at], weight_data[at + 1u]);
}
