// token[0] = index of the largest of sizes.cols logits, the lowest index on ties; NOT_FINITE (all bits set) if any logit is NaN or infinite.
// One workgroup of LANES. It shares only indices, not logits: 4 bytes of workgroup memory per lane.

const NOT_FINITE: u32 = 0xffffffffu;

var<workgroup> best: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var index = min(lane, sizes.cols - 1u);
  var value = logits[index];
  for (var i = lane; i < sizes.cols; i += LANES) {
    let logit = logits[i];
    // Tested on the bits: a compiler may assume that floats are never NaN.
    if ((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u) {
      index = NOT_FINITE;
      break;
    }
    if (logit > value) {
      value = logit;
      index = i;
    }
  }
  best[lane] = index;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane < half) {
      best[lane] = better(best[lane], best[lane + half]);
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    token[0] = best[0];
  }
}

fn better(a: u32, b: u32) -> u32 {
  if (max(a, b) == NOT_FINITE) {
    return NOT_FINITE;
  }
  return select(a, b, logits[b] > logits[a] || (logits[b] == logits[a] && b < a));
}
