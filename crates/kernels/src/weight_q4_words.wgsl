fn prepare_products(lane: u32) {}

// sum and the products of the eight weights of a word with two vectors, without the scale and without the 8 of EVEN's values.
fn add_products(sum: vec4<f32>, word: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return sum + factors(word & 0x0f0f0f0fu) * a + factors((word >> 4u) & 0x0f0f0f0fu) * b;
}

fn factors(nibbles: u32) -> vec4<f32> {
  if (EVEN) {
    return vec4<f32>(unpack4xU8(nibbles));
  }
  return values(nibbles);
}
