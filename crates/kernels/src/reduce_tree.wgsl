// Reductions over a workgroup of LANES (see reduce.wgsl) in a binary tree.

struct Lane {
  @builtin(local_invocation_index) index: u32
}

// The sum, in every lane.
fn workgroup_sum(value: f32, lane: Lane) -> f32 {
  scratch[lane.index] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane.index < half) {
      scratch[lane.index] += scratch[lane.index + half];
    }
    workgroupBarrier();
  }
  let sum = scratch[0];
  workgroupBarrier();
  return sum;
}

// See Sums.
fn workgroup_sums(first: vec4<f32>, second: vec4<f32>, number: f32, lane: Lane) -> Sums {
  partial[lane.index][0] = first;
  partial[lane.index][1] = second;
  partial_numbers[lane.index] = number;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane.index < half) {
      partial[lane.index][0] += partial[lane.index + half][0];
      partial[lane.index][1] += partial[lane.index + half][1];
      partial_numbers[lane.index] += partial_numbers[lane.index + half];
    }
    workgroupBarrier();
  }
  var sums: Sums;
  if (lane.index < 2u) {
    sums = Sums(partial[0][lane.index], partial_numbers[0]);
  }
  return sums;
}
