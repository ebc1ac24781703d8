// output = what the sizes.splits slices of the context give together, head by head: their sums, each times exp(its largest score - the largest of
// all), over their totals likewise.
//
// partial  heads x sizes.splits x (VECTORS sums, then largest and total), as decode.wgsl leaves it
// A workgroup of VECTORS does one head. Dispatch: x = heads.

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
