// Two halves to a word, four words to an element: 32 consecutive weights of a row are four elements.
fn four_halves(low: u32, high: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}

fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let words = weight_data[(row * blocks + block) * 4u + quarter];
  return array<vec4<f32>, 2>(four_halves(words.x, words.y), four_halves(words.z, words.w));
}
