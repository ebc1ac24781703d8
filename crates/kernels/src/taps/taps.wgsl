// output[m] += sum over the four taps of m of weight * table[index].
//
// table    rows x sizes.vectors vec4, the last row is sizes.last       indices, weights  one vector for each row of output
// output   rows x sizes.vectors vec4
// A workgroup of 64 computes one row. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m = workgroup.y;
  if (m < step.rows) {
    let at = min(indices[m], vec4<u32>(sizes.last)) * sizes.vectors;
    let weight = weights[m];
    for (var i = lane; i < sizes.vectors; i += 64u) {
      output[m * sizes.vectors + i] += weight.x * table[at.x + i] + weight.y * table[at.y + i] + weight.z * table[at.z + i] + weight.w * table[at.w + i];
    }
  }
}
