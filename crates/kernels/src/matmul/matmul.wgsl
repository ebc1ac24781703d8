// output[m, n] = epilogue(sum over k of input[m, k] * weight[n, k] + bias[n])
//
// input   rows x blocks*32 f32, as vec4            bias    f32, as many as weight rows (sizes.has_bias)
// output  rows x out_stride f32                    weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of 64 computes a tile of 64 rows x 64 weight rows, an invocation 8 x 8 of it. The columns of an invocation lie in adjacent
// pairs (SwiGLU multiplies the two of a pair), two pairs to a vector of sums. Lines with $s are repeated for its 8 rows, those with $q for
// its 2 vectors, those with $k for the 8 vectors of a block. Dispatch: x = ceil(sizes.rows / 64), y = ceil(step.rows / 64).
// Workgroup memory: 16 KiB.

var<workgroup> input_tile: array<vec4<f32>, 512>;   // [8 vectors along k][64 rows]
var<workgroup> weight_tile: array<vec4<f32>, 512>;  // [8 vectors along k][64 weight rows]

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * 64u;
  let first_m = workgroup.y * 64u;
  let tx = lane & 7u;
  let ty = lane >> 3u;
  // Lanes past the last row stage the last row again; their results are not stored.
  let weight_row = min(first_n + lane, sizes.rows - 1u);
  let input_row = min(first_m + lane, step.rows - 1u) * sizes.blocks;
  var acc$s_$q = vec4<f32>(0.0);
  for (var block = 0u; block < sizes.blocks; block++) {
    let w = load_block(weight_row, block, sizes.blocks);
    weight_tile[$ku * 64u + lane] = w[$k];
    input_tile[$ku * 64u + lane] = input[(input_row + block) * 8u + $ku];
    workgroupBarrier();
    for (var k = 0u; k < 512u; k += 64u) {
      let n = k + tx * 2u;
      let w$q_0 = weight_tile[n + $qu * 32u];
      let w$q_1 = weight_tile[n + $qu * 32u + 1u];
      let w$q_2 = weight_tile[n + $qu * 32u + 16u];
      let w$q_3 = weight_tile[n + $qu * 32u + 17u];
      let x$s = input_tile[k + ty + $su * 8u];
      acc$s_$q += dots(x$s, w$q_0, w$q_1, w$q_2, w$q_3);
    }
    workgroupBarrier();
  }
  store_tile(first_m + ty, first_n + tx * 2u, array<vec4<f32>, 16>(
    acc$s_$q,
  ));
}
