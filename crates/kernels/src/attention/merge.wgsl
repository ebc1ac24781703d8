// output = the attention of a row from slices of the context, head by head: the slices' sums divided by their totals, where sums and totals of
// a slice are multiplied by exp(largest score of the slice - largest score of all slices).
//
// partial  heads x sizes.splits x (VECTORS sums, then largest score and total), the output of decode.wgsl; empty slices are not written
// A workgroup of VECTORS computes one head. Dispatch: x = heads.

@compute @workgroup_size(VECTORS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = workgroup.x * sizes.splits * (VECTORS + 1u);
  let slice = max((step.keys + sizes.splits - 1u) / sizes.splits, sizes.shortest);
  let slices = (step.keys + slice - 1u) / slice;
  var largest = -3.0e38;
  for (var i = 0u; i < slices; i++) {
    largest = max(largest, partial[head + i * (VECTORS + 1u) + VECTORS].x);
  }
  var total = 0.0;
  var acc = vec4<f32>(0.0);
  for (var i = 0u; i < slices; i++) {
    let at = head + i * (VECTORS + 1u);
    let of_slice = partial[at + VECTORS];
    let factor = exp(of_slice.x - largest);
    total += of_slice.y * factor;
    acc += partial[at + lane] * factor;
  }
  output[workgroup.x * VECTORS + lane] = acc / total;
}
