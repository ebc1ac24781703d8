// Eight nibbles to a word (low nibbles of the four bytes first), four words to an element: a block is one element.
// EVEN (int4): the value of a nibble n is t = n - 8. Otherwise (q4) it is floor(t * (10.75 + 0.078125 t^2) + 0.5), the format's Q4_VALUES,
// multiplied out and evaluated by Horner's rule; every step of this is exact in f32, fused or not. The scale multiplies it.
fn values(nibbles: u32) -> vec4<f32> {
  let n = vec4<f32>(unpack4xU8(nibbles));
  if (EVEN) {
    return n - 8.0;
  }
  return floor(((0.078125 * n - 1.875) * n + 25.75) * n - 125.5);
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

alias Stored = vec4<u32>;

fn stored_block(row: u32, block: u32, blocks: u32) -> Stored {
  return weight_data[row * blocks + block];
}

// Inner product of a block without its scale and eight vectors, whose sum is x_sum. That takes the 8 of EVEN's values out of the products.
fn stored_dot(
  codes: Stored, x_sum: f32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>,
  x7: vec4<f32>
) -> f32 {
  var sum = add_products(vec4<f32>(0.0), codes.x, x0, x1);
  sum = add_products(sum, codes.y, x2, x3);
  sum = add_products(sum, codes.z, x4, x5);
  sum = add_products(sum, codes.w, x6, x7);
  let product = sum.x + sum.y + sum.z + sum.w;
  if (EVEN) {
    return product - 8.0 * x_sum;
  }
  return product;
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
