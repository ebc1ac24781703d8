// Two halves to a word, four words to an element: 32 consecutive weights of a row are four elements.
fn four_halves(low: u32, high: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}

fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let at = (row * blocks + block) * 4u;
  let a = weight_data[at];
  let b = weight_data[at + 1u];
  let c = weight_data[at + 2u];
  let d = weight_data[at + 3u];
  return array<vec4<f32>, 8>(
    four_halves(a.x, a.y), four_halves(a.z, a.w), four_halves(b.x, b.y), four_halves(b.z, b.w),
    four_halves(c.x, c.y), four_halves(c.z, c.w), four_halves(d.x, d.y), four_halves(d.z, d.w));
}

// Two vectors of a block.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let words = weight_data[(row * blocks + block) * 4u + quarter];
  return array<vec4<f32>, 2>(four_halves(words.x, words.y), four_halves(words.z, words.w));
}
