// The reductions of reduce_tree.wgsl by subgroups of any size (a power of two): first in each subgroup, then over the subgroups' results.
// Assumes that a subgroup's lanes are consecutive (true on all known drivers for one-dimensional workgroups); the self-check at load detects
// drivers where they are not.

struct Lane {
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) in_subgroup: u32,
  @builtin(subgroup_size) subgroup_size: u32
}

// Number of subgroups: one, partly filled, if the subgroup is larger than the workgroup.
fn subgroups(lane: Lane) -> u32 {
  return max(LANES / lane.subgroup_size, 1u);
}

// The sum, in every lane.
fn workgroup_sum(value: f32, lane: Lane) -> f32 {
  let of_subgroup = subgroupAdd(value);
  if (lane.in_subgroup == 0u) {
    scratch[lane.index / lane.subgroup_size] = of_subgroup;
  }
  workgroupBarrier();
  var sum = scratch[0];
  for (var i = 1u; i < subgroups(lane); i++) {
    sum += scratch[i];
  }
  workgroupBarrier();
  return sum;
}

// See Sums.
fn workgroup_sums(first: vec4<f32>, second: vec4<f32>, number: f32, lane: Lane) -> Sums {
  let firsts = subgroupAdd(first);
  let seconds = subgroupAdd(second);
  let numbers = subgroupAdd(number);
  if (lane.in_subgroup == 0u) {
    let at = lane.index / lane.subgroup_size;
    partial[at][0] = firsts;
    partial[at][1] = seconds;
    partial_numbers[at] = numbers;
  }
  workgroupBarrier();
  var sums: Sums;
  if (lane.index < 2u) {
    for (var i = 0u; i < subgroups(lane); i++) {
      sums.vector += partial[i][lane.index];
      sums.number += partial_numbers[i];
    }
  }
  return sums;
}
