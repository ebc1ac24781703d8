// What a workgroup of LANES has together, by halves, through workgroup memory: 4 bytes a lane for one number, 36 for workgroup_sums.

struct Lane {
  @builtin(local_invocation_index) index: u32
}

var<workgroup> scratch: array<f32, LANES>;

// The largest value, in every lane.
fn workgroup_max(value: f32, lane: Lane) -> f32 {
  scratch[lane.index] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane.index < half) {
      scratch[lane.index] = max(scratch[lane.index], scratch[lane.index + half]);
    }
    workgroupBarrier();
  }
  let largest = scratch[0];
  workgroupBarrier();
  return largest;
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

struct Sums {
  vector: vec4<f32>,
  number: f32
}

var<workgroup> partial: array<array<vec4<f32>, 2>, LANES>;
var<workgroup> partial_numbers: array<f32, LANES>;

// The sum of the first vectors in lane 0, that of the second ones in lane 1, and that of the numbers in both; once in a shader.
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
