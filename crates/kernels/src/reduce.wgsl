// Workgroup memory of the reductions over a workgroup of LANES: 4 bytes per lane for one number, 36 for workgroup_sums. A kernel takes its
// Lane in main and calls workgroup_sum or workgroup_sums of reduce_tree.wgsl or, with subgroups, of reduce_subgroups.wgsl.

var<workgroup> scratch: array<f32, LANES>;
var<workgroup> partial: array<array<vec4<f32>, 2>, LANES>;
var<workgroup> partial_numbers: array<f32, LANES>;

// Result of workgroup_sums for two vectors and a number: lane 0 has the sum of the first vectors, lane 1 that of the second ones, both have
// the sum of the numbers. A shader may call workgroup_sums once.
struct Sums {
  vector: vec4<f32>,
  number: f32
}
