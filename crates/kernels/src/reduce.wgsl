// What a workgroup of LANES sums and compares through: 4 bytes a lane for one number, 36 for workgroup_sums. A kernel takes its Lane in main
// and calls workgroup_max, workgroup_sum or workgroup_sums, which are in reduce_tree.wgsl and, the same with subgroups, in
// reduce_subgroups.wgsl.

var<workgroup> scratch: array<f32, LANES>;
var<workgroup> partial: array<array<vec4<f32>, 2>, LANES>;
var<workgroup> partial_numbers: array<f32, LANES>;

// Of two vectors and a number: the sum of the first vectors in lane 0, that of the second ones in lane 1, and that of the numbers in both.
// Once in a shader.
struct Sums {
  vector: vec4<f32>,
  number: f32
}
