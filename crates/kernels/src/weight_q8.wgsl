// Four signed codes to a word, four words to an element: 32 consecutive weights of a row are two elements.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let at = (row * blocks + block) * 2u;
  let a = weight_data[at];
  let b = weight_data[at + 1u];
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 8>(
    vec4<f32>(unpack4xI8(a.x)) * scale, vec4<f32>(unpack4xI8(a.y)) * scale,
    vec4<f32>(unpack4xI8(a.z)) * scale, vec4<f32>(unpack4xI8(a.w)) * scale,
    vec4<f32>(unpack4xI8(b.x)) * scale, vec4<f32>(unpack4xI8(b.y)) * scale,
    vec4<f32>(unpack4xI8(b.z)) * scale, vec4<f32>(unpack4xI8(b.w)) * scale);
}

// Two vectors of a block.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let at = (row * blocks + block) * 2u + quarter / 2u;
  let word = (quarter & 1u) * 2u;
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 2>(
    vec4<f32>(unpack4xI8(weight_data[at][word])) * scale, vec4<f32>(unpack4xI8(weight_data[at][word + 1u])) * scale);
}

// A block as 32 signed codes, four to a word, without the factor block_scale.
fn load_codes(row: u32, block: u32, blocks: u32) -> array<vec4<u32>, 2> {
  let at = (row * blocks + block) * 2u;
  return array<vec4<u32>, 2>(weight_data[at], weight_data[at + 1u]);
}
