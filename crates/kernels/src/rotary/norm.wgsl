// The norms of rotary.wgsl: x * weight / sqrt(mean of a head's squares + sizes.epsilon). The heads of k follow those of q.

var<workgroup> squares: array<f32, (HEADS + KV_HEADS) * 8u>;  // [head][8]: sums over every eighth vector
var<workgroup> factors: array<f32, HEADS + KV_HEADS>;

fn prepare_norms(row: u32, lane: u32) {
  let vectors = sizes.quads * 2u;
  for (var i = lane; i < (HEADS + KV_HEADS) * 8u; i += 64u) {
    var sum = 0.0;
    for (var vector = i % 8u; vector < vectors; vector += 8u) {
      let x = qkv[row + i / 8u * vectors + vector];
      sum += dot(x, x);
    }
    squares[i] = sum;
  }
  workgroupBarrier();
  for (var head = lane; head < HEADS + KV_HEADS; head += 64u) {
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
      sum += squares[head * 8u + i];
    }
    factors[head] = inverseSqrt(sum / f32(vectors * 4u) + sizes.epsilon);
  }
  workgroupBarrier();
}

fn q_norm(x: vec4<f32>, head: u32, at: u32) -> vec4<f32> {
  return x * factors[head] * q_weight[at];
}

fn k_norm(x: vec4<f32>, head: u32, at: u32) -> vec4<f32> {
  return x * factors[HEADS + head] * k_weight[at];
}
