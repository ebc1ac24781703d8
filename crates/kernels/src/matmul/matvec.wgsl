// output[n] = epilogue(sum over k of x[k] * weight[n, k] + bias[n]) for one row of input; with NORM, x is RMS-normalised first:
// x[k] = input[k] * norm_weight[k] / sqrt(mean of input^2 + sizes.epsilon). The root is a common factor, so one pass over the input is enough.
//
// input   1 x blocks*32 f32, as vec4               bias    f32, as many as weight rows (sizes.has_bias)
// output  f32                                      weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of 64 computes 4 weight rows, its lanes striding over the blocks of 32. Dispatch: ceil(sizes.rows / 4) workgroups, folded into
// x and y. Workgroup memory: 1.25 KiB.

var<workgroup> partial: array<vec4<f32>, 64>;
var<workgroup> partial_squares: array<f32, 64>;

fn block_dot(w: array<vec4<f32>, 8>, x: array<vec4<f32>, 8>) -> f32 {
  let sum = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3] + w[4] * x[4] + w[5] * x[5] + w[6] * x[6] + w[7] * x[7];
  return sum.x + sum.y + sum.z + sum.w;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32
) {
  let first = (workgroup.x + workgroup.y * workgroups.x) * 4u;
  let last = sizes.rows - 1u;
  var acc = vec4<f32>(0.0);
  var squares = 0.0;
  for (var block = lane; block < sizes.blocks; block += 64u) {
    let at = block * 8u;
    var x = array<vec4<f32>, 8>(
      input[at], input[at + 1u], input[at + 2u], input[at + 3u], input[at + 4u], input[at + 5u], input[at + 6u], input[at + 7u]);
    if (NORM) {
      squares += block_dot(x, x);
      x = normed_block(x, at);
    }
    acc.x += block_dot(load_block(min(first, last), block, sizes.blocks), x);
    acc.y += block_dot(load_block(min(first + 1u, last), block, sizes.blocks), x);
    acc.z += block_dot(load_block(min(first + 2u, last), block, sizes.blocks), x);
    acc.w += block_dot(load_block(min(first + 3u, last), block, sizes.blocks), x);
  }
  partial[lane] = acc;
  partial_squares[lane] = squares;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half >>= 1u) {
    if (lane < half) {
      partial[lane] += partial[lane + half];
      partial_squares[lane] += partial_squares[lane + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    var sums = partial[0];
    if (NORM) {
      sums *= inverseSqrt(partial_squares[0] / sizes.cols + sizes.epsilon);
    }
    store_pair(0u, first, sums.x, sums.y);
    store_pair(0u, first + 2u, sums.z, sums.w);
  }
}
