// The product of matvec.wgsl with the output of quantize.wgsl: the inner product of a block is an exact sum of integers, multiplied by both scales.
//
// Lines with $r are repeated for the 8 rows. Dispatch and workgroup memory: see matvec.wgsl.

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  lane: Lane
) {
  let first = (workgroup.x + workgroup.y * workgroups.x) * 8u;
  let last = sizes.rows - 1u;
  let row$r = min(first + $ru, last);
  var acc$r = 0.0;
  for (var block = lane.index; block < sizes.blocks; block += LANES) {
    let stored$r = stored_block(row$r, block, sizes.blocks);
    let bits$r = block_scale_bits(row$r, block, sizes.blocks);
    let x0 = input[block * 3u];
    let x1 = input[block * 3u + 1u];
    let x = input[block * 3u + 2u];
    let scale = bitcast<f32>(x.x);
    acc$r += stored_packed_dot(stored$r, bits$r, bitcast<i32>(x.y), x0, x1) * (scale_from(bits$r) * scale);
  }
  let summed = workgroup_sums(vec4<f32>(acc0, acc1, acc2, acc3), vec4<f32>(acc4, acc5, acc6, acc7), 0.0, lane);
  if (lane.index < 2u) {
    let sums = summed.vector;
    let n = first + lane.index * 4u;
    store_pair(0u, n, sums.x, sums.y);
    store_pair(0u, n + 2u, sums.z, sums.w);
  }
}
