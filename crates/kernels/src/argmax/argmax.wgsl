// token[0] = index of the largest of sizes.cols logits, the lowest of equals; all bits set if any logit is NaN or infinite.
// One workgroup of 256. Workgroup memory: 3 KiB.

var<workgroup> best_value: array<f32, 256>;
var<workgroup> best_index: array<u32, 256>;
var<workgroup> broken: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var value = -3.4e38;
  var index = sizes.cols;
  var not_finite = 0u;
  for (var i = lane; i < sizes.cols; i += 256u) {
    let logit = logits[i];
    // On the bits: a compiler may assume that floats are never NaN.
    not_finite |= u32((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u);
    if (logit > value) {
      value = logit;
      index = i;
    }
  }
  best_value[lane] = value;
  best_index[lane] = index;
  broken[lane] = not_finite;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half >>= 1u) {
    if (lane < half) {
      let other = best_value[lane + half];
      let other_index = best_index[lane + half];
      if (other > best_value[lane] || (other == best_value[lane] && other_index < best_index[lane])) {
        best_value[lane] = other;
        best_index[lane] = other_index;
      }
      broken[lane] |= broken[lane + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    token[0] = select(best_index[0], 0xffffffffu, broken[0] != 0u);
  }
}
