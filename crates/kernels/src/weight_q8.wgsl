// Four signed codes to a word, four words to an element: 32 consecutive weights of a row are two elements.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let at = (row * blocks + block) * 2u;
  let a = weight_data[at];
  let b = weight_data[at + 1u];
  let scale = scale_from(block_scale_bits(row, block, blocks));
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
  let scale = scale_from(block_scale_bits(row, block, blocks));
  return array<vec4<f32>, 2>(
    vec4<f32>(unpack4xI8(weight_data[at][word])) * scale, vec4<f32>(unpack4xI8(weight_data[at][word + 1u])) * scale);
}

// A block as 32 signed codes, four to a word, without the factor code_scale.
fn load_codes(row: u32, block: u32, blocks: u32) -> array<vec4<u32>, 2> {
  let at = (row * blocks + block) * 2u;
  return array<vec4<u32>, 2>(weight_data[at], weight_data[at + 1u]);
}

// Inner product of a block without its scale and 32 codes, four to a word.
fn stored_packed_dot(at: Stored, bits: u32, x_sum: i32, x0: vec4<u32>, x1: vec4<u32>) -> f32 {
  let a = weight_data[at * 2u];
  let b = weight_data[at * 2u + 1u];
  return f32(
    dot4I8Packed(a.x, x0.x) + dot4I8Packed(a.y, x0.y) + dot4I8Packed(a.z, x0.z) + dot4I8Packed(a.w, x0.w)
      + dot4I8Packed(b.x, x1.x) + dot4I8Packed(b.y, x1.y) + dot4I8Packed(b.z, x1.z) + dot4I8Packed(b.w, x1.w));
}

fn code_scale(row: u32, block: u32, blocks: u32) -> f32 {
  return scale_from(block_scale_bits(row, block, blocks));
}

// Inner product of a block without its scale and eight vectors.
fn stored_dot(
  at: Stored, bits: u32, x_sum: f32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>,
  x7: vec4<f32>
) -> f32 {
  let a = weight_data[at * 2u];
  let b = weight_data[at * 2u + 1u];
  let sum = vec4<f32>(unpack4xI8(a.x)) * x0 + vec4<f32>(unpack4xI8(a.y)) * x1 + vec4<f32>(unpack4xI8(a.z)) * x2
    + vec4<f32>(unpack4xI8(a.w)) * x3 + vec4<f32>(unpack4xI8(b.x)) * x4 + vec4<f32>(unpack4xI8(b.y)) * x5
    + vec4<f32>(unpack4xI8(b.z)) * x6 + vec4<f32>(unpack4xI8(b.w)) * x7;
  return sum.x + sum.y + sum.z + sum.w;
}
