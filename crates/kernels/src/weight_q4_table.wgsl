// add_products of weight_q4_words.wgsl with the values of q4 in a table of all pairs in workgroup memory: entry n has those of the nibbles
// n % 16 and n / 16 as two numbers in f16, which has them exactly.
var<workgroup> pairs: array<u32, 256>;

fn prepare_products(lane: u32) {
  for (var i = lane; i < 256u; i += LANES) {
    let value = values((i & 15u) | ((i >> 4u) << 8u));
    pairs[i] = pack2x16float(value.xy);
  }
  workgroupBarrier();
}

fn add_products(sum: vec4<f32>, word: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let p0 = unpack2x16float(pairs[word & 255u]);
  let p1 = unpack2x16float(pairs[(word >> 8u) & 255u]);
  let p2 = unpack2x16float(pairs[(word >> 16u) & 255u]);
  let p3 = unpack2x16float(pairs[word >> 24u]);
  return sum + vec4<f32>(p0.x, p1.x, p2.x, p3.x) * a + vec4<f32>(p0.y, p1.y, p2.y, p3.y) * b;
}
