// output = the attention of a row from sizes.splits slices of the context, head by head: the slices' sums divided by their totals, where sums
// and totals of a slice are multiplied by exp(largest score of the slice - largest score of all slices).
//
// partial  heads x sizes.splits x (VECTORS sums, then largest score and total), the output of decode.wgsl
// A workgroup of VECTORS computes one head. Dispatch: x = heads.

@compute @workgroup_size(VECTORS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = workgroup.x * sizes.splits * (VECTORS + 1u);
  var largest = -3.0e38;
  for (var i = 0u; i < sizes.splits; i++) {
    largest = max(largest, partial[head + i * (VECTORS + 1u) + VECTORS].x);
  }
  var total = 0.0;
  var acc = vec4<f32>(0.0);
  for (var i = 0u; i < sizes.splits; i++) {
    let slice = head + i * (VECTORS + 1u);
    let of_slice = partial[slice + VECTORS];
    // A slice without keys has a total of zero.
    if (of_slice.y > 0.0) {
      let factor = exp(of_slice.x - largest);
      total += of_slice.y * factor;
      acc += partial[slice + lane] * factor;
    }
  }
  output[workgroup.x * VECTORS + lane] = acc / total;
}
