// output += other, each rows x sizes.vectors vec4. A workgroup of 64 computes one row. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (workgroup.y < step.rows) {
    let row = workgroup.y * sizes.vectors;
    for (var i = lane; i < sizes.vectors; i += 64u) {
      output[row + i] += other[row + i];
    }
  }
}
