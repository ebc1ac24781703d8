// Eight nibbles to a word (low nibbles of the four bytes first), four words to an element: a block is one element.
// EVEN: the value of a nibble n is n - z, where z is 8 (int4) or, with ZERO_POINTS (q4z), a zero point that the lowest bits of the scale choose.
// Otherwise (q4) it is floor(t * (10.75 + 0.078125 t^2) + 0.5) with t = n - 8, the format's Q4_VALUES, multiplied out and evaluated by Horner's
// rule. Every step of all of this is exact in f32, fused or not. The scale multiplies the value.
fn values(nibbles: u32, zero: f32) -> vec4<f32> {
  let n = vec4<f32>(unpack4xU8(nibbles));
  if (EVEN) {
    return n - zero;
  }
  return floor(((0.078125 * n - 1.875) * n + 25.75) * n - 125.5);
}

// Eighths of the zero point.
fn zero_eighths(bits: u32) -> u32 {
  if (ZERO_POINTS) {
    return 60u - (bits & 31u);
  }
  return 64u;
}

fn zero_from(bits: u32) -> f32 {
  return f32(zero_eighths(bits)) * 0.125;
}

// The values, without the zero point of EVEN's.
fn factors(nibbles: u32) -> vec4<f32> {
  if (EVEN) {
    return vec4<f32>(unpack4xU8(nibbles));
  }
  return values(nibbles, 0.0);
}

// sum and the products of the eight weights of a word with two vectors, without the scale and the zero point.
fn add_products(sum: vec4<f32>, word: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return sum + factors(word & 0x0f0f0f0fu) * a + factors((word >> 4u) & 0x0f0f0f0fu) * b;
}

fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let codes = weight_data[row * blocks + block];
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let bits = block_scale_bits(row, block, blocks);
  let scale = scale_from(bits);
  let zero = zero_from(bits);
  return array<vec4<f32>, 8>(
    values(low.x, zero) * scale, values(high.x, zero) * scale, values(low.y, zero) * scale, values(high.y, zero) * scale,
    values(low.z, zero) * scale, values(high.z, zero) * scale, values(low.w, zero) * scale, values(high.w, zero) * scale);
}

// Two vectors of a block.
fn load_quarter(row: u32, block: u32, blocks: u32, quarter: u32) -> array<vec4<f32>, 2> {
  let codes = weight_data[row * blocks + block][quarter];
  let bits = block_scale_bits(row, block, blocks);
  let scale = scale_from(bits);
  let zero = zero_from(bits);
  return array<vec4<f32>, 2>(values(codes & 0x0f0f0f0fu, zero) * scale, values((codes >> 4u) & 0x0f0f0f0fu, zero) * scale);
}

alias Stored = vec4<u32>;

fn stored_block(row: u32, block: u32, blocks: u32) -> Stored {
  return weight_data[row * blocks + block];
}

// Inner product of a block without its scale and eight vectors, whose sum is x_sum. That takes the zero point out of the products.
fn stored_dot(
  codes: Stored, bits: u32, x_sum: f32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>,
  x7: vec4<f32>
) -> f32 {
  var sum = add_products(vec4<f32>(0.0), codes.x, x0, x1);
  sum = add_products(sum, codes.y, x2, x3);
  sum = add_products(sum, codes.z, x4, x5);
  sum = add_products(sum, codes.w, x6, x7);
  let product = sum.x + sum.y + sum.z + sum.w;
  if (EVEN) {
    return product - zero_from(bits) * x_sum;
  }
  return product;
}

// Inner product of a block without its scale and 32 codes, four to a word, whose sum is x_sum. For EVEN's values.
fn stored_packed_dot(codes: Stored, bits: u32, x_sum: i32, x0: vec4<u32>, x1: vec4<u32>) -> f32 {
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let sum = dot4I8Packed(low.x, x0.x) + dot4I8Packed(high.x, x0.y) + dot4I8Packed(low.y, x0.z) + dot4I8Packed(high.y, x0.w)
    + dot4I8Packed(low.z, x1.x) + dot4I8Packed(high.z, x1.y) + dot4I8Packed(low.w, x1.z) + dot4I8Packed(high.w, x1.w);
  return f32(8 * sum - i32(zero_eighths(bits)) * x_sum) * 0.125;
}

// A block as 32 signed codes, four to a word, without the factor code_scale. Those of EVEN are in eighths.
fn load_codes(row: u32, block: u32, blocks: u32) -> array<vec4<u32>, 2> {
  let codes = weight_data[row * blocks + block];
  let low = codes & vec4<u32>(0x0f0f0f0fu);
  let high = (codes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let zero = zero_eighths(block_scale_bits(row, block, blocks));
  return array<vec4<u32>, 2>(
    vec4<u32>(packed(low.x, zero), packed(high.x, zero), packed(low.y, zero), packed(high.y, zero)),
    vec4<u32>(packed(low.z, zero), packed(high.z, zero), packed(low.w, zero), packed(high.w, zero)));
}

// Four codes. The highest bit of each byte takes the borrow of the subtraction, and is the sign then.
fn packed(nibbles: u32, zero_eighths: u32) -> u32 {
  if (EVEN) {
    return (((nibbles * 8u) | 0x80808080u) - zero_eighths * 0x01010101u) ^ 0x80808080u;
  }
  return pack4xI8(vec4<i32>(values(nibbles, 0.0)));
}

fn code_scale(row: u32, block: u32, blocks: u32) -> f32 {
  let scale = scale_from(block_scale_bits(row, block, blocks));
  return select(scale, scale * 0.125, EVEN);
}
