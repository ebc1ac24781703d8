// output[m] = weight[ids[m]] for the ids in this slice of the matrix, sizes.first_row .. sizes.first_row + sizes.rows.
//
// ids  rows u32      output  rows x blocks*8 vec4      weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of 64 writes one row, each lane blocks of 32. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m = workgroup.y;
  if (m < step.rows) {
    let id = ids[m];
    if (id >= sizes.first_row && id < sizes.first_row + sizes.rows) {
      for (var block = lane; block < sizes.blocks; block += 64u) {
        let w = load_block(id - sizes.first_row, block, sizes.blocks);
        let at = (m * sizes.blocks + block) * 8u;
        output[at] = w[0];
        output[at + 1u] = w[1];
        output[at + 2u] = w[2];
        output[at + 3u] = w[3];
        output[at + 4u] = w[4];
        output[at + 5u] = w[5];
        output[at + 6u] = w[6];
        output[at + 7u] = w[7];
      }
    }
  }
}
