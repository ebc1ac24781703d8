// output[m, n] = epilogue(sum over k of input[m, k] * weight[n, k] + bias[n])
//
// input   rows x blocks*32 f32, as vec4            bias    f32, as many as weight rows (sizes.has_bias)
// output  rows x out_stride f32                    weight  rows x blocks*32, see weight_*.wgsl
// A workgroup computes a tile of 64 rows x 64 weight rows: ACROSS x ACROSS invocations, each SIDE x SIDE of it (ACROSS * SIDE = 64). The
// columns of an invocation lie in adjacent pairs (SwiGLU multiplies the two of a pair), two pairs to a vector of sums. Lines with $s are
// repeated for its SIDE rows, those with $q for its SIDE / 4 vectors, those with $h for the QUARTERS of a block of 32 that are staged at
// once. Dispatch: x = ceil(sizes.rows / 64), y = ceil(step.rows / 64). Workgroup memory: 4 KiB * QUARTERS.

const LANES: u32 = ACROSS * ACROSS;

const STAGED: u32 = QUARTERS * 128u;

var<workgroup> input_tile: array<vec4<f32>, STAGED>;   // [QUARTERS * 2 vectors along k][64 rows]
var<workgroup> weight_tile: array<vec4<f32>, STAGED>;  // [QUARTERS * 2 vectors along k][64 weight rows]

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * 64u;
  let first_m = workgroup.y * 64u;
  let tx = lane % ACROSS;
  let ty = lane / ACROSS;
  var acc$s_$q = vec4<f32>(0.0);
  for (var stage = 0u; stage < sizes.blocks * 4u; stage += QUARTERS) {
    let block = stage / 4u;
    for (var row = lane; row < 64u; row += LANES) {
      // Rows past the last stage that once more; what is computed of it is not stored.
      let n = min(first_n + row, sizes.rows - 1u);
      let x = (min(first_m + row, step.rows - 1u) * sizes.blocks * 4u + stage) * 2u;
      let w$h = load_quarter(n, block, sizes.blocks, stage % 4u + $hu);
      weight_tile[$hu * 128u + row] = w$h[0];
      weight_tile[$hu * 128u + 64u + row] = w$h[1];
      input_tile[$hu * 128u + row] = input[x + $hu * 2u];
      input_tile[$hu * 128u + 64u + row] = input[x + $hu * 2u + 1u];
    }
    workgroupBarrier();
    for (var k = 0u; k < STAGED; k += 64u) {
      let n = k + tx * 2u;
      let w$q_0 = weight_tile[n + $qu * ACROSS * 4u];
      let w$q_1 = weight_tile[n + $qu * ACROSS * 4u + 1u];
      let w$q_2 = weight_tile[n + $qu * ACROSS * 4u + ACROSS * 2u];
      let w$q_3 = weight_tile[n + $qu * ACROSS * 4u + ACROSS * 2u + 1u];
      let x$s = input_tile[k + ty + $su * ACROSS];
      acc$s_$q += dots(x$s, w$q_0, w$q_1, w$q_2, w$q_3);
    }
    workgroupBarrier();
  }
  store_tile(first_m + ty, first_n + tx * 2u, array<vec4<f32>, SIDE * SIDE / 4u>(
    acc$s_$q,
  ));
}
