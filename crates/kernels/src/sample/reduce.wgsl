// Sums over a workgroup of LANES, 256. Their order is fixed: a seed gives the same tokens every time. Workgroup memory: 4 KiB.

var<workgroup> partial: array<vec4<f32>, LANES>;

struct Scan {
  // The sums of the lanes before this one.
  before: vec4<f32>,
  // The sums of all lanes.
  all: vec4<f32>
}

fn scan(value: vec4<f32>, lane: u32) -> Scan {
  partial[lane] = value;
  workgroupBarrier();
  // Sums of rows of 16 lanes, each by one lane, and then of the 16 rows, by every lane: two barriers.
  if (lane < 16u) {
    for (var i = 16u * lane + 1u; i < 16u * lane + 16u; i++) {
      partial[i] += partial[i - 1u];
    }
  }
  workgroupBarrier();
  var sums: Scan;
  for (var row = 0u; row < 16u; row++) {
    if (row == lane / 16u) {
      sums.before = sums.all;
    }
    sums.all += partial[16u * row + 15u];
  }
  if (lane % 16u > 0u) {
    sums.before += partial[lane - 1u];
  }
  workgroupBarrier();
  return sums;
}
