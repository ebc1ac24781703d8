// output[n] = epilogue(sum over k of x[k] * weight[n, k] + bias[n]) for one row of input; with NORM, x is RMS-normalised first:
// x[k] = input[k] * norm_weight[k] / sqrt(mean of input^2 + sizes.epsilon). The root is a common factor, so one pass over the input suffices.
//
// input   1 x blocks*32 f32, as vec4               bias    f32, as many as weight rows (sizes.has_bias)
// output  f32                                      weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of LANES computes 8 weight rows, its lanes striding over the blocks of 32: a block of the input is loaded once for all eight.
// QUARTERS: a loop over quarters of a block, a third of the code, for adapters that are slow to compile.
// Lines with $i are repeated for the 8 vectors of a block, those with $r for the 8 rows. Dispatch: ceil(rows / 8) workgroups, folded into
// x and y. Workgroup memory: 36 bytes per lane, see reduce.wgsl.
// EARLY_LOADS: codes of 4 bits of all rows are loaded before the first is decoded, so that one latency of the memory passes for all.

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
  var squares = 0.0;
  for (var block = lane.index; block < sizes.blocks; block += LANES) {
    if (QUARTERS) {
      for (var quarter = 0u; quarter < 4u; quarter++) {
        let at = block * 8u + quarter * 2u;
        var a = input[at];
        var b = input[at + 1u];
        if (NORM) { squares += dot(a, a) + dot(b, b); a *= norm_at(at); b *= norm_at(at + 1u); }
        let w$r = load_quarter(row$r, block, sizes.blocks, quarter);
        let product$r = w$r[0] * a + w$r[1] * b;
        acc$r += product$r.x + product$r.y + product$r.z + product$r.w;
      }
    } else {
      let at = block * 8u;
      var x$i = input[at + $iu];
      if (NORM) { squares += dot(x$i, x$i); x$i *= norm_at(at + $iu); }
      var x_sums = vec4<f32>(0.0);
      x_sums += x$i;
      let x_sum = x_sums.x + x_sums.y + x_sums.z + x_sums.w;
      if (EARLY_LOADS) {
        let stored$r = stored_block(row$r, block, sizes.blocks);
        let bits$r = block_scale_bits(row$r, block, sizes.blocks);
        acc$r += stored_dot(stored$r, bits$r, x_sum, x0, x1, x2, x3, x4, x5, x6, x7) * scale_from(bits$r);
      } else {
        let bits$r = block_scale_bits(row$r, block, sizes.blocks);
        acc$r += stored_dot(stored_block(row$r, block, sizes.blocks), bits$r, x_sum, x0, x1, x2, x3, x4, x5, x6, x7) * scale_from(bits$r);
      }
    }
  }
  let summed = workgroup_sums(vec4<f32>(acc0, acc1, acc2, acc3), vec4<f32>(acc4, acc5, acc6, acc7), squares, lane);
  if (lane.index < 2u) {
    var sums = summed.vector;
    if (NORM) {
      sums *= inverseSqrt(summed.number / sizes.cols + sizes.epsilon);
    }
    let n = first + lane.index * 4u;
    store_pair(0u, n, sums.x, sums.y);
    store_pair(0u, n + 2u, sums.z, sums.w);
  }
}
