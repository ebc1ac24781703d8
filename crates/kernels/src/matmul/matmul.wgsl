// output[m, n] = epilogue(sum over k of input[m, k] * weight[n, k] + bias[n])
//
// input   rows x blocks*32 f32, as vec4            bias    f32, as many as weight rows (sizes.has_bias)
// output  rows x out_stride f32                    weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of 64 computes a tile of TILE rows x TILE weight rows: 64 x 64, an invocation 8 x 8 of it, or 32 x 32, an invocation 4 x 4. The
// columns of an invocation lie in adjacent pairs (SwiGLU multiplies the two of a pair), two pairs to a vector of sums. Lines with $s are
// repeated for its LANE_ROWS rows, those with $q for its LANE_VECTORS vectors, those with $k for the vectors that it stages of a block's 8, those
// with $h for pairs of these. INNER stands for matmul_inner.wgsl, once for each vector along k. Dispatch: x = ceil(sizes.rows / TILE), y = ceil(step.rows / TILE). Workgroup memory: 256 bytes * TILE.

var<workgroup> input_tile: array<vec4<f32>, 8u * TILE>;   // [8 vectors along k][TILE rows]
var<workgroup> weight_tile: array<vec4<f32>, 8u * TILE>;  // [8 vectors along k][TILE weight rows]

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * TILE;
  let first_m = workgroup.y * TILE;
  let tx = lane & 7u;
  let ty = lane >> 3u;
  // This lane stages a part of a row's block, a half if there are two lanes for each row. Lanes past the last row stage the last row again; their
  // results are not stored.
  let staged = lane % TILE;
  let part = lane / TILE;
  let weight_row = min(first_n + staged, sizes.rows - 1u);
  let input_row = min(first_m + staged, step.rows - 1u) * sizes.blocks;
  let at = part * 4u * TILE + staged;
  var acc$s_$q = vec4<f32>(0.0);
  for (var block = 0u; block < sizes.blocks; block++) {
    let w$h = load_quarter(weight_row, block, sizes.blocks, part * 2u + $hu);
    weight_tile[at + $hu * 2u * TILE] = w$h[0];
    weight_tile[at + $hu * 2u * TILE + TILE] = w$h[1];
    input_tile[at + $ku * TILE] = input[(input_row + block) * 8u + part * 4u + $ku];
    workgroupBarrier();
    INNER
    workgroupBarrier();
  }
  store_tile(first_m + ty, first_n + tx * 2u, array<vec4<f32>, LANE_ROWS * LANE_VECTORS>(
    acc$s_$q,
  ));
}
