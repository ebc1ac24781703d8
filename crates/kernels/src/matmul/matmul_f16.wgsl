// The product of matmul.wgsl in f16. Input and weights are rounded to f16 when they are staged, which halves the workgroup memory and its
// loads. The products of eight columns are summed in f16, these sums in f32. Weights are staged along their rows, so that a vector holds
// four columns of the output and no sum crosses a vector. Inputs outside the range of f16 are clamped to it.
//
// A workgroup of 64 computes a tile of 64 rows x 64 weight rows, an invocation 8 x 8 of it, placed as in matmul.wgsl. Lines with $s are
// repeated for its 8 rows, those with $q for its 2 vectors of columns, those with $k for the 8 vectors of a block, those with $e for 8 values
// along k, those with $v for 2 vectors of a quarter. Dispatch: x = ceil(sizes.rows / 64), y = ceil(step.rows / 64). Workgroup memory: 8 KiB.

const LARGEST_HALF: f32 = 65504.0;

var<workgroup> input_tile: array<vec4<f16>, 512>;   // [8 vectors along k][64 rows]
var<workgroup> weight_tile: array<vec4<f16>, 512>;  // [32 values along k][2 vectors of columns][8 invocations along x]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * 64u;
  let first_m = workgroup.y * 64u;
  let tx = lane & 7u;
  let ty = lane >> 3u;
  // This lane stages a row of the input, and a quarter of the block of each of the four weight rows that make one vector of columns.
  // Rows past the last are replaced by the last; their results are not stored.
  let input_row = min(first_m + lane, step.rows - 1u) * sizes.blocks;
  let vector = lane & 15u;
  let quarter = lane >> 4u;
  let last = sizes.rows - 1u;
  let n = first_n + (vector >> 3u) * 32u + (vector & 7u) * 2u;
  let n0 = min(n, last);
  let n1 = min(n + 1u, last);
  let n2 = min(n + 16u, last);
  let n3 = min(n + 17u, last);
  var acc$s_$q = vec4<f32>(0.0);
  for (var block = 0u; block < sizes.blocks; block++) {
    let a = load_quarter(n0, block, sizes.blocks, quarter);
    let b = load_quarter(n1, block, sizes.blocks, quarter);
    let c = load_quarter(n2, block, sizes.blocks, quarter);
    let d = load_quarter(n3, block, sizes.blocks, quarter);
    let at$v = (quarter * 8u + $vu * 4u) * 16u + vector;
    weight_tile[at$v] = vec4<f16>(vec4<f32>(a[$v].x, b[$v].x, c[$v].x, d[$v].x));
    weight_tile[at$v + 16u] = vec4<f16>(vec4<f32>(a[$v].y, b[$v].y, c[$v].y, d[$v].y));
    weight_tile[at$v + 32u] = vec4<f16>(vec4<f32>(a[$v].z, b[$v].z, c[$v].z, d[$v].z));
    weight_tile[at$v + 48u] = vec4<f16>(vec4<f32>(a[$v].w, b[$v].w, c[$v].w, d[$v].w));
    input_tile[$ku * 64u + lane] = vec4<f16>(clamp(input[(input_row + block) * 8u + $ku], vec4<f32>(-LARGEST_HALF), vec4<f32>(LARGEST_HALF)));
    workgroupBarrier();
    for (var k = 0u; k < 512u; k += 128u) {
      let w$q_$e = weight_tile[k + tx + $qu * 8u + $eu * 16u];
      let x$s = input_tile[k + ty + $su * 8u];
      let y$s = input_tile[k + 64u + ty + $su * 8u];
      acc$s_$q += vec4<f32>(x$s.x * w$q_0 + x$s.y * w$q_1 + x$s.z * w$q_2 + x$s.w * w$q_3 + y$s.x * w$q_4 + y$s.y * w$q_5 + y$s.z * w$q_6 + y$s.w * w$q_7);
    }
    workgroupBarrier();
  }
  store_tile(first_m + ty, first_n + tx * 2u, array<vec4<f32>, LANE_ROWS * LANE_VECTORS>(
    acc$s_$q,
  ));
}
