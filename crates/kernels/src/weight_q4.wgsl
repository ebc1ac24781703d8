// Eight nibbles to a word (low nibbles of the four bytes first), four words to an element: a block is one element.
// EVEN (int4): the value of a nibble n is t = n - 8. Otherwise (q4) it is floor(t * (10.75 + 0.078125 t^2) + 0.5), the format's Q4_VALUES;
// every step of this is exact in f32. The scale multiplies it.
fn values(nibbles: u32) -> vec4<f32> {
  let t = vec4<f32>(unpack4xU8(nibbles)) - 8.0;
  if (EVEN) {
    return t;
  }
  return floor(t * (10.75 + 0.078125 * t * t) + 0.5);
}

fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let codes = weight_data[row * blocks + block];
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 8>(
    values(low.x) * scale, values(high.x) * scale, values(low.y) * scale, values(high.y) * scale,
    values(low.z) * scale, values(high.z) * scale, values(low.w) * scale, values(high.w) * scale);
}

// Two vectors of a block.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let codes = weight_data[row * blocks + block][quarter];
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 2>(values(codes & 0x0f0f0f0fu) * scale, values((codes >> 4u) & 0x0f0f0f0fu) * scale);
}

// Inner product of a block with eight vectors; the scale multiplies the sum.
fn block_dot(
  row: u32, block: u32, blocks: u32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>,
  x6: vec4<f32>, x7: vec4<f32>
) -> f32 {
  let codes = weight_data[row * blocks + block];
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let sum = values(low.x) * x0 + values(high.x) * x1 + values(low.y) * x2 + values(high.y) * x3
    + values(low.z) * x4 + values(high.z) * x5 + values(low.w) * x6 + values(high.w) * x7;
  return (sum.x + sum.y + sum.z + sum.w) * block_scale(row, block, blocks);
}

// A block as 32 signed codes, four to a word, without the factor block_scale.
fn load_codes(row: u32, block: u32, blocks: u32) -> array<vec4<u32>, 2> {
  let codes = weight_data[row * blocks + block];
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  return array<vec4<u32>, 2>(
    vec4<u32>(packed(low.x), packed(high.x), packed(low.y), packed(high.y)),
    vec4<u32>(packed(low.z), packed(high.z), packed(low.w), packed(high.w)));
}

fn packed(nibbles: u32) -> u32 {
  return pack4xI8(vec4<i32>(values(nibbles)));
}
